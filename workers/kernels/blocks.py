"""How time is cut: bars into blocks of one machine word, blocks into tiles."""

from __future__ import annotations

WORD = 64
"""Bars in a block: one bit of a word each."""

TILE = 64
"""Blocks in a tile: one bit of a word each, as a bar is one bit of a block."""

TILE_BARS = TILE * WORD
"""Bars in a tile, 4,096: its tables fit in a core's L2 cache."""

LEVELS = 6
"""Spans of 1, 2, 4, …, 32 blocks: the longest strictly inside a tile."""
