"""What the kernels read about the bars, by NumPy: the same bits as the CPU's compiled functions.

Nothing here imports Numba, which takes longer than a GPU does for a small grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.indicators.prices import EXACT, running_sums
from workers.kernels.blocks import LEVELS, TILE_BARS, WORD
from workers.kernels.table_layout import PrefixTables, empty_tables

Numbers = NDArray[np.float64]

_WRAPS_AT = 2.0**31
"""Differences below this have their sign in 32 bits."""


def make_prefix_tables(close: Numbers, fee: float, bars_per_year: float) -> PrefixTables:
    """As :func:`workers.kernels.prefix_tables.make_prefix_tables`, bit for bit.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        Positive and finite, in quote currency.
    fee : float
        Fraction of the traded value that each fill costs.
    bars_per_year : float
        For the Sharpe ratio.
    """
    tables = empty_tables(close, fee, bars_per_year)
    _fill_sums(tables, float(fee))
    _fill_ends_of_blocks(tables)
    _fill_spans(tables)
    return tables


def wrapped_sums(
    close: Numbers, fast: NDArray[np.int64], slow: NDArray[np.int64], front: int, length: int
) -> NDArray[np.int32] | None:
    """Running sums modulo 2³², if they decide every comparison as the CPU does.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        In quote currency.
    fast, slow : ndarray of int64
        Both axes; pairs with ``fast < slow`` are compared, every one of them.
    front, length : int
        As for :func:`workers.indicators.prices.running_sums`.

    Returns
    -------
    ndarray of int32, shape (length,), or None
        None: compare in float64, see :func:`fits_in_32_bits`.
    """
    sums = running_sums(close, front, length)
    prices = np.diff(sums[front : front + len(close) + 1])  # whole numbers, and exact
    if not fits_in_32_bits(prices, fast, slow):
        return None
    return sums.astype(np.int64).astype(np.uint32).view(np.int32)


def fits_in_32_bits(prices: Numbers, fast: NDArray[np.int64], slow: NDArray[np.int64]) -> bool:
    """Whether 32 bits compare all averages of these whole prices as float64 does.

    What is compared is ``slow * sum of fast prices - fast * sum of slow prices``,
    which is ``fast * (slow - fast)`` times the distance between the average of the
    last `fast` prices and that of the ``slow - fast`` before. That distance is at
    most the range of prices within `slow` bars, here within the next power of two.
    Below 2³¹ the sign is right modulo 2³², whatever the sums do. The CPU compares
    products in float64, which ties where they are rounded: below 2⁵³ none is.

    Parameters
    ----------
    prices : ndarray of float64, shape (n_bars,)
        Whole numbers.
    fast, slow : ndarray of int64
        Both axes.
    """
    fast, slow = np.unique(fast), np.unique(slow)
    slow = slow[slow > fast[0]]
    slow = slow[slow <= len(prices)]  # longer averages exist on no bar
    if len(slow) == 0:
        return True
    furthest = float(np.abs(prices).max()) * float(slow[-1]) * float(min(fast[-1], slow[-1]))
    most = _most_products(fast, slow) * _ranges_within(prices, slow)
    return furthest < EXACT and bool(most.max() < _WRAPS_AT)


def _most_products(fast: NDArray[np.int64], slow: NDArray[np.int64]) -> Numbers:
    """For each slow one the highest ``fast * (slow - fast)``: of a neighbour of its half."""
    at = np.searchsorted(fast, slow // 2, side="right")
    below = fast[np.maximum(at - 1, 0)].astype(np.float64)
    above = fast[np.minimum(at, len(fast) - 1)].astype(np.float64)
    return np.maximum(below * (slow - below), above * (slow - above))


def _ranges_within(prices: Numbers, windows: NDArray[np.int64]) -> Numbers:
    """For each of the ascending windows the widest range of prices within the next power of two."""
    low = high = prices
    ranges = np.empty(len(windows))
    length = 1
    for i, window in enumerate(windows):
        while length < window:
            half = min(length, len(high) - 1)  # fewer are left: all of them
            low = np.minimum(low[: len(low) - half], low[half:])
            high = np.maximum(high[: len(high) - half], high[half:])
            length *= 2
        ranges[i] = (high - low).max()
    return ranges


def _fill_sums(tables: PrefixTables, fee: float) -> None:
    """See :func:`workers.kernels.source.prefix_tables.fill_sums`."""
    close, entries, exits, units = tables.close, tables.entries, tables.exits, tables.units
    n_bars, n_tiles = len(close), len(tables.tiles)
    change = np.zeros(n_tiles * TILE_BARS)
    change[1:n_bars] = close[1:] / close[:-1] - 1.0
    at_exit = change - fee * (1.0 + change)
    at_entry = np.float64(-fee / (1.0 + fee))
    pairs = (
        ("sum", change, at_exit, at_entry, units.sum),
        ("squares", change * change, at_exit * at_exit, at_entry * at_entry, units.squares),
    )
    for name, returns, at_exits, at_entries, unit in pairs:
        whole = np.rint(returns / unit).astype(np.int64)
        sums = np.cumsum(whole.reshape(n_tiles, TILE_BARS), axis=1)
        tables.tiles[name] = sums[:, -1]  # nothing is added after the last bar
        up_to = sums.reshape(-1)[:n_bars]
        entries[name] = up_to - int(np.rint(at_entries / unit))
        exits[name][:n_bars] = (
            up_to - whole[:n_bars] + np.rint(at_exits[:n_bars] / unit).astype(np.int64)
        )


def _fill_ends_of_blocks(tables: PrefixTables) -> None:
    """Extremes from and to each bar within its block, and falls.

    See :func:`workers.kernels.source.prefix_tables.fill_extremes`.
    """
    close, n_blocks = tables.close, len(tables.falls)
    lows = _in_blocks(close, n_blocks, np.inf)
    highs = _in_blocks(close, n_blocks, 0.0)
    low_until = np.minimum.accumulate(lows, axis=1)
    high_until = np.maximum.accumulate(highs, axis=1)
    spans = tables.spans[:n_blocks]
    spans["low"], spans["high"] = low_until[:, -1], high_until[:, -1]
    falls = _in_blocks(close, n_blocks, np.inf) / high_until
    tables.falls[:] = np.minimum(falls.min(axis=1), 1.0)
    for name, until, before in (("low", low_until, np.inf), ("high", high_until, 0.0)):
        tables.exits[name] = _one_later(until, before, len(close))
    backwards = np.s_[:, ::-1]
    low_since = np.minimum.accumulate(lows[backwards], axis=1)[backwards]
    high_since = np.maximum.accumulate(highs[backwards], axis=1)[backwards]
    tables.entries["low"] = low_since.reshape(-1)[: len(close)]
    tables.entries["high"] = high_since.reshape(-1)[: len(close)]


def _in_blocks(close: Numbers, n_blocks: int, padding: float) -> Numbers:
    padded = np.full(n_blocks * WORD, padding)
    padded[: len(close)] = close
    return padded.reshape(n_blocks, WORD)


def _one_later(until: Numbers, before: float, n_bars: int) -> Numbers:
    """What is known before each bar of its block; one more element than bars."""
    later = np.empty(until.size + 1)
    later[1:] = until.reshape(-1)
    later[::WORD] = before
    return later[: n_bars + 1]


def _fill_spans(tables: PrefixTables) -> None:
    """Extremes of 2, 4, … blocks from those of half as many."""
    n_blocks = len(tables.falls)
    levels = tables.spans.reshape(LEVELS, n_blocks)
    for level in range(1, LEVELS):
        half = levels[level - 1]
        right = half[np.minimum(np.arange(n_blocks) + (1 << (level - 1)), n_blocks - 1)]
        levels[level]["low"] = np.minimum(half["low"], right["low"])
        levels[level]["high"] = np.maximum(half["high"], right["high"])
