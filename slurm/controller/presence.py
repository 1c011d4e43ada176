"""Whether there is a cluster to submit to from here.

SLURM's commands may be installed where no cluster is configured: then a command that
is supervised should not notice us.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ASK_S = 2.0

# slurm.conf(5), and where distributions put it; the last one is a configless node's
_PLACES = (
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/usr/local/etc/slurm.conf",
    "/run/slurm/conf/slurm.conf",
)


def cluster_within_reach(environment: Mapping[str, str]) -> bool:
    """Whether a program with this environment could submit jobs.

    Looks for the commands and their configuration; only where the latter is not
    found, SLURM is asked, for it may know it from elsewhere (DNS).
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
