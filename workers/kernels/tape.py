"""What accounting needs to know about the bars, computed once per run.

Inside a position equity is price times a constant. So a position's return
sums are differences of running sums, and its highest and lowest equity come
from the extremes of the prices: of whole blocks of 64 bars, and of the pieces
of a block at both ends.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.kernels.compiled import kernel
from workers.kernels.lanes import WORD

TILE = 64
"""Blocks in a tile: one bit of a word each, as a bar is one bit of a block."""

TILE_BARS = TILE * WORD
"""Bars in a tile, 4,096: its tables fit in a core's L2 cache."""


LEVELS = 6
"""Spans of 1, 2, 4, …, 32 blocks: the longest strictly inside a tile."""

FILL = np.dtype([("sum", "i8"), ("squares", "i8"), ("low", "f8"), ("high", "f8")])
"""What a fill at one bar's close needs; 32 bytes, never across two cache lines."""

SPAN = np.dtype([("low", "f8"), ("high", "f8")])
"""Extremes of the closes in some consecutive blocks."""

SUMS = np.dtype([("sum", "i8"), ("squares", "i8")])
"""Sums of per-bar returns and of their squares, in units of :class:`Units`."""


class Fees(NamedTuple):
    """What fees leave of the money: ``1 / (1 + fee)`` and ``1 - fee``."""

    entry_factor: float
    exit_factor: float


class Units(NamedTuple):
    """What 1 stands for in the sums: powers of two, as fine as 63 bits allow.

    Sums are integers so that a difference of two is exact: what happened
    outside a position leaves no trace in it, not even a rounding error.
    """

    sum: float
    squares: float


class Tape(NamedTuple):
    """Tables over ``n_bars`` bars, cut into blocks of 64 bars and tiles of 64 blocks.

    Running sums start at 0 in every tile: they stay small however long the
    series. Arrays are C-contiguous and writable, because Numba
    compiles read-only arrays separately.

    Attributes
    ----------
    close : ndarray of float64, shape (n_bars,)
    entries : ndarray of FILL, shape (n_bars,)
        For a position opened at a bar's close: running sums up to this bar,
        less the return that the entry fee costs; lowest and highest close
        from here to the end of the block.
    exits : ndarray of FILL, shape (n_bars + 1,)
        For a position closed at a bar's close: running sums up to this bar,
        whose own return is reduced by the fee; lowest and highest close from
        the block's start to the bar *before* (+inf and 0 at the block's start).
    spans : ndarray of SPAN, shape (6 * n_blocks,)
        Element ``k * n_blocks + b``: the ``2**k`` blocks from block `b` on.
        Any range of blocks in a tile is the union of two such spans [1]_.
    falls : ndarray of float64, shape (n_blocks,)
        Deepest fall within each block, as the ratio of a close to the highest
        close before it (≤ 1).
    tiles : ndarray of SUMS, shape (n_tiles,)
        The running sums at each tile's end.
    fees : Fees
    units : Units
    bars_per_year : float

    References
    ----------
    .. [1] M. A. Bender, M. Farach-Colton, "The LCA Problem Revisited", LATIN
       2000, the sparse table for range minimum queries.
    """

    close: NDArray[np.float64]
    entries: NDArray[np.void]
    exits: NDArray[np.void]
    spans: NDArray[np.void]
    falls: NDArray[np.float64]
    tiles: NDArray[np.void]
    fees: Fees
    units: Units
    bars_per_year: float


def make_tape(close: NDArray[np.float64], fee: float, bars_per_year: float) -> Tape:
    """Compute the tables; some ten milliseconds for half a million bars.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        Positive and finite.
    fee : float
        Fraction of the traded value that each fill costs.
    bars_per_year : float
        For the Sharpe ratio.
    """
    n_bars = len(close)
    n_blocks, n_tiles = -(-n_bars // WORD), -(-n_bars // TILE_BARS)
    tape = Tape(
        np.array(close, dtype=np.float64),
        np.zeros(n_bars, FILL),
        np.zeros(n_bars + 1, FILL),
        np.zeros(LEVELS * n_blocks, SPAN),
        np.zeros(n_blocks),
        np.zeros(n_tiles, SUMS),
        Fees(1.0 / (1.0 + fee), 1.0 - fee),
        _units(close, fee),
        float(bars_per_year),
    )
    _fill_sums(*tape[:3], tape.tiles, tape.units, float(fee))
    _fill_extremes(*tape[:5])
    return tape


def _units(close: NDArray[np.float64], fee: float) -> Units:
    """The finest units in which no tile's sums overflow, the fills' own returns included."""
    reach = np.zeros(-(-len(close) // TILE_BARS) * TILE_BARS)
    np.abs(close[1:] / close[:-1] - 1.0, out=reach[1 : len(close)])
    units = []
    for power in (1, 2):
        in_tile = (reach**power).reshape(-1, TILE_BARS).sum(axis=1).max()
        at_fills = fee**power + (fee + (1.0 + fee) * reach.max()) ** power
        units.append(2.0 ** (math.ceil(math.log2(max(in_tile + at_fills, 1e-290))) - 61))
    return Units(*units)


@kernel
def _fill_sums(close, entries, exits, tiles, units, fee):  # type: ignore[no-untyped-def]
    at_entry = -fee / (1.0 + fee)
    entry = round(at_entry / units.sum)
    entry_square = round(at_entry * at_entry / units.squares)
    total = squares = 0
    for bar in range(len(close)):
        if bar % TILE_BARS == 0:
            total = squares = 0
        change = close[bar] / close[bar - 1] - 1.0 if bar > 0 else 0.0
        at_exit = change - fee * (1.0 + change)
        exits[bar].sum = total + round(at_exit / units.sum)
        exits[bar].squares = squares + round(at_exit * at_exit / units.squares)
        total += round(change / units.sum)
        squares += round(change * change / units.squares)
        entries[bar].sum = total - entry
        entries[bar].squares = squares - entry_square
        tiles[bar // TILE_BARS].sum = total
        tiles[bar // TILE_BARS].squares = squares


@kernel
def _fill_extremes(close, entries, exits, spans, falls):  # type: ignore[no-untyped-def]
    n_bars, n_blocks = len(close), len(falls)
    exits[n_bars].low, exits[n_bars].high = np.inf, 0.0
    for b in range(n_blocks):
        start, end = b * WORD, min((b + 1) * WORD, n_bars)
        low, high, fall = np.inf, 0.0, 1.0
        for bar in range(start, end):
            exits[bar].low, exits[bar].high = low, high
            low, high = min(low, close[bar]), max(high, close[bar])
            fall = min(fall, close[bar] / high)
        spans[b].low, spans[b].high = low, high
        falls[b] = fall
        if end % WORD != 0:
            exits[end].low, exits[end].high = low, high
        low, high = np.inf, 0.0
        for bar in range(end - 1, start - 1, -1):
            low, high = min(low, close[bar]), max(high, close[bar])
            entries[bar].low, entries[bar].high = low, high
    for level in range(1, LEVELS):
        for b in range(n_blocks):
            half = (level - 1) * n_blocks
            left = half + b
            right = half + min(b + (1 << (level - 1)), n_blocks - 1)
            span = level * n_blocks + b
            spans[span].low = min(spans[left].low, spans[right].low)
            spans[span].high = max(spans[left].high, spans[right].high)
