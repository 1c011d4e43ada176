"""The product's GPU backtests, used as a worker uses them: rows, rates, and how they stop."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.gpu.children import Nursery
from bench.gpu.grids import grid_of
from bench.gpu.shots import Turns
from bench.harness.chunk import BareChunk
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.bars import Bars
from supervisor.market.example import example_bars
from supervisor.rows.grid import Grid
from workers.backend import Backend
from workers.catalog import STRATEGIES

FEE = 0.0005


class Make(Protocol):
    """Builds a backend for a grid."""

    def __call__(self, bars: Bars, grid: Grid, strategy: str) -> Backend:
        """Return it, not yet prepared."""
        ...


def cupy_backtest(bars: Bars, grid: Grid, strategy: str, **options: Any) -> Backend:
    """Build the CUDA backtest."""
    from workers.cupy_backtest import CupyBacktest

    return CupyBacktest(bars, STRATEGIES[strategy].space(grid), strategy, fee=FEE, **options)


def torch_backtest(bars: Bars, grid: Grid, strategy: str, **options: Any) -> Backend:
    """Build the PyTorch backtest on the GPU."""
    from workers.torch_backtest import TorchBacktest

    space = STRATEGIES[strategy].space(grid)
    return TorchBacktest(bars, space, strategy, fee=FEE, device="cuda", **options)


MAKERS: dict[str, Make] = {"cupy": cupy_backtest, "torch": torch_backtest}


class Swept(NamedTuple):
    """A grid that was computed.

    Attributes
    ----------
    rows : ndarray of float64, shape (n_combos, n_columns)
        All rows, in the grid's order.
    took_s : float
        By the clock on the wall, from the call to the last row kept.
    """

    rows: NDArray[np.float64]
    took_s: float


def started(stack: str, bars: Bars, grid: Grid, strategy: str, **options: Any) -> Backend:
    """Build a backend, prepare it, and open the device in this process."""
    backtest = MAKERS[stack](bars, grid, strategy, **options)
    backtest.prepare()
    backtest.start()
    return backtest


def swept(backtest: Backend, n: int, flag: StopFlag, cuts: tuple[int, ...] = ()) -> Swept:
    """Compute combinations 0 to ``n``, in chunks cut at the given indices."""
    rows: list[NDArray[np.float64]] = []
    edges = [0, *cuts, n]
    begun = time.perf_counter()
    for start, stop in pairwise(edges):
        chunk = BareChunk(start, stop, flag)
        backtest.evaluate(chunk)
        rows += chunk.rows
    took_s = time.perf_counter() - begun
    return Swept(np.concatenate(rows), took_s)


def listen(
    nursery: Nursery, slot: int, *, shots: int, stack: str, strategy: str, combos: int, bars: int
) -> None:
    """Compute a large grid until stopped, again and again; a worker's body."""
    data = example_bars(bars)
    backtest = started(stack, data, grid_of(strategy, combos), strategy)
    swept(backtest, min(1000, combos), StopFlag())
    turns = Turns(nursery, slot, shots)
    for _ in turns:
        turns.begun()
        start = 0
        while not nursery.flag.is_set():
            start = backtest.evaluate(BareChunk(start % combos, combos, nursery.flag))
        turns.over()
    os._exit(0)
