"""Long while the fast moving average is above the slow one, else flat; ties are flat.

References
----------
.. [1] Brock, Lakonishok, LeBaron, "Simple Technical Trading Rules and the
   Stochastic Properties of Stock Returns", Journal of Finance 47 (1992),
   the "variable-length moving average" rule with a band of zero.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from workers.indicators.bank import Bank
from workers.indicators.prices import running_sums
from workers.kernels.blocks import WORD
from workers.kernels.entries import average_extremes, sweep_average_crosses
from workers.kernels.scratch import make_scratch
from workers.strategies.market import Axes, Digits, Line, Market


class Strategy:
    """See the module.

    The averages themselves are never stored: a bank keeps their extremes per
    block of 64 bars, which decide most blocks, and the rest is compared from
    running sums.

    A grid goes through all of its last axis for every value of the other one. So
    where not all fits, those windows of the last axis that the bank cannot share
    have no row: it would be computed again for every combination, which takes
    longer than comparing all their bars.
    """

    def __init__(self, market: Market, axes: Axes) -> None:
        self._market = market
        self._fast = axes["fast"].astype(np.int64)
        self._slow = axes["slow"].astype(np.int64)
        self._last = list(axes)[-1]
        first, last = self._fast, self._slow
        if self._last == "fast":
            first, last = last, first
        self._n_last = len(last)
        nowhere = market.n_bars + 1  # so long an average exists on no bar: its row decides nothing
        self._windows = np.concatenate([last, first, [nowhere]])
        self._sums = running_sums(market.bars.close, WORD, WORD + market.n_padded + 1)
        self._extremes = Bank(
            slots=len(self._windows),
            length=2 * market.n_words,
            dtype=np.float64,
            fill=self._fill,
            name=lambda slot: f"average-ranges-{self._windows[slot]}",
            budget=market.budget,
            disk=market.disk,
        )
        self.most = self._extremes.most - 1  # as many windows of the first axis, and nowhere
        all_fits = self._extremes.most == sys.maxsize
        self._n_placed = self._n_last if all_fits else self._extremes.shared

    def _fill(self, line: Line, slot: int, row: NDArray[np.float64]) -> bool:
        window = int(self._windows[slot])
        return bool(average_extremes(line, self._sums, WORD, self._market.n_bars, window, row))

    def _slots(self, name: str, digits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the bank the windows of an axis are."""
        if name != self._last:
            return self._n_last + digits
        return np.where(digits < self._n_placed, digits, len(self._windows) - 1)

    def backtest(self, line: Line, digits: Digits, rows: NDArray[np.float64]) -> bool:
        """See :class:`workers.strategies.market.Strategy`."""
        fast, slow = digits["fast"], digits["slow"]
        n = len(fast)
        slots = [self._slots("fast", fast), self._slots("slow", slow)]
        found = self._extremes.rows(line, np.concatenate(slots))
        if found is None:
            return False
        extremes, at = found
        return bool(
            sweep_average_crosses(
                line,
                self._market.tables,
                make_scratch(n),
                self._sums,
                WORD,
                extremes,
                self._fast[fast],
                self._slow[slow],
                at[:n],
                at[n:],
                rows,
            )
        )
