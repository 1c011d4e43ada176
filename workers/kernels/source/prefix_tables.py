"""Filling the prefix tables: what accounting needs to know about the bars."""

from __future__ import annotations

import numpy as np

from workers.kernels.blocks import LEVELS, TILE_BARS, WORD


def fill_sums(close, entries, exits, tiles, units, fee):  # type: ignore[no-untyped-def]
    """Fill the running sums of :class:`workers.kernels.prefix_tables.PrefixTables`."""
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


def fill_extremes(close, entries, exits, spans, falls):  # type: ignore[no-untyped-def]
    """Fill the lowest and highest closes of :class:`workers.kernels.prefix_tables.PrefixTables`."""
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
