"""Cancels the outstanding jobs that dead processes have left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from slurm.cancel import Cancelled, cancel
from slurm.connect import connect
from slurm.controller.calls import Cluster
from slurm.lease import remove_lease
from slurm.records.book import Book, Keeper
from slurm.records.outstanding import OutstandingJobs
from supervisor.errors import AllstopError, ConfigError
from supervisor.records import rundir
from supervisor.records.ledger import read_ledger


def cancel_outstanding(
    jobs: OutstandingJobs,
    *,
    patience_s: float | None = None,
    pause: Callable[[float], bool] | None = None,
) -> Cancelled:
    """Cancel all jobs of a token, see them gone, and remove their record.

    Jobs that cannot be cancelled now stay outstanding. The ledger may have been deleted
    with its directory: the token alone is enough.

    Parameters
    ----------
    jobs : OutstandingJobs
        The jobs. Their owner is dead, or has requested this.
    patience_s : float
        How long to keep trying, in s; see :func:`slurm.cancel.cancel`.
    pause : callable, optional
        See :func:`slurm.cancel.cancel`.
    """
    try:
        transport = connect(jobs.address, jobs.variables)
        with closing(Keeper(_ledger_of(jobs))) as keeper, closing(transport):
            if keeper.book.token != jobs.token:  # killed before the first record, or deleted
                keeper.expect(jobs.token, jobs.address, jobs.variables, others=True)
            elif not keeper.book.outstanding:
                jobs.remove()
                return Cancelled([], None, 0)
            cluster = Cluster(transport)
            cancelled = cancel(cluster, keeper, patience_s=patience_s, pause=pause)
            if not keeper.book.outstanding:
                remove_lease(cluster, jobs.token)
                jobs.remove()
                jobs.spare_ledger.unlink(missing_ok=True)
            return cancelled
    except (AllstopError, OSError) as error:
        return Cancelled([], str(error), 0)


def _ledger_of(jobs: OutstandingJobs) -> Path:
    """The ledger to continue: the spare one if the run's is gone, or is another run's by now."""
    if not jobs.ledger.parent.is_dir():
        return jobs.spare_ledger
    try:
        rundir.check_own(jobs.ledger.parent)
        token = Book.of(read_ledger(jobs.ledger)).token
    except ConfigError:  # others may have written it: our own record has the token
        return jobs.spare_ledger
    return jobs.ledger if token in ("", jobs.token) else jobs.spare_ledger
