"""The life of the cluster jobs that belong to a run.

``slurm.Client`` submits, watches and cancels; ``slurm.Job`` describes what to
submit. They are loaded when first asked for: the front asks only where there is
a cluster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm.batch.job import Job
    from slurm.cancel import Cancelled, JobOutcome
    from slurm.client import Client
    from slurm.connect import connect
    from slurm.local import LocalTransport
    from slurm.ssh.transport import SshTransport

_HOMES = {
    "Cancelled": "slurm.cancel",
    "Client": "slurm.client",
    "Job": "slurm.batch.job",
    "JobOutcome": "slurm.cancel",
    "LocalTransport": "slurm.local",
    "SshTransport": "slurm.ssh.transport",
    "connect": "slurm.connect",
}

__all__ = [
    "Cancelled", "Client", "Job", "JobOutcome", "LocalTransport", "SshTransport", "connect",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
