"""The protocol between the worker's loop and the backend that computes a chunk.

A backend is used in three steps:

1. it is built and :meth:`~Backend.prepare`-d in the warden, once per run and
   before any worker is forked, so that what it computes there (prefix sums,
   compiled kernels) is shared by every worker, replacements included;
2. :meth:`~Backend.start` runs in each worker right after the fork: the only
   place where foreign code may be imported or a device be opened;
3. :meth:`~Backend.evaluate` computes one range of combinations after another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from supervisor.ipc.stopflag import StopFlag


class Chunk(Protocol):
    """What a worker offers a backend while it computes one range of combinations.

    Attributes
    ----------
    start, stop : int
        Combinations ``start`` to ``stop`` (exclusive) of the grid.
    stop_flag : StopFlag
        The run's stop flag.
    flag : ndarray of int64, shape (8,)
        The stop flag's line. Element 0 is non-zero once a stop is requested;
        compiled code reads it with :func:`workers.poll.stop_requested`.
    checkpoints : Path
        Directory where unfinished combinations keep their state.
    progress : ndarray of int64, shape (1,)
        Shared counter: raise it by one for each accepted combination finished.
    """

    start: int
    stop: int
    stop_flag: StopFlag
    checkpoints: Path
    flag: NDArray[np.int64]
    progress: NDArray[np.int64]

    def stop_requested(self) -> bool:
        """Whether a stop was requested; costs tens of nanoseconds."""
        ...

    def keep(
        self,
        start: int,
        columns: tuple[str, ...],
        rows: NDArray[np.float64],
        *,
        stop: int | None = None,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        """Append finished rows to the journal: they survive whatever comes next.

        Parameters are those of :meth:`supervisor.rows.journal.JournalWriter.append`. Where
        no combination from ``start`` to ``stop`` is accepted there are no rows, and the
        range is recorded as finished nevertheless.
        """
        ...

    def keep_value(self, metric: str, kind: str, value: str | int) -> float:
        """Write a metric that is no number; return what stands for it in a row.

        See :mod:`supervisor.rows.cells`.
        """
        ...

    def remark(self, text: str) -> None:
        """Have the report mention something, once however many workers say it."""
        ...

    def keep_failed(self, index: int, error: str) -> None:
        """Record combination ``index`` as failed; the sweep continues."""
        ...


class Backend(Protocol):
    """Computes combinations of one strategy over one set of bars.

    Attributes
    ----------
    batch : int
        Combinations that are best computed at once.
    """

    batch: int

    def prepare(self) -> None:
        """Compute what all workers share. Runs in the warden: no threads, no device."""
        ...

    def start(self) -> None:
        """Make this worker ready. Runs in the worker, after the fork."""
        ...

    def evaluate(self, chunk: Chunk) -> int:
        """Compute a chunk and keep its rows; return the first index *not* finished.

        Returns ``chunk.stop`` unless a stop was requested, in which case
        everything before the returned index has been kept. A row depends on
        its own combination alone: bit for bit the same in whatever chunk it is
        computed, since a resumed run must equal an uninterrupted one.
        """
        ...
