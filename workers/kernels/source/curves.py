"""Compiled fillers of bank rows: curves, a float per bar, and signals, a bit per bar.

Each polls the stop once per tile of 4,096 bars and returns False when it was
requested. Rows are padded to whole tiles; bits beyond the last bar mean nothing.
Where a curve does not exist it is NaN, which compares false with everything.
"""

from __future__ import annotations

import math

import numpy as np

from workers.kernels.blocks import TILE, TILE_BARS, WORD
from workers.kernels.compiler import helper
from workers.kernels.source.lanes import extreme_sums, greater, less, more
from workers.poll import stop_requested

_SLACK = 2.0**-50  # a rounding is 2**-53 of a number at most


def average_extremes(line, sums, front, n_bars, window, row):  # type: ignore[no-untyped-def]
    """Lowest and highest moving average within each block of 64 bars.

    Division is monotone, so the extremes of the averages are those of the
    window's sums, divided: one division a block. What is kept is a few
    roundings wider: where two ranges do not overlap, the rounded products of
    :func:`workers.kernels.source.lanes.average_greater` differ as well.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag.
    sums : ndarray of float64
        Running sums, see :func:`workers.indicators.prices.running_sums`.
    front, n_bars : int
        Index in `sums` at which the bars start, and how many there are.
    window : int
        Bars in the average.
    row : ndarray of float64, shape (2 * n_tiles * 64,)
        Output: lows, then highs. A block in which the average does not exist
        throughout is given an unbounded range.
    """
    n_blocks = len(row) // 2
    for b in range(n_blocks):
        if b % TILE == 0 and stop_requested(line):
            return False
        start = b * WORD
        if start < window - 1 or start >= n_bars:
            row[b], row[n_blocks + b] = -np.inf, np.inf
        else:
            low, high = extreme_sums(sums, front + start + 1, window)
            low, high = low / window, high / window
            row[b], row[n_blocks + b] = low - _SLACK * abs(low), high + _SLACK * abs(high)
    return True


@helper
def _forget_outside(line, row, first, end):  # type: ignore[no-untyped-def]
    """Make all of a curve NaN that is not from `first` to before `end`."""
    first = min(first, end)
    for i in range(len(row) - (end - first)):
        if i % TILE_BARS == 0 and stop_requested(line):
            return False
        row[i if i < first else i + end - first] = math.nan
    return True


def rsi(line, close, window, row):  # type: ignore[no-untyped-def]
    """Wilder's relative strength index, see :func:`workers.reference.rsi_reversion`.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag.
    close : ndarray of float64, shape (n_bars,)
        Closes.
    window : int
        Bars of smoothing.
    row : ndarray of float64, shape (n_tiles * 4096,)
        Output, 0 to 100; NaN for the first `window` bars.
    """
    if not _forget_outside(line, row, window, len(close)):
        return False
    gain = loss = 0.0
    for bar in range(1, len(close)):
        if bar % TILE_BARS == 0 and stop_requested(line):
            return False
        change = close[bar] - close[bar - 1]
        up, down = max(change, 0.0), max(-change, 0.0)
        if bar <= window:
            gain, loss = gain + up, loss + down
            if bar < window:
                continue
            gain, loss = gain / window, loss / window
        else:
            gain = (gain * (window - 1) + up) / window
            loss = (loss * (window - 1) + down) / window
        row[bar] = 100.0 * gain / (gain + loss) if gain + loss > 0.0 else 50.0
    return True


def deviations(line, prices, window, row):  # type: ignore[no-untyped-def]
    """How many standard deviations (ddof 0) each price is from its trailing average.

    Sums slide along and start afresh in every tile, relative to a price there:
    exact for whole prices, and accurate for others.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag.
    prices : ndarray of float64, shape (n_bars,)
        See :func:`workers.indicators.prices.whole_prices`.
    window : int
        Bars in the average and the deviation.
    row : ndarray of float64, shape (n_tiles * 4096,)
        Output; NaN for the first ``window - 1`` bars, 0 where nothing deviates.
    """
    if not _forget_outside(line, row, window - 1, len(prices)):
        return False
    base = total = squares = 0.0
    for bar in range(window - 1, len(prices)):
        if bar == window - 1 or bar % TILE_BARS == 0:
            if stop_requested(line):
                return False
            base = prices[bar]
            total = squares = 0.0
            for i in range(bar + 1 - window, bar + 1):
                total += prices[i] - base
                squares += (prices[i] - base) ** 2
        else:
            new, old = prices[bar] - base, prices[bar - window] - base
            total += new - old
            squares += new * new - old * old
        distance = window * (prices[bar] - base) - total
        variance = window * squares - total * total
        row[bar] = distance / math.sqrt(variance) if variance > 0.0 else 0.0
    return True


def highest_before(line, prices, window, scratch, row):  # type: ignore[no-untyped-def]
    """Highest of the `window` prices before each bar.

    Cuts the series into segments of `window` bars: the bars before any bar are
    the end of one segment and the start of the next, so two running maxima,
    one backwards and one forwards, serve all bars of a segment.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag.
    prices : ndarray of float64, shape (n_bars,)
        Highs, or negated lows.
    window : int
        How many bars before each count.
    scratch : ndarray of float64, shape (n_bars,)
        Overwritten.
    row : ndarray of float64, shape (n_tiles * 4096,)
        Output; NaN for the first `window` bars.

    References
    ----------
    .. [1] M. van Herk, "A fast algorithm for local minimum and maximum filters
       on rectangular and octagonal kernels", Pattern Recognition Letters 13
       (1992).
    """
    if not _forget_outside(line, row, window, len(prices)):
        return False
    n_bars = len(prices)
    for segment in range(window, n_bars, window):
        best = -math.inf
        for i in range(window - 1, -1, -1):
            if i % TILE_BARS == 0 and stop_requested(line):
                return False
            best = max(best, prices[segment - window + i])
            scratch[i] = best
        best = -math.inf
        for i in range(min(window, n_bars - segment)):
            if i % TILE_BARS == 0 and stop_requested(line):
                return False
            row[segment + i] = max(best, scratch[i])
            best = max(best, prices[segment + i])
    return True


def signal_below(line, curve, bound, words):  # type: ignore[no-untyped-def]
    """Set the bits of bars where the curve lies below a bound, clear the others."""
    for b in range(len(words)):
        if b % TILE == 0 and stop_requested(line):
            return False
        words[b] = less(curve, b * WORD, bound)
    return True


def signal_above(line, curve, bound, words):  # type: ignore[no-untyped-def]
    """Set the bits of bars where the curve lies above a bound, clear the others."""
    for b in range(len(words)):
        if b % TILE == 0 and stop_requested(line):
            return False
        words[b] = more(curve, b * WORD, bound)
    return True


def signal_greater(line, a, b, words):  # type: ignore[no-untyped-def]
    """Set the bits of bars where one curve lies above another, clear the others."""
    for block in range(len(words)):
        if block % TILE == 0 and stop_requested(line):
            return False
        words[block] = greater(a, block * WORD, b, block * WORD)
    return True
