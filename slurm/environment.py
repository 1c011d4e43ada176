"""Variables that would make SLURM's commands answer another question than the one asked."""

from __future__ import annotations

from collections.abc import Mapping

# what a user, or the job we are in, has set for these commands would change their answers
FOREIGN = ("SBATCH_", "SCANCEL_", "SQUEUE_", "SCONTROL_", "SACCT_", "SINFO_", "SLURM_")
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")
LOCALE = "C.UTF-8"


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which SLURM's commands do what their arguments say."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in KEPT or not name.startswith(FOREIGN)
    }
    return kept | {"LC_ALL": LOCALE}
