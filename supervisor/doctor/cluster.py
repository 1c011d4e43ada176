"""The cluster, and the SSH connection to it."""

from __future__ import annotations

import importlib.util
import shutil

from supervisor.doctor.ask import output_of
from supervisor.doctor.finding import Finding, Status
from supervisor.doctor.software import version_of
from supervisor.system.install import advice

_SLURM = ("sbatch", "squeue", "scancel", "scontrol")


def slurm() -> Finding:
    """Check the commands of a cluster's login node."""
    found = [name for name in _SLURM if shutil.which(name)]
    if not found:
        return Finding(
            "SLURM", Status.INFO, "not found: jobs cannot be submitted from this machine"
        )
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
        return Finding(
            "SLURM",
            Status.WARNING,
            f"sbatch --version fails: {said}",
            "set SLURM_CONF, or ask your site's support",
        )
    answered, answer = output_of("squeue", "--noheader", "--me")
    if answered != 0:
        return Finding(
            "SLURM",
            Status.WARNING,
            f"{said}, but the controller does not answer: {answer}",
            "set SLURM_CONF, or ask your site's support whether slurmctld and munge run",
        )
    return Finding("SLURM", Status.OK, f"{said}; the controller answers")


def outstanding_jobs() -> Finding:
    """Check for cluster jobs whose run died before it saw them gone."""
    from slurm.records.outstanding import all_outstanding

    outstanding = list(all_outstanding())
    orphaned = [jobs.token for jobs in outstanding if jobs.owner.dead]
    if orphaned:
        return Finding(
            "cluster jobs",
            Status.WARNING,
            f"{len(orphaned)} dead run(s) may have left jobs: {', '.join(orphaned[:3])}",
            "allstop reap cancels them and waits until they are gone; allstop jobs lists them",
        )
    alive = f"{len(outstanding)} run(s) with jobs, all supervised" if outstanding else "none"
    return Finding("cluster jobs", Status.OK, alive)


def ssh() -> Finding:
    """Check what an SSH connection to a cluster needs."""
    client = shutil.which("ssh")
    said = output_of("ssh", "-V")[1] if client else "no ssh client"
    if importlib.util.find_spec("paramiko") is None:
        return Finding(
            "SSH",
            Status.INFO,
            f"{said}; paramiko is not installed: clusters cannot be reached by SSH",
            advice("slurm"),
        )
    return Finding("SSH", Status.OK, f"{said}; paramiko {version_of('paramiko')}")
