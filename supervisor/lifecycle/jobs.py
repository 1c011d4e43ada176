"""The cluster jobs of runs: list them with their states, and cancel them on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from slurm.cancel import cancel
from slurm.connect import connect
from slurm.controller.calls import Cluster
from slurm.look import look
from slurm.records.book import Keeper
from slurm.records.outcome import JobOutcome, outcomes
from slurm.records.outstanding import all_outstanding, recorded_way
from supervisor.errors import AllstopError
from supervisor.lifecycle.copies import refuse_copy
from supervisor.records import registry, rundir


class JobsSeen(NamedTuple):
    """The jobs of one ledger, as the cluster shows them.

    Attributes
    ----------
    jobs : list of JobOutcome
        The jobs with their last known states.
    error : str or None
        Why the states are not certain; None: they are.
    """

    jobs: list[JobOutcome]
    error: str | None


def see_jobs(run: str | None) -> Iterator[JobsSeen]:
    """Look at the jobs of a run, or at those of all ledgers with outstanding jobs.

    Parameters
    ----------
    run : str or None
        Id or directory of a run.
    """
    for ledger in _ledgers(run):
        yield _visit(ledger, cancelling=False)


def cancel_jobs(run: str | None) -> Iterator[JobsSeen]:
    """Cancel the jobs that :func:`see_jobs` lists, detached ones too; wait until they are gone."""
    for ledger in _ledgers(run):
        refuse_copy(ledger.parent)
        yield _visit(ledger, cancelling=True)


def _ledgers(run: str | None) -> list[Path]:
    if run is None:
        found = [outstanding.ledger for outstanding in all_outstanding()]
    else:
        found = [registry.find_dir(run) / rundir.LEDGER_FILE]
    return [ledger for ledger in found if ledger.exists()]


def _visit(ledger: Path, *, cancelling: bool) -> JobsSeen:
    try:
        rundir.check_own(ledger.parent)
        with closing(Keeper(ledger)) as keeper:
            return _look(ledger, keeper, cancelling=cancelling)
    except (AllstopError, OSError) as error:  # the other ledgers are still to be looked at
        return JobsSeen([], str(error))


def _look(ledger: Path, keeper: Keeper, *, cancelling: bool) -> JobsSeen:
    book = keeper.book
    try:
        way = recorded_way(ledger, book.token) or (book.address, book.variables)
        with closing(connect(*way)) as transport:
            cluster = Cluster(transport)
            if cancelling:
                cancelled = cancel(cluster, keeper)
                return JobsSeen(cancelled.jobs, cancelled.error)
            look(cluster, keeper)
    except AllstopError as error:
        return JobsSeen(outcomes(keeper.book), str(error))
    return JobsSeen(outcomes(keeper.book), None)
