"""Memory that a sweep works in: kernels allocate none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.kernels.blocks import TILE

# One row of state per combination, carried from tile to tile.
UNITS = 0  # what is held; 0 when flat
VALUE = 1  # money after the last exit
PEAK = 2  # highest equity so far
LOWEST = 3  # lowest equity since that peak
WORST = 4  # lowest ratio of equity to peak before that peak
SUM = 5  # of per-bar returns, in the units of the prefix tables
SQUARES = 6  # of their squares
ENTRIES = 7
HELD_BARS = 8
N_STATE = 9


class Scratch(NamedTuple):
    """Memory a sweep works in; kernels allocate none.

    Attributes
    ----------
    state : ndarray of float64, shape (n, 9)
        A row per combination, carried from tile to tile.
    enter, leave : ndarray of int64, shape (64,)
        One combination's signals in one tile.
    """

    state: NDArray[np.float64]
    enter: NDArray[np.int64]
    leave: NDArray[np.int64]


def make_scratch(n: int) -> Scratch:
    """Scratch for a batch of `n` combinations that are yet to begin."""
    state = np.zeros((n, N_STATE))
    state[:, VALUE : WORST + 1] = 1.0
    return Scratch(state, np.empty(TILE, np.int64), np.empty(TILE, np.int64))
