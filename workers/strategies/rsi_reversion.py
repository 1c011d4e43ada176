"""Buy when the RSI is below one level, sell when it is above another.

References
----------
.. [1] J. W. Wilder, "New Concepts in Technical Trading Systems", Trend
   Research 1978, section VI.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.indicators.bank import Bank
from workers.indicators.exact import RSI_TIE
from workers.indicators.prices import whole_prices
from workers.kernels.entries import rsi, signal_above, signal_below, sweep_signals
from workers.kernels.scratch import make_scratch
from workers.strategies.market import Axes, Digits, Line, Market


class Strategy:
    """See the module; one RSI per window serves all levels, which ties do not pass.

    Prices are whole numbers where they are decimals, so that equal changes are equal.
    """

    def __init__(self, market: Market, axes: Axes) -> None:
        self._market = market
        self._close = whole_prices(market.bars.close)
        self._windows = axes["window"].astype(np.int64)
        self._lower = axes["lower"].astype(np.float64) - RSI_TIE
        self._upper = axes["upper"].astype(np.float64) + RSI_TIE
        n_windows = len(self._windows)
        self._rsi = Bank(
            slots=n_windows,
            length=market.n_padded,
            dtype=np.float64,
            fill=self._fill_rsi,
            name=lambda slot: f"whole-rsi-{self._windows[slot]}",
            budget=market.budget,
            disk=market.disk,
        )
        n_lower, n_upper = len(self._lower), len(self._upper)
        self._enter = market.signals(n_windows * n_lower, self._fill_enter, family=n_lower)
        self._leave = market.signals(n_windows * n_upper, self._fill_leave, family=n_upper)
        self.most = min(self._enter.most, self._leave.most)

    def backtest(self, line: Line, digits: Digits, rows: NDArray[np.float64]) -> bool:
        """See :class:`workers.strategies.market.Strategy`."""
        window = digits["window"]
        enter = self._enter.rows(line, window * len(self._lower) + digits["lower"])
        leave = self._leave.rows(line, window * len(self._upper) + digits["upper"])
        if enter is None or leave is None:
            return False
        scratch = make_scratch(len(rows))
        (enters, enter_at), (leaves, leave_at) = enter, leave
        return bool(
            sweep_signals(
                line, self._market.tables, scratch, enters, leaves, enter_at, leave_at, rows
            )
        )

    def _fill_rsi(self, line: Line, slot: int, row: NDArray[np.float64]) -> bool:
        return bool(rsi(line, self._close, int(self._windows[slot]), row))

    def _fill_enter(self, line: Line, slot: int, words: NDArray[np.int64]) -> bool:
        window, level = divmod(slot, len(self._lower))
        curve = self._rsi.row(line, window)
        return curve is not None and bool(
            signal_below(line, curve, float(self._lower[level]), words)
        )

    def _fill_leave(self, line: Line, slot: int, words: NDArray[np.int64]) -> bool:
        window, level = divmod(slot, len(self._upper))
        curve = self._rsi.row(line, window)
        return curve is not None and bool(
            signal_above(line, curve, float(self._upper[level]), words)
        )
