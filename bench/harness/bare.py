"""A built-in strategy without supervision: the floor of a sweep.

Plain processes that share a grid and compute it with the product's own
kernels: without a warden, a journal, progress or a way to stop.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import partial

from bench.harness.chunk import BareChunk
from bench.harness.errors import NotMeasuredError
from bench.harness.processes import PlainProcesses
from supervisor.market.bars import Bars
from supervisor.rows.grid import Grid
from workers.catalog import STRATEGIES
from workers.numba_backtest import NumbaBacktest

_NUMBER = struct.Struct("<I")
_LEAST_PIECES, _MOST_PIECES = 4, 10_000  # for each process; all: their numbers fit into a pipe


def prepared(bars: Bars, grid: Grid, strategy: str) -> NumbaBacktest:
    """Build a backend and everything its workers share."""
    backtest = NumbaBacktest(bars, STRATEGIES[strategy].space(grid), strategy)
    backtest.prepare()
    return backtest


def bare_processes(bars: Bars, grid: Grid, strategy: str, n: int) -> Callable[[], PlainProcesses]:
    """Prepare what plain processes share; what is returned forks them.

    What is prepared is not counted in a run's ``elapsed_s`` either. They take batches as they
    go, from a pipe, so that none waits for a slower one: as many for each, where they are
    equally fast.
    """
    backtest = prepared(bars, grid, strategy)
    most, batches = _MOST_PIECES // n, -(-grid.size // (n * backtest.batch))
    n_pieces = n * min(max(batches, _LEAST_PIECES), most)
    edges = [grid.size * piece // n_pieces for piece in range(n_pieces + 1)]

    def compute(pipe: int) -> None:
        while number := os.read(pipe, _NUMBER.size):
            (piece,) = _NUMBER.unpack(number)
            backtest.evaluate(BareChunk(edges[piece], edges[piece + 1]))

    def fork() -> PlainProcesses:
        pipe, fill = os.pipe()
        try:
            os.write(fill, b"".join(map(_NUMBER.pack, range(n_pieces))))
        finally:
            os.close(fill)
        try:
            return PlainProcesses([partial(compute, pipe)] * n)
        finally:
            os.close(pipe)

    return fork


def reap(plain: PlainProcesses) -> None:
    """Wait for all processes.

    Raises
    ------
    NotMeasuredError
        If one has failed.
    """
    if any(plain.reap()):
        raise NotMeasuredError("a plain process failed")
