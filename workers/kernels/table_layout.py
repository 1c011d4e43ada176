"""The prefix tables as they lie in memory; imports no Numba.

:mod:`workers.kernels.prefix_tables` fills them with compiled functions,
:mod:`workers.cupy_backtest.tables` with NumPy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.kernels.blocks import LEVELS, TILE_BARS, WORD

FILL = np.dtype([("sum", "i8"), ("squares", "i8"), ("low", "f8"), ("high", "f8")])
"""What a fill at one bar's close needs; 32 bytes, never across two cache lines."""

SPAN = np.dtype([("low", "f8"), ("high", "f8")])
"""Extremes of the closes in some consecutive blocks."""

SUMS = np.dtype([("sum", "i8"), ("squares", "i8")])
"""Sums of per-bar returns and of their squares, in units of :class:`Units`."""

_LINE_BYTES = 64


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


class PrefixTables(NamedTuple):
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


def empty_tables(close: NDArray[np.float64], fee: float, bars_per_year: float) -> PrefixTables:
    """Tables that are yet to be filled, see :mod:`workers.kernels.prefix_tables`."""
    n_bars = len(close)
    n_blocks, n_tiles = -(-n_bars // WORD), -(-n_bars // TILE_BARS)
    return PrefixTables(
        np.array(close, dtype=np.float64),
        _in_cache_lines(n_bars, FILL),
        _in_cache_lines(n_bars + 1, FILL),
        _in_cache_lines(LEVELS * n_blocks, SPAN),
        np.zeros(n_blocks),
        np.zeros(n_tiles, SUMS),
        Fees(1.0 / (1.0 + fee), 1.0 - fee),
        _units(close, fee),
        float(bars_per_year),
    )


def _in_cache_lines(n: int, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Zeros that begin with a cache line, as no allocator promises."""
    memory = np.zeros(n * dtype.itemsize + _LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    return memory[start : start + n * dtype.itemsize].view(dtype)


def _units(close: NDArray[np.float64], fee: float) -> Units:
    """The finest units in which no tile's sums overflow, the fills' own returns included."""
    furthest, in_tile = 0.0, [0.0, 0.0]
    for start in range(0, len(close), TILE_BARS):  # in pieces, which stay in the cache
        piece = close[max(start - 1, 0) : start + TILE_BARS]
        reach = np.abs(piece[1:] / piece[:-1] - 1.0)
        furthest = max(furthest, reach.max(initial=0.0))
        in_tile = [max(in_tile[0], reach.sum()), max(in_tile[1], (reach * reach).sum())]
    units = []
    for power, most in enumerate(in_tile, start=1):
        at_fills = fee**power + (fee + (1.0 + fee) * furthest) ** power
        units.append(2.0 ** (math.ceil(math.log2(max(most + at_fills, 1e-290))) - 61))
    return Units(*units)
