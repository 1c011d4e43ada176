"""Environment variables that would change what SLURM's commands do."""

from __future__ import annotations

from collections.abc import Mapping

# set by a user, or by the job that we run in, they act as options of the commands
FOREIGN = ("SBATCH_", "SCANCEL_", "SQUEUE_", "SCONTROL_", "SACCT_", "SINFO_", "SLURM_")
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")
LOCALE = "C.UTF-8"


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which SLURM's commands obey their arguments alone."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in KEPT or not name.startswith(FOREIGN)
    }
    return kept | {"LC_ALL": LOCALE}
