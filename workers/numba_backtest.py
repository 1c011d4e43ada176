"""The built-in strategies as a backend: batches of combinations through compiled kernels."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError
from supervisor.rows.space import Space
from workers.backend import Chunk
from workers.catalog import STRATEGIES
from workers.indicators.bank import DEFAULT_BUDGET
from workers.indicators.disk import DiskCache, digest_of
from workers.kernels.prefix_tables import PrefixTables, make_prefix_tables
from workers.strategies.market import Bars, Line, Market, Strategy

DEFAULT_FEE = 0.0005

_BATCH_BARS = 1 << 30
"""Bars times combinations in a batch, about: some tenths of a second, which a stop gives up."""

_LEAST_BATCH, _MOST_BATCH = 64, 4096  # that are aimed at

_KEPT_AT_ONCE = 8
"""Batches. On few bars a chunk has a million rows: a stop would wait 0.1 s or two until they are
all written, and those that are still in a cache are written sooner."""

_NONE = np.empty(0, np.int64)


class NumbaBacktest:
    """Backtests one built-in strategy; implements :class:`workers.backend.Backend`.

    Parameters
    ----------
    bars : Bars
        Read-only float64 arrays `open`, `high`, `low`, `close`, `volume`, and
        `bars_per_year`.
    space : Space
        The combinations the strategy accepts; its grid was checked with
        :func:`workers.catalog.check`.
    strategy_name : str
        One of :data:`workers.catalog.STRATEGIES`.
    fee : float, optional
        Fraction of the traded value that each fill costs.
    bank_bytes : int, optional
        Bytes of indicators that workers share, per bank.
    cache_dir : Path, optional
        Keep indicators on disk there between runs; by default they are not,
        since computing them again is as fast as reading them.

    Attributes
    ----------
    batch : int
        Combinations that are aimed at per call of a kernel, see
        :class:`workers.backend.Backend`.

    Raises
    ------
    ConfigError
        If the fee is not a fraction.
    """

    def __init__(
        self,
        bars: Bars,
        space: Space,
        strategy_name: str,
        *,
        fee: float = DEFAULT_FEE,
        bank_bytes: int = DEFAULT_BUDGET,
        cache_dir: Path | None = None,
    ) -> None:
        if not 0.0 <= fee < 1.0:
            raise ConfigError(f"fee must be at least 0 and below 1, not {fee}", key="fee")
        self._bars = bars
        self._space = space
        self._facts = STRATEGIES[strategy_name]
        self._fee = fee
        self._bank_bytes = bank_bytes
        self._cache_dir = cache_dir
        self.batch = min(max(_BATCH_BARS // len(bars.close), _LEAST_BATCH), _MOST_BATCH)
        self._most = sys.maxsize
        self._strategy: Strategy | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that :meth:`evaluate` keeps."""
        return self._facts.columns

    def prepare(self) -> None:
        """Compute what all workers share and load the kernels; before the fork."""
        disk = None
        if self._cache_dir is not None:
            disk = DiskCache(self._cache_dir, digest_of(self._bars))
        tables = _prefix_tables_of(self._bars, self._fee)
        market = Market(self._bars, tables, self._bank_bytes, disk)
        grid = self._space.grid
        axes = dict(zip(grid.names, grid.axes, strict=True))
        self._strategy = _class_of(self._facts.name)(market, axes)
        self._most = self._strategy.most
        warm_up(self._facts.name)

    def start(self) -> None:
        """Nothing to do: all is inherited through the fork."""

    def evaluate(self, chunk: Chunk) -> int:
        """Compute a chunk batch by batch; see :meth:`workers.backend.Backend.evaluate`.

        A stop discards the current batch, some tenths of a second of work; every batch
        before it is kept.
        """
        if self._space.count(chunk.start, chunk.stop) == 0:
            chunk.keep(chunk.start, self.columns, self._unfilled(0), stop=chunk.stop, indices=_NONE)
            return chunk.stop
        until = chunk.start
        edges = self._edges(chunk.start, chunk.stop)
        for first in range(0, len(edges) - 1, _KEPT_AT_ONCE):
            some = edges[first : first + _KEPT_AT_ONCE + 1]
            until = self._evaluate(chunk, some)
            if until < some[-1]:
                break
        return until

    def _evaluate(self, chunk: Chunk, edges: list[int]) -> int:
        """Compute the batches between these edges and keep their rows; return where that ends."""
        finished: list[NDArray[np.float64]] = []
        accepted: list[NDArray[np.int64]] = []
        until = edges[0]
        for start, stop in pairwise(edges):
            indices = self._space.accepted(start, stop)
            if len(indices) == 0 and chunk.stop_requested():
                break  # no kernel polls the flag here
            rows = self._backtest(chunk.flag, indices)
            if rows is None:
                break
            finished.append(rows)
            accepted.append(indices)
            chunk.progress[0] += len(rows)
            until = stop
        if finished:
            chunk.keep(
                edges[0],
                self.columns,
                np.concatenate(finished),
                stop=until,
                indices=np.concatenate(accepted),
            )
        return until

    def _edges(self, start: int, stop: int) -> list[int]:
        """Where a chunk's batches begin and end: even ones, of about the size that is aimed at.

        Every batch reads all bars again, which costs as much as 20 combinations do, so a
        small batch at the end would be expensive.
        """
        n = stop - start
        n_batches = max(1, round(n / self.batch), -(-n // self._most))
        return [start + n * batch // n_batches for batch in range(n_batches + 1)]

    def _backtest(self, line: Line, indices: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Rows of these combinations, None when a stop was requested."""
        if self._strategy is None:
            raise RuntimeError("prepare() comes before evaluate()")
        rows = self._unfilled(len(indices))
        if len(rows) and not self._strategy.backtest(line, self._space.grid.digits(indices), rows):
            return None
        return rows

    def _unfilled(self, n: int) -> NDArray[np.float64]:
        return np.full((n, len(self.columns)), np.nan)


def warm_up(strategy_name: str) -> None:
    """Load a strategy's kernels, compiling them first if the cache lacks them.

    Forked workers then neither compile nor touch the cache. Costs seconds when
    it compiles, milliseconds afterwards.
    """
    values = {"fast": 1, "slow": 2, "lower": 30.0, "upper": 70.0, "width": 2.0}
    parameters = STRATEGIES[strategy_name].parameters
    kinds = {"int": np.int64, "float": np.float64}
    axes = {p.name: np.array([values.get(p.name, 2)], kinds[p.kind]) for p in parameters}
    digits = {name: np.zeros(1, np.int64) for name in axes}
    bars = _FlatBars()
    strategy = _class_of(strategy_name)(
        Market(bars, make_prefix_tables(bars.close, 0.0, 1.0)), axes
    )
    strategy.backtest(np.zeros(8, np.int64), digits, np.empty((1, 5)))


class _FlatBars:
    """A few bars to call the kernels with."""

    high = low = close = np.ones(3)
    bars_per_year = 1.0


_kept_tables: WeakKeyDictionary[Bars, tuple[float, PrefixTables]] = WeakKeyDictionary()
"""The last prefix tables of bars that are still held, reused by the next run on the same bars."""


def _prefix_tables_of(bars: Bars, fee: float) -> PrefixTables:
    kept = _kept_tables.get(bars)
    if kept is not None and kept[0] == fee:
        return kept[1]
    tables = make_prefix_tables(bars.close, fee, bars.bars_per_year)
    _kept_tables[bars] = fee, tables
    return tables


def _class_of(strategy_name: str) -> type[Strategy]:
    module = importlib.import_module(f"workers.strategies.{strategy_name}")
    return cast("type[Strategy]", module.Strategy)
