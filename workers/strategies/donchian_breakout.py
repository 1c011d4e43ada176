"""Buy above the highest high of the last bars, sell below the lowest low.

References
----------
.. [1] R. D. Donchian, "High Finance in Copper", Financial Analysts Journal 16
   (1960), the "four-week rule"; with a shorter exit channel as in the Turtle
   rules, C. Faith, "Way of the Turtle", McGraw-Hill 2007.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.kernels.entries import highest_before, signal_greater, sweep_signals
from workers.kernels.scratch import make_scratch
from workers.strategies.market import Axes, Digits, Line, Market


class Strategy:
    """See the module; entry and exit each depend on one parameter alone.

    Below the lowest low is above the highest of negated lows.
    """

    def __init__(self, market: Market, axes: Axes) -> None:
        self._market = market
        bars = market.bars
        padding = np.full(market.n_padded - market.n_bars, np.nan)
        close = np.concatenate([bars.close, padding])
        self._close = {"entry": close, "exit": -close}
        self._extreme = {"entry": np.array(bars.high), "exit": -np.array(bars.low)}
        self._windows = {side: axes[side].astype(np.int64) for side in ("entry", "exit")}
        self._curve = np.empty(market.n_padded)
        self._scratch = np.empty(market.n_bars)
        self._enter = market.signals(
            len(self._windows["entry"]),
            lambda line, slot, words: self._fill("entry", line, slot, words),
        )
        self._leave = market.signals(
            len(self._windows["exit"]),
            lambda line, slot, words: self._fill("exit", line, slot, words),
        )
        self.most = min(self._enter.most, self._leave.most)

    def backtest(self, line: Line, digits: Digits, rows: NDArray[np.float64]) -> bool:
        """See :class:`workers.strategies.market.Strategy`."""
        enter = self._enter.rows(line, digits["entry"])
        leave = self._leave.rows(line, digits["exit"])
        if enter is None or leave is None:
            return False
        scratch = make_scratch(len(rows))
        (enters, enter_at), (leaves, leave_at) = enter, leave
        return bool(
            sweep_signals(
                line, self._market.tables, scratch, enters, leaves, enter_at, leave_at, rows
            )
        )

    def _fill(self, side: str, line: Line, slot: int, words: NDArray[np.int64]) -> bool:
        window = int(self._windows[side][slot])
        prices, curve = self._extreme[side], self._curve
        return bool(
            highest_before(line, prices, window, self._scratch, curve)
            and signal_greater(line, self._close[side], curve, words)
        )
