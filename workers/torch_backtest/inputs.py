"""What each strategy's signals are computed from, in NumPy, before the workers are forked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.indicators.exact import ExactPrices
from workers.indicators.prices import running_sums, whole_prices
from workers.reference import Bars
from workers.torch_backtest.tables import padded, spans_of_highs

Axes = Mapping[str, NDArray[np.generic]]
"""The values of each parameter that a grid asks for."""


class Averages(NamedTuple):
    """For ``sma_cross``: NaN `front` times, then the sum of the first 0, 1, 2, … closes.

    Attributes
    ----------
    sums : ndarray of float64, shape (front + n_bars + 1,)
    front : int
    """

    sums: NDArray[np.float64]
    front: int


class Channels(NamedTuple):
    """For ``donchian_breakout``; below the lowest low is above the highest of negated lows.

    Attributes
    ----------
    close : ndarray of float64, shape (n_bars,)
    highs, negated_lows : ndarray of float64, shape (n_levels, front + n_bars)
        In each row NaN `front` times, then the highest over ``2**level`` bars from each bar on.
    front : mapping of str to int
        Per parameter.
    """

    close: NDArray[np.float64]
    highs: NDArray[np.float64]
    negated_lows: NDArray[np.float64]
    front: Mapping[str, int]


class Prices(NamedTuple):
    """For ``rsi_reversion``: the closes, as whole numbers if they are decimals.

    Attributes
    ----------
    prices : ndarray of float64, shape (n_bars,)
    """

    prices: NDArray[np.float64]


Inputs = Averages | Channels | Prices | ExactPrices


def averages(bars: Bars, axes: Axes) -> Averages:
    """See :class:`Averages`."""
    n_bars = len(bars.close)
    front = min(int(axes["slow"].max()), n_bars + 1)
    sums = running_sums(bars.close, 0, n_bars + 1)
    return Averages(padded(sums[None], front)[0], front)


def channels(bars: Bars, axes: Axes) -> Channels:
    """See :class:`Channels`."""
    n_bars = len(bars.close)
    longest = {name: min(int(axes[name].max()), n_bars) for name in ("entry", "exit")}
    return Channels(
        np.array(bars.close),
        padded(spans_of_highs(bars.high, longest["entry"]), longest["entry"]),
        padded(spans_of_highs(-bars.low, longest["exit"]), longest["exit"]),
        longest,
    )


def whole_closes(bars: Bars, axes: Axes) -> Prices:
    """See :class:`Prices`."""
    return Prices(whole_prices(bars.close))


def exact_closes(bars: Bars, axes: Axes) -> ExactPrices:
    """For ``bollinger_reversion``."""
    return ExactPrices.of(bars.close)


INPUTS: Mapping[str, Callable[[Bars, Axes], Inputs]] = {
    "sma_cross": averages,
    "bollinger_reversion": exact_closes,
    "rsi_reversion": whole_closes,
    "donchian_breakout": channels,
}
"""By the strategy's name."""
