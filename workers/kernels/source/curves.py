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
from workers.kernels.source.lanes import (
    add_product,
    as_double,
    extreme_sums,
    greater,
    less,
    lies_beyond,
    lowest_bit,
    more,
)
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


def deviations(line, prices, window, narrow, row):  # type: ignore[no-untyped-def]
    """How many standard deviations (ddof 0) each price is from its trailing average.

    Distance and variance are whole numbers that slide along, exact at every bar: only the root
    and the quotient are rounded.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag.
    prices : ndarray of int64, shape (n_bars,)
        See :meth:`workers.indicators.exact.ExactPrices.in_window`.
    window : int
        Bars in the average and the deviation.
    narrow : int
        1: variances fit into 63 bits, which is faster; 0: they take 128.
    row : ndarray of float64, shape (n_tiles * 4096,)
        Output; NaN for the first ``window - 1`` bars, 0 where nothing deviates.
    """
    if not _forget_outside(line, row, window - 1, len(prices)):
        return False
    if window > len(prices):
        return True
    total, high, low = 0, 0, 0
    for bar in range(window):
        if bar % TILE_BARS == 0 and stop_requested(line):
            return False
        total += prices[bar]
        high, low = add_product(high, low, window * prices[bar], prices[bar])
    high, low = add_product(high, low, -total, total)
    old_distance = 0
    for bar in range(window - 1, len(prices)):
        if bar % TILE_BARS == 0 and stop_requested(line):
            return False
        new = prices[bar]
        if bar >= window:
            change = new - prices[bar - window]
            old_distance = window * prices[bar - window] - total
            total += change
            both = window * new - total + old_distance
            if narrow != 0:
                low += change * both
            else:
                high, low = add_product(high, low, change, both)
        distance = window * new - total
        variance = float(low) if narrow != 0 else as_double(high, low)
        row[bar] = distance / math.sqrt(variance) if variance > 0.0 else 0.0
    return True


@helper
def _is_below_band(prices, bar, window, numerator, denominator):  # type: ignore[no-untyped-def]
    """Whether a price is more than a width below its average, in whole numbers."""
    total, high, low = 0, 0, 0
    for i in range(bar + 1 - window, bar + 1):
        total += prices[i]
        high, low = add_product(high, low, window * prices[i], prices[i])
    high, low = add_product(high, low, -total, total)
    return lies_beyond(window * prices[bar] - total, high, low, numerator, denominator)


def signal_below_band(  # type: ignore[no-untyped-def]
    line, curve, prices, window, width, slack, numerator, denominator, words
):
    """Set the bits of bars whose price lies more than a width below the average.

    The curve decides all bars but those within `slack` of the width; these are compared in
    whole numbers.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag.
    curve : ndarray of float64, shape (n_tiles * 4096,)
        From :func:`deviations`.
    prices : ndarray of int64, shape (n_bars,)
        What it was computed from.
    window : int
        Bars in the average.
    width : float
        Standard deviations from average to band, not negative.
    slack : float
        See :data:`workers.indicators.exact.SLACK`.
    numerator, denominator : int
        The width, see :func:`workers.indicators.exact.ratio`.
    words : ndarray of int64, shape (n_tiles * 64,)
        Output.
    """
    nearer, farther = -width * (1.0 - slack), -width * (1.0 + slack)
    for b in range(len(words)):
        if b % TILE == 0 and stop_requested(line):
            return False
        word = less(curve, b * WORD, farther)
        unclear = less(curve, b * WORD, nearer) & ~word
        while unclear != 0:
            k = lowest_bit(unclear)
            unclear &= unclear - 1
            word |= _is_below_band(prices, b * WORD + k, window, numerator, denominator) << k
        words[b] = word
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
