"""What is computed from the bars once per run, in NumPy, before the workers are forked.

Inside a position equity is price times a constant. So what a position earns on its bars is a
difference of running sums, and its lowest and highest equity come from the extremes of the
prices, which are kept for spans of 1, 2, 4, … bars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Bars in a block. Spans start at every bar up to this length; longer ones at every block."""


@dataclass(frozen=True)
class Spans:
    """Extremes of the closes over spans of ``2**level`` bars, or blocks, from each one on.

    A span that reaches beyond the end is cut there.

    Attributes
    ----------
    low, high : ndarray of float64, shape (n_levels, n)
    fall : ndarray of float64, shape (n_levels, n)
        Deepest fall within the span: the lowest ratio of a close to a close before it, at most 1.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    fall: NDArray[np.float64]

    @classmethod
    def over(
        cls,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        fall: NDArray[np.float64],
        n_levels: int,
    ) -> Spans:
        """Double the spans that are given ``n_levels - 1`` times."""
        spans = cls(*(np.empty((n_levels, len(low))) for _ in range(3)))
        spans.low[0], spans.high[0], spans.fall[0] = low, high, fall
        for level in range(1, n_levels):
            half = 1 << (level - 1)
            before, after = np.s_[level - 1, :-half], np.s_[level - 1, half:]
            for rows in (spans.low, spans.high, spans.fall):
                rows[level] = rows[level - 1]
            into = np.s_[level, :-half]
            np.minimum(spans.low[before], spans.low[after], out=spans.low[into])
            np.maximum(spans.high[before], spans.high[after], out=spans.high[into])
            across = spans.low[after] / spans.high[before]
            np.minimum(across, spans.fall[before], out=across)
            np.minimum(across, spans.fall[after], out=spans.fall[into])
        return spans


@dataclass(frozen=True)
class Tables:
    """What the accounting needs to know about ``n`` bars.

    Element `n` of the tables of length ``n + 1`` stands for "still open after the last bar".

    Attributes
    ----------
    fee : float
        Fraction of the traded value that each fill costs.
    bars_per_year : float
    cost : ndarray of float64, shape (n + 1,)
        Money per unit bought at a bar's close, the fee included; the last close at `n`.
    received : ndarray of float64, shape (n + 1,)
        Money per unit sold at a bar's close, less the fee; the last close at `n`.
    entry_sums, exit_sums : ndarray of int64, shape (n + 1,)
        Sum of the returns on the bars after an entry and up to an exit, in units of `sum_unit`,
        is ``exit_sums[exit] - entry_sums[entry]``, but for a constant per fill that
        :func:`workers.torch_backtest.account.finish` adds. Integers: a difference is exact, and
        so is a sum of them in any order.
    entry_squares, exit_squares : ndarray of int64, shape (n + 1,)
        The same for the squares of the returns, in units of `square_unit`.
    sum_unit, square_unit : float
        Powers of two, as fine as 62 bits allow.
    bars, blocks : Spans
        Over spans of 1 to 32 bars, and over spans of 1, 2, 4, … blocks of 32 bars.
    """

    fee: float
    bars_per_year: float
    cost: NDArray[np.float64]
    received: NDArray[np.float64]
    entry_sums: NDArray[np.int64]
    exit_sums: NDArray[np.int64]
    entry_squares: NDArray[np.int64]
    exit_squares: NDArray[np.int64]
    sum_unit: float
    square_unit: float
    bars: Spans
    blocks: Spans

    @property
    def n_bars(self) -> int:
        return len(self.cost) - 1


def make_tables(close: NDArray[np.float64], fee: float, bars_per_year: float) -> Tables:
    """Compute the tables; some tenths of a second and 110 MB for half a million bars.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        Positive and finite.
    fee : float
        Fraction of the traded value that each fill costs.
    bars_per_year : float
        For the Sharpe ratio.
    """
    ones = np.ones(len(close))
    bars = Spans.over(close, close, ones, BLOCK.bit_length())
    n_blocks = -(-len(close) // BLOCK)
    low, high, fall = (rows[-1, ::BLOCK] for rows in (bars.low, bars.high, bars.fall))
    blocks = Spans.over(low, high, fall, n_blocks.bit_length())
    change = np.zeros(len(close))
    change[1:] = close[1:] / close[:-1] - 1.0
    at_exit = (1.0 - fee) * change  # less `fee`, which is the same for each
    square_at_exit = at_exit * at_exit - 2.0 * fee * at_exit
    entry_sums, exit_sums, sum_unit = _running_sums(change, at_exit)
    entry_squares, exit_squares, square_unit = _running_sums(change * change, square_at_exit)
    return Tables(
        fee,
        float(bars_per_year),
        np.append(close * (1.0 + fee), close[-1]),
        np.append(close * (1.0 - fee), close[-1]),
        entry_sums,
        exit_sums,
        entry_squares,
        exit_squares,
        sum_unit,
        square_unit,
        bars,
        blocks,
    )


def _running_sums(
    inside: NDArray[np.float64], at_exit: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Tables for an entry and for an exit at each bar, and their unit.

    Parameters
    ----------
    inside : ndarray of float64, shape (n_bars,)
        What a bar within a position contributes.
    at_exit : ndarray of float64, shape (n_bars,)
        What it contributes instead if the position is closed there.
    """
    # a combination counts each bar once at most, as one or the other
    most = float(np.maximum(np.abs(inside), np.abs(at_exit)).sum())
    unit = 2.0 ** (math.ceil(math.log2(max(most, 1e-290))) - 61)
    until = np.zeros(len(inside) + 1, np.int64)
    np.cumsum(np.rint(inside / unit).astype(np.int64), out=until[1:])
    entry, exit_ = until.copy(), until.copy()
    entry[:-1] = until[1:]  # the bar of the entry itself is not held
    exit_[:-1] += np.rint(at_exit / unit).astype(np.int64)
    return entry, exit_, unit


def padded(values: NDArray[np.float64], front: int) -> NDArray[np.float64]:
    """Put `front` times NaN before each row: what lies before the first bar is not known.

    Parameters
    ----------
    values : ndarray of float64, shape (n_rows, n)
        Rows of a table.
    front : int
        Elements to put before each.

    Returns
    -------
    ndarray of float64, shape (n_rows, front + n)
    """
    rows = np.full((len(values), front + values.shape[1]), np.nan)
    rows[:, front:] = values
    return rows


def spans_of_highs(values: NDArray[np.float64], longest: int) -> NDArray[np.float64]:
    """Highest value over spans of ``2**level`` bars, up to the largest power within `longest`.

    Returns
    -------
    ndarray of float64, shape (n_levels, n)
        Element ``[level, i]``: the highest of the values from `i` to before ``i + 2**level``.
    """
    rows = np.empty((max(1, longest).bit_length(), len(values)))
    rows[0] = values
    for level in range(1, len(rows)):
        half = 1 << (level - 1)
        rows[level] = rows[level - 1]
        np.maximum(rows[level - 1, :-half], rows[level - 1, half:], out=rows[level, :-half])
    return rows
