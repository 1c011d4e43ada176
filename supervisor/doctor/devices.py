"""What lies beyond this process: the GPU, the cluster, the way there."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil

from supervisor.doctor.ask import output_of
from supervisor.doctor.finding import Finding, Status
from supervisor.doctor.software import version_of

_SLURM = ("sbatch", "squeue", "scancel", "scontrol")


def cuda() -> Finding:
    """An NVIDIA driver, what it drives, and what could compute on it."""
    smi = shutil.which("nvidia-smi")
    driver = _has_driver()
    if not driver and not smi:
        return Finding("CUDA", Status.INFO, "not found: runs compute on the CPU")
    if not driver:
        return Finding(
            "CUDA",
            Status.WARNING,
            "nvidia-smi is there, but libcuda.so.1 is not",
            "install the NVIDIA driver, or pass it into the container (--gpus all)",
        )
    code, said = output_of(smi, "-L") if smi else (-1, "")
    devices = said if code == 0 and said else f"libcuda is there; nvidia-smi: {said or 'not found'}"
    cupy = importlib.util.find_spec("cupy") is not None
    return Finding(
        "CUDA",
        Status.OK if code == 0 else Status.WARNING,
        f"{devices}; cupy {'is' if cupy else 'is not'} installed",
        "" if cupy else "pip install 'allstop[cuda12]' (or cuda13) for strategies that use cupy",
    )


def slurm() -> Finding:
    """The commands of a cluster's login node."""
    found = [name for name in _SLURM if shutil.which(name)]
    if not found:
        return Finding("SLURM", Status.INFO, "not found: no jobs can be sent from this machine")
    missing = sorted(set(_SLURM) - set(found))
    if missing:
        return Finding(
            "SLURM",
            Status.WARNING,
            f"{', '.join(found)} found, but not {', '.join(missing)}",
            "put all of SLURM's commands on PATH",
        )
    code, said = output_of("sbatch", "--version")
    if code != 0:
        return Finding("SLURM", Status.WARNING, f"sbatch --version: {said}", "ask your site")
    answered, answer = output_of("squeue", "--noheader", "--me")
    if answered != 0:
        return Finding(
            "SLURM",
            Status.WARNING,
            f"{said}, but the controller does not answer: {answer}",
            "set SLURM_CONF, or ask your site whether slurmctld and munge are up",
        )
    return Finding("SLURM", Status.OK, f"{said}, its controller answers")


def owed_jobs() -> Finding:
    """Cluster jobs of processes that died before they had seen them gone."""
    from slurm.records.outstanding import all_outstanding

    owed = list(all_outstanding())
    orphaned = [debt.token for debt in owed if not debt.owner.alive]
    if orphaned:
        return Finding(
            "cluster jobs",
            Status.WARNING,
            f"{len(orphaned)} run(s) died and may have left jobs: {', '.join(orphaned[:3])}",
            "allstop reap cancels them and sees them gone; allstop jobs lists them",
        )
    alive = f"{len(owed)} run(s) with jobs are being looked after" if owed else "none"
    return Finding("cluster jobs", Status.OK, alive)


def ssh() -> Finding:
    """The way to a cluster's login node."""
    client = shutil.which("ssh")
    said = output_of("ssh", "-V")[1] if client else "no ssh client"
    if importlib.util.find_spec("paramiko") is None:
        return Finding(
            "SSH",
            Status.INFO,
            f"{said}; paramiko is not installed: no cluster can be reached by SSH",
            "pip install 'allstop[slurm]'",
        )
    return Finding("SSH", Status.OK, f"{said}; paramiko {version_of('paramiko')}")


def _has_driver() -> bool:
    """Whether the driver's library loads; loading alone opens no device."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
