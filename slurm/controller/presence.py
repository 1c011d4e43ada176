"""Whether a cluster can be reached from this machine.

SLURM's commands may be installed where no cluster is configured; a supervised command
is then run as if they were not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ASK_S = 2.0

# slurm.conf(5), and where distributions put it; the last is that of a configless node
_PLACES = (
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/usr/local/etc/slurm.conf",
    "/run/slurm/conf/slurm.conf",
)


def cluster_within_reach(environment: Mapping[str, str]) -> bool:
    """Whether a program with this environment could submit jobs.

    Looks for the commands and their configuration. Only if there is no configuration file,
    the controller is asked, because SLURM may find it by DNS.
    """
    sbatch = shutil.which("sbatch", path=environment.get("PATH", os.defpath))
    if sbatch is None:
        return False
    beside = Path(sbatch).resolve().parent.parent / "etc" / "slurm.conf"
    if "SLURM_CONF" in environment or any(Path(place).exists() for place in (*_PLACES, beside)):
        return True
    try:
        asked = subprocess.run(
            ["scontrol", "show", "config"],
            env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=_ASK_S, check=False, start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0
