"""Indicator curves that depend on one window, a float64 per bar, in NumPy.

Whatever the device, they are computed by the worker's CPU: Wilder's averages are a recurrence
that rounds at every bar, and a curve that is rounded in another order may lie on the other
side of a level. These keep the order of :mod:`workers.reference` and of the compiled kernels.
NaN where a curve does not exist.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.indicators.exact import ExactPrices, ratio
from workers.torch_backtest.stop import Poll

_TILE_BARS = 4096
"""Bars between two polls."""


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


class Deviations:
    """How many standard deviations (ddof 0) each price is from its trailing average.

    Distance and variance are whole numbers, exact at every bar: in 64 bits where that is
    enough, otherwise as Python's integers, which are slow.

    Parameters
    ----------
    prices : ExactPrices
        What it is computed from.
    """

    def __init__(self, prices: ExactPrices) -> None:
        self._prices = prices

    def curve(self, window: int, poll: Poll) -> NDArray[np.float64]:
        """Compute the curve of a window.

        Returns
        -------
        ndarray of float64, shape (n_bars,)
            NaN for the first ``window - 1`` bars, 0 where nothing deviates.
        """
        n_bars = len(self._prices.whole)
        curve = np.full(n_bars, np.nan)
        if window > n_bars:
            return curve
        poll()
        distance, variance = self._whole(window, poll)
        deviation = np.zeros(len(distance))
        spread = variance.astype(np.float64)
        poll()
        np.divide(distance, np.sqrt(spread), out=deviation, where=spread > 0.0)
        curve[window - 1 :] = deviation
        return curve

    def below_band(
        self, bars: NDArray[np.int64], window: int, width: float, poll: Poll
    ) -> NDArray[np.bool_]:
        """Tell exactly for some bars, all with an average above, whether they are below the band.

        Parameters
        ----------
        bars : ndarray of int64, shape (n,)
            Which.
        window : int
            Bars in the average.
        width : float
            Standard deviations from average to band.
        poll : Poll
            Called between operations.
        """
        numerator, denominator = ratio(width)
        found = self._whole(window, poll)
        distance, variance = (part[bars - (window - 1)].astype(object) for part in found)
        poll()
        beyond = (distance * denominator) ** 2 > variance * numerator**2
        return np.asarray(beyond, dtype=np.bool_)

    def _whole(self, window: int, poll: Poll) -> tuple[NDArray[Any], NDArray[Any]]:
        """Distance and variance on all bars that have an average, as whole numbers."""
        prices = self._prices.in_window(window)
        distance = window * prices[window - 1 :] - _window_sums(prices, window)
        if not self._prices.is_narrow(window):
            prices = prices.astype(object)
        poll()
        sums = _window_sums(prices, window)
        poll()
        squares = _window_sums(prices * prices, window)
        poll()
        # in 64 bits intermediate results may wrap around; the variance itself fits
        return distance, window * squares - sums * sums


def _window_sums(values: NDArray[Any], window: int) -> NDArray[Any]:
    """Sum of the `window` values up to each; int64 wraps around, objects do not."""
    sums = np.cumsum(values)
    sums[window:] -= sums[:-window].copy()
    return sums[window - 1 :]
