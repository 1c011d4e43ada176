"""A chunk as a backend sees one, without a worker around it, and bars to compute it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supervisor.rows.cells import reference
from supervisor.rows.grid import Grid
from workers.catalog import STRATEGIES
from workers.numba_backtest import NumbaBacktest


@dataclass
class FakeChunk:
    """Implements :class:`workers.backend.Chunk`; what is kept is kept in lists."""

    start: int
    stop: int
    flag: NDArray[np.int64] = field(default_factory=lambda: np.zeros(8, np.int64))
    progress: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    kept: list[tuple[int, tuple[str, ...], NDArray[np.float64]]] = field(default_factory=list)
    indices: list[NDArray[np.int64]] = field(default_factory=list)
    checkpoints: Path = Path("/nonexistent")
    failed: list[tuple[int, str]] = field(default_factory=list)
    values: list[tuple[str, str, str | int]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def stop_requested(self) -> bool:
        return bool(self.flag[0] != 0)

    def keep(
        self,
        start: int,
        columns: tuple[str, ...],
        rows: NDArray[np.float64],
        *,
        stop: int | None = None,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        stop = start + len(rows) if stop is None else stop
        self.kept.append((start, columns, rows))
        self.indices.append(np.arange(start, stop) if indices is None else indices)

    def keep_value(self, metric: str, kind: str, value: str | int) -> float:
        self.values.append((metric, kind, value))
        return reference(len(self.values) - 1)

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def keep_failed(self, index: int, error: str) -> None:
        self.failed.append((index, error))

    @property
    def rows(self) -> NDArray[np.float64]:
        return np.concatenate([rows for _, _, rows in self.kept])


@dataclass(eq=False)
class FakeBars:
    """The attributes of :class:`Bars` that backtests use; arrays are read-only."""

    close: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    bars_per_year: float = 525_600.0

    @classmethod
    def of(cls, close: object, spread: float = 0.0) -> FakeBars:
        """Bars with these closes, reaching `spread` above and below."""
        prices = np.array(close, dtype=np.float64)
        columns = prices, prices + spread, prices - spread
        for column in columns:
            column.flags.writeable = False
        return cls(*columns)

    @classmethod
    def walk(
        cls, n: int, seed: int = 0, decimals: int = 5, step: float = 1e-3, spread: float = 5e-4
    ) -> FakeBars:
        """A random walk around 1.1; few decimals make for many ties."""
        rng = np.random.default_rng(seed)
        close = np.round(1.1 * np.exp(np.cumsum(rng.normal(0, step, n))), decimals)
        bars = cls.of(close)
        bars.high = np.round(close + spread * rng.random(n), decimals + 1)
        bars.low = np.round(close - spread * rng.random(n), decimals + 1)
        return bars


def backtest_all(
    bars: FakeBars, grid: Grid, strategy: str, cuts: tuple[int, ...] = (), **options: object
) -> NDArray[np.float64]:
    """Rows of a whole grid, computed in chunks that are cut at the given indices.

    A combination that the strategy does not accept has NaN.
    """
    space = STRATEGIES[strategy].space(grid)
    backend = NumbaBacktest(bars, space, strategy, **options)  # type: ignore[arg-type]
    backend.prepare()
    backend.start()
    edges = [0, *cuts, grid.size]
    every = np.full((grid.size, len(backend.columns)), np.nan)
    for start, stop in pairwise(edges):
        chunk = FakeChunk(start, stop)
        assert backend.evaluate(chunk) == stop
        assert chunk.progress[0] == len(chunk.rows) == space.count(start, stop)
        every[np.concatenate(chunk.indices)] = chunk.rows
    return every
