"""SLURM jobs of a run: submitted, watched, cancelled and seen gone.

The verbs are modules at the top: :mod:`~slurm.submit`, :mod:`~slurm.look`,
:mod:`~slurm.cancel`, :mod:`~slurm.reconcile`, :mod:`~slurm.lease`, and the ``sbatch``
:mod:`~slurm.shim`. :mod:`~slurm.client` joins them, and :mod:`~slurm.watch` runs a client
in a thread. :mod:`~slurm.transport` is the port through which SLURM's commands are run;
:mod:`~slurm.local` and :mod:`slurm.ssh` are the two ways there.

Below the verbs are :mod:`slurm.records` (what is known of jobs, and written down),
:mod:`slurm.batch` (what is submitted) and :mod:`slurm.controller` (calls to SLURM).

``slurm.Client`` and ``slurm.Job`` are loaded when they are first used, because a front
needs them only where there is a cluster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm.batch.job import Job
    from slurm.cancel import Cancelled
    from slurm.client import Client
    from slurm.connect import connect
    from slurm.local import LocalTransport
    from slurm.records.outcome import JobOutcome
    from slurm.ssh.transport import SshTransport

_HOMES = {
    "Cancelled": "slurm.cancel",
    "Client": "slurm.client",
    "Job": "slurm.batch.job",
    "JobOutcome": "slurm.records.outcome",
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
