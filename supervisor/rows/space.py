"""The combinations a strategy accepts: a grid, and a constraint on two of its parameters.

A combination is the index of a point of the *whole* grid, so ranges of indices can be
handed out, recorded and resumed whatever the strategy accepts. Only accepted points are
computed, counted and kept. Which points those are is decided here and nowhere else, and
they are counted without visiting them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.rows.grid import Grid


@dataclass(frozen=True)
class Space:
    """A grid and the part of it that is swept.

    Parameters
    ----------
    grid : Grid
        All points.
    ordered : tuple of two str, optional
        A point is accepted where the first parameter is below the second; both have
        numeric values. None: every point is accepted.
    """

    grid: Grid
    ordered: tuple[str, str] | None = None

    @property
    def total(self) -> int:
        """Number of accepted combinations."""
        return self.count(0, self.grid.size)

    def count(self, start: int, stop: int) -> int:
        """Count the accepted combinations from ``start`` to ``stop`` (exclusive).

        Costs O(n) in the length of one axis at most, whatever the range; 0 for an
        empty range.
        """
        if self._pair is None or start >= stop:
            return max(0, stop - start)
        if self.grid.points is not None:
            return int(self._accepted_before[stop] - self._accepted_before[start])
        return self._pair.count_below(stop) - self._pair.count_below(start)

    def count_all(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Count the accepted combinations in disjoint ranges."""
        return sum(self.count(start, stop) for start, stop in ranges)

    def accepted(self, start: int, stop: int) -> NDArray[np.int64]:
        """List the accepted combinations from ``start`` to ``stop`` (exclusive), in order.

        Returns
        -------
        ndarray of int64, shape (count(start, stop),)
        """
        indices = np.arange(start, stop, dtype=np.int64)
        if self._pair is None or self.count(start, stop) == len(indices):
            return indices  # counting takes a tenth of the time of comparing
        return indices[self._pair.accepts(indices)]

    @cached_property
    def _accepted_before(self) -> NDArray[np.int64]:
        """Of a list of points, how many are accepted before each, shape (size + 1,)."""
        before = np.zeros(self.grid.size + 1, dtype=np.int64)
        if self._pair is not None:
            indices = np.arange(self.grid.size, dtype=np.int64)
            np.cumsum(self._pair.accepts(indices), out=before[1:])
        return before

    @cached_property
    def _pair(self) -> _Pair | None:
        return None if self.ordered is None else _Pair.of(self.grid, *self.ordered)


@dataclass(frozen=True)
class _Pair:
    """A constraint on two axes, ``slow`` and ``fast``: the faster-varying one.

    Along the grid an index is (outer, i, middle, j, inner), where ``i`` and ``j`` are the
    digits of the two axes, and ``n_middle`` and ``n_inner`` the numbers of points between
    and behind them.

    Attributes
    ----------
    names : tuple of two str
        The slower axis, then the faster one.
    slow, fast : ndarray of one numeric dtype
        Their values.
    compare : ufunc
        Tells from a slow and a fast value whether the point is accepted.
    """

    grid: Grid
    names: tuple[str, str]
    slow: NDArray[Any]
    fast: NDArray[Any]
    compare: np.ufunc
    n_middle: int
    n_inner: int

    @classmethod
    def of(cls, grid: Grid, low: str, high: str) -> _Pair:
        slow, fast = names = (
            (low, high) if grid.names.index(low) < grid.names.index(high) else (high, low)
        )
        at, behind = (grid.names.index(name) for name in names)
        lengths = [len(axis) for axis in grid.axes]
        dtype = np.result_type(grid.axis(low), grid.axis(high))
        return cls(
            grid=grid,
            names=names,
            slow=grid.axis(slow).astype(dtype),
            fast=grid.axis(fast).astype(dtype),
            compare=np.less if slow == low else np.greater,
            n_middle=math.prod(lengths[at + 1 : behind]),
            n_inner=math.prod(lengths[behind + 1 :]),
        )

    def accepts(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        i, j = (self.grid.digit(name, indices) for name in self.names)
        accepts: NDArray[np.bool_] = self.compare(self.slow[i], self.fast[j])
        return accepts

    def count_below(self, index: int) -> int:
        """Count the accepted points before ``index``, which may be the grid's size."""
        rest, inner = divmod(index, self.n_inner)
        rest, j = divmod(rest, len(self.fast))
        rest, middle = divmod(rest, self.n_middle)
        outer, i = divmod(rest, len(self.slow))
        whole = outer * int(self._before[-1]) + int(self._before[i])
        partial = self.compare(self.slow[i], self.fast[: j + 1])
        fitting = middle * int(self._before[i + 1] - self._before[i])
        fitting += int(np.count_nonzero(partial[:j]))
        return (whole * self.n_middle + fitting) * self.n_inner + inner * bool(partial[j])

    @cached_property
    def _before(self) -> NDArray[np.int64]:
        """Accepted pairs (i, j) of all ``i`` below each position, shape (len(slow) + 1,)."""
        fast = np.sort(self.fast)
        if self.compare is np.less:
            fits = len(fast) - np.searchsorted(fast, self.slow, side="right")
        else:
            fits = np.searchsorted(fast, self.slow, side="left")
        before = np.zeros(len(fits) + 1, dtype=np.int64)
        np.cumsum(fits, out=before[1:])
        return before
