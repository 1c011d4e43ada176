"""Indicator curves that depend on one window, a float64 per bar, in NumPy.

Whatever the device, they are computed by the worker's CPU: Wilder's averages are a recurrence
that rounds at every bar, and a curve that is rounded in another order may lie on the other
side of a level. These keep the order of :mod:`workers.reference` and of the compiled kernels.
NaN where a curve does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from workers.torch_backtest.stop import Poll

Curve = Callable[[NDArray[np.float64], int, Poll], NDArray[np.float64]]
"""Computes a curve from prices and a window."""

_TILE_BARS = 4096
"""Bars between two polls, and after which a deviation's sums start afresh, as in the kernels."""


def rsi(close: NDArray[np.float64], window: int, poll: Poll) -> NDArray[np.float64]:
    """Wilder's relative strength index, see :func:`workers.reference.rsi_reversion`.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        Closes.
    window : int
        Bars of smoothing.
    poll : Poll
        Called every 4,096 bars.

    Returns
    -------
    ndarray of float64, shape (n_bars,)
        0 to 100; NaN for the first `window` bars.
    """
    curve = np.full(len(close), np.nan)
    if window >= len(close):
        return curve
    change = np.diff(close)
    gain = _wilder_averages(np.maximum(change, 0.0), window, poll)
    loss = _wilder_averages(np.maximum(-change, 0.0), window, poll)
    poll()
    moved = gain + loss
    known = curve[window:]
    known[:] = 50.0
    np.divide(100.0 * gain, moved, out=known, where=moved > 0.0)
    return curve


def _wilder_averages(values: NDArray[np.float64], window: int, poll: Poll) -> NDArray[np.float64]:
    """Average of the first `window` values, then smoothed; one operation after the other."""
    average = float(np.cumsum(values[:window])[-1]) / window  # sum() would round differently
    averages = np.empty(len(values) - window + 1)
    averages[0] = average
    for start in range(window, len(values), _TILE_BARS):
        poll()
        part = values[start : start + _TILE_BARS].tolist()
        smoothed = accumulate(
            part, lambda before, new: (before * (window - 1) + new) / window, initial=average
        )
        at = start - window
        averages[at : at + len(part) + 1] = np.fromiter(smoothed, np.float64, len(part) + 1)
        average = float(averages[at + len(part)])
    return averages


def deviations(prices: NDArray[np.float64], window: int, poll: Poll) -> NDArray[np.float64]:
    """How many standard deviations (ddof 0) each price is from its trailing average.

    Sums slide along and start afresh in every tile of 4,096 bars, relative to a price there:
    exact for whole prices, and accurate for others.

    Parameters
    ----------
    prices : ndarray of float64, shape (n_bars,)
        See :func:`workers.indicators.prices.whole_prices`.
    window : int
        Bars in the average and the deviation.
    poll : Poll
        Called every 4,096 bars.

    Returns
    -------
    ndarray of float64, shape (n_bars,)
        NaN for the first ``window - 1`` bars, 0 where nothing deviates.
    """
    curve = np.full(len(prices), np.nan)
    first_tile = (window - 1) // _TILE_BARS * _TILE_BARS
    for tile in range(first_tile, len(prices), _TILE_BARS):
        poll()
        start, end = max(tile, window - 1), min(tile + _TILE_BARS, len(prices))
        if start < end:
            curve[start:end] = _deviations_in_tile(prices[start + 1 - window : end], window)
    return curve


def _deviations_in_tile(prices: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Deviations of all prices but the first ``window - 1``."""
    price = prices - prices[window - 1]
    total = _sliding_sums(price, window)
    squares = _sliding_sums(price * price, window)
    distance = window * price[window - 1 :] - total
    variance = window * squares - total * total
    deviation = np.zeros(len(distance))
    varies = variance > 0.0
    np.divide(distance, np.sqrt(variance, where=varies, out=variance), out=deviation, where=varies)
    return deviation


def _sliding_sums(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Sum of the `window` values up to each: the first anew, each other from the one before."""
    steps = values[window - 1 :].copy()
    steps[0] = np.cumsum(values[:window])[-1]
    steps[1:] -= values[:-window]
    return np.cumsum(steps)
