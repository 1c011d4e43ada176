"""Buy when the close is below the lower Bollinger band, sell when it is above the average.

References
----------
.. [1] J. Bollinger, "Bollinger on Bollinger Bands", McGraw-Hill 2001.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.indicators.bank import Bank
from workers.indicators.exact import SLACK, ExactPrices, ratio
from workers.kernels.entries import deviations, signal_above, signal_below_band, sweep_signals
from workers.kernels.scratch import make_scratch
from workers.strategies.market import Axes, Digits, Line, Market


class Strategy:
    """See the module; one curve of deviations per window serves all widths.

    Which side of a band a price is on is decided exactly, see :mod:`workers.indicators.exact`.
    """

    def __init__(self, market: Market, axes: Axes) -> None:
        self._market = market
        self._prices = ExactPrices.of(market.bars.close)
        self._windows = axes["window"].astype(np.int64)
        self._widths = axes["width"].astype(np.float64)
        n_windows = len(self._windows)
        self._deviations = Bank(
            slots=n_windows,
            length=market.n_padded,
            dtype=np.float64,
            fill=self._fill_deviations,
            name=lambda slot: f"exact-deviations-{self._windows[slot]}",
            budget=market.budget,
            disk=market.disk,
        )
        n_widths = len(self._widths)
        self._enter = market.signals(n_windows * n_widths, self._fill_enter, family=n_widths)
        self._leave = market.signals(n_windows, self._fill_leave)
        self.most = min(self._enter.most, self._leave.most)

    def backtest(self, line: Line, digits: Digits, rows: NDArray[np.float64]) -> bool:
        """See :class:`workers.strategies.market.Strategy`."""
        window = digits["window"]
        enter = self._enter.rows(line, window * len(self._widths) + digits["width"])
        leave = self._leave.rows(line, window)
        if enter is None or leave is None:
            return False
        scratch = make_scratch(len(rows))
        (enters, enter_at), (leaves, leave_at) = enter, leave
        return bool(
            sweep_signals(
                line, self._market.tables, scratch, enters, leaves, enter_at, leave_at, rows
            )
        )

    def _fill_deviations(self, line: Line, slot: int, row: NDArray[np.float64]) -> bool:
        window = int(self._windows[slot])
        prices, narrow = self._prices.in_window(window), self._prices.is_narrow(window)
        return bool(deviations(line, prices, window, int(narrow), row))

    def _fill_enter(self, line: Line, slot: int, words: NDArray[np.int64]) -> bool:
        at, width_at = divmod(slot, len(self._widths))
        curve = self._deviations.row(line, at)
        window, width = int(self._windows[at]), float(self._widths[width_at])
        prices = self._prices.in_window(window)
        return curve is not None and bool(
            signal_below_band(line, curve, prices, window, width, SLACK, *ratio(width), words)
        )

    def _fill_leave(self, line: Line, slot: int, words: NDArray[np.int64]) -> bool:
        curve = self._deviations.row(line, slot)
        return curve is not None and bool(signal_above(line, curve, 0.0, words))
