"""A built-in strategy without supervision: the floor of a sweep.

Plain processes, each computing an equal share of the grid with the product's
own kernels: no warden, no journal, no progress, nobody to stop them.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import NotMeasuredError
from bench.processes import PlainProcesses
from supervisor.bars import Bars
from supervisor.grid import Grid
from supervisor.stopflag import StopFlag
from workers.numba_backtest import NumbaBacktest


class BareChunk:
    """A chunk without supervision: its rows go nowhere (see :class:`workers.backend.Chunk`)."""

    def __init__(
        self,
        start: int,
        stop: int,
        flag: StopFlag | None = None,
        progress: NDArray[np.int64] | None = None,
    ) -> None:
        self.start = start
        self.stop = stop
        self.stop_flag = flag or StopFlag()
        self.flag: NDArray[np.int64] = self.stop_flag.array
        self.progress = np.zeros(1, np.int64) if progress is None else progress
        self.rows: list[NDArray[np.float64]] = []
        self.checkpoints = Path("/nonexistent")

    def stop_requested(self) -> bool:
        """Whether a stop was requested."""
        return self.stop_flag.is_set()

    def keep(self, start: int, columns: tuple[str, ...], rows: NDArray[np.float64]) -> None:
        """Keep the rows in memory."""
        self.rows.append(rows)

    def keep_failed(self, index: int, error: str) -> None:
        """Do not go on: nothing may fail here."""
        raise ValueError(f"combination {index}: {error}")


def prepared(bars: Bars, grid: Grid, strategy: str) -> NumbaBacktest:
    """Build a backend and everything its workers share."""
    backtest = NumbaBacktest(bars, grid, strategy)
    backtest.prepare()
    return backtest


def bare_seconds(bars: Bars, grid: Grid, strategy: str, n_processes: int) -> float:
    """Return how long plain processes take to compute a grid, from fork to reaped, in s.

    What is shared is prepared before and not counted, as it is not counted in a run's
    ``elapsed_s``. One process needs no fork: it is this one.
    """
    backtest = prepared(bars, grid, strategy)
    edges = [grid.size * part // n_processes for part in range(n_processes + 1)]
    chunks = [BareChunk(*edge) for edge in pairwise(edges)]
    begun = time.monotonic()
    if n_processes == 1:
        backtest.evaluate(chunks[0])
        return time.monotonic() - begun
    with PlainProcesses([partial(backtest.evaluate, chunk) for chunk in chunks]) as plain:
        if any(plain.reap()):
            raise NotMeasuredError("a plain process failed")
        return time.monotonic() - begun
