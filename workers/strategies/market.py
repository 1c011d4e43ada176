"""What every strategy is given, and what it must offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.indicators.bank import DEFAULT_BUDGET, Bank, Fill
from workers.indicators.disk import DiskCache
from workers.kernels.blocks import TILE, TILE_BARS
from workers.kernels.prefix_tables import PrefixTables

Axes = Mapping[str, NDArray[np.generic]]
"""Each parameter's values."""

Digits = Mapping[str, NDArray[np.int64]]
"""Each parameter's position on its axis, a combination per element."""

Line = NDArray[np.int64]
"""The stop flag's eight words."""


class Bars(Protocol):
    """The attributes of :class:`supervisor.market.bars.Bars` that backtests use."""

    @property
    def high(self) -> NDArray[np.float64]: ...
    @property
    def low(self) -> NDArray[np.float64]: ...
    @property
    def close(self) -> NDArray[np.float64]: ...
    @property
    def bars_per_year(self) -> float: ...


@dataclass(frozen=True)
class Market:
    """Bars, and what was computed from them once.

    Attributes
    ----------
    bars : Bars
    tables : PrefixTables
        For the accounting, see :mod:`workers.kernels.prefix_tables`.
    budget : int
        Bytes each indicator bank may share.
    disk : DiskCache or None
        Where indicators are kept between runs, if anywhere.
    """

    bars: Bars
    tables: PrefixTables
    budget: int = DEFAULT_BUDGET
    disk: DiskCache | None = None

    @property
    def n_bars(self) -> int:
        return len(self.bars.close)

    @property
    def n_words(self) -> int:
        """Words in a signal: a bit per bar, padded to whole tiles."""
        return len(self.tables.tiles) * TILE

    @property
    def n_padded(self) -> int:
        """Elements in a curve: one per bar, padded to whole tiles."""
        return len(self.tables.tiles) * TILE_BARS

    def signals(self, slots: int, fill: Fill, family: int = 1) -> Bank:
        """Bank of `slots` signals, a bit per bar; too cheap to be kept on disk.

        A `family` of consecutive ones is computed from the same curve.
        """
        return Bank(slots, self.n_words, np.int64, fill, budget=self.budget, family=family)


class Strategy(Protocol):
    """A strategy over one market and one grid; built before the workers are forked.

    Attributes
    ----------
    most : int
        Combinations that it can backtest at once.
    """

    most: int

    def __init__(self, market: Market, axes: Axes) -> None: ...

    def backtest(self, line: Line, digits: Digits, rows: NDArray[np.float64]) -> bool:
        """Backtest a batch of valid combinations.

        Parameters
        ----------
        line : ndarray of int64, shape (8,)
            The stop flag.
        digits : mapping of str to ndarray of int64, shape (n,)
            Positions on the axes.
        rows : ndarray of float64, shape (n, 5)
            Output, columns as in :data:`workers.catalog.COLUMNS`.

        Returns
        -------
        bool
            False when a stop was requested: `rows` is then unfinished.
        """
        ...
