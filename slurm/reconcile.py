"""The ledger against the cluster: works off what dead processes have left owed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from slurm.cancel import Cancelled, cancel
from slurm.connect import connect
from slurm.controller.calls import Cluster
from slurm.lease import remove_lease
from slurm.records.book import Book, Keeper
from slurm.records.outstanding import Debt
from supervisor.errors import AllstopError
from supervisor.records.ledger import read_ledger


def work_off(
    debt: Debt,
    *,
    patience_s: float | None = None,
    pause: Callable[[float], bool] | None = None,
) -> Cancelled:
    """Cancel all jobs of a debt, see them gone, and strike it off.

    What cannot be done now stays owed. The ledger may have been deleted with its
    directory: the token alone is enough.

    Parameters
    ----------
    debt : Debt
        The debt. Its owner is dead, or has asked for this.
    patience_s : float
        How long to go on, in s; see :func:`slurm.cancel.cancel`.
    pause : callable, optional
        See :func:`slurm.cancel.cancel`.
    """
    try:
        transport = connect(debt.address, debt.variables)
        with closing(Keeper(_ledger_of(debt))) as keeper, closing(transport):
            if keeper.book.token != debt.token:  # killed before the first record, or deleted
                keeper.expect(debt.token, debt.address, debt.variables, others=True)
            elif not keeper.book.owes:
                debt.strike()
                return Cancelled([], None, 0)
            cluster = Cluster(transport)
            cancelled = cancel(cluster, keeper, patience_s=patience_s, pause=pause)
            if not keeper.book.owes:
                remove_lease(cluster, debt.token)
                debt.strike()
                debt.spare_ledger.unlink(missing_ok=True)
            return cancelled
    except (AllstopError, OSError) as error:
        return Cancelled([], str(error), 0)


def _ledger_of(debt: Debt) -> Path:
    """Where to write on: not where the directory is gone, or another run's by now."""
    if not debt.ledger.parent.is_dir():
        return debt.spare_ledger
    token = Book.of(read_ledger(debt.ledger)).token
    return debt.ledger if token in ("", debt.token) else debt.spare_ledger
