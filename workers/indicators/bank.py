"""Indicator rows that all workers of a run share without a lock.

A bank is an array in anonymous shared memory, made before the workers are
forked, with a row for each indicator and parameter the grid can ask for, and a
word per row that says "written". The process that first needs a row computes it, writes
it and then sets its word. Two workers may do so at once: they write the same
bytes; with many rows few are, since each worker has an order of its own. One
killed half-way leaves a row that no process takes for written.

Pages that were never touched take no memory, so a bank may be as large as its
budget from the start. Rows beyond the budget are computed by each worker for
itself, into memory of its own right behind the shared rows: kernels take both by
their place in one array.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from workers.indicators.disk import DiskCache
from workers.indicators.region import shared_then_private
from workers.kernels.entries import publish, unwritten

DEFAULT_BUDGET = 256 << 20
"""Bytes of shared rows per bank; freeing 256 MiB costs the kernel 40 ms."""

_PRIVATE_BUDGET = 64 << 20
"""Bytes of rows that each worker keeps for itself, where not all can be shared."""

_LEAST_PRIVATE = 4

Row = NDArray[Any]
Line = NDArray[np.int64]

Fill = Callable[[Line, int, Row], bool]
"""Compute row number `slot` into the array; False when a stop was requested."""


class Bank:
    """Rows of one indicator, a slot per parameter combination.

    Parameters
    ----------
    slots : int
        Rows the grid can ask for.
    length : int
        Elements in a row.
    dtype : dtype
        Of eight bytes.
    fill : callable (line, slot, row) -> bool
        Computes a row, always the same bytes for the same slot.
    name : callable (slot) -> str
        Names a row on disk: the indicator and its parameters.
    budget : int, optional
        Bytes to share at most.
    disk : DiskCache, optional
        Where to look before computing, and to keep what was computed.
    family : int, optional
        Consecutive slots that are computed from the same thing, one after the other.

    Attributes
    ----------
    most : int
        How many different rows can be asked for at once.
    """

    def __init__(
        self,
        slots: int,
        length: int,
        dtype: DTypeLike,
        fill: Fill,
        name: Callable[[int], str] = str,
        budget: int = DEFAULT_BUDGET,
        disk: DiskCache | None = None,
        family: int = 1,
    ) -> None:
        self.length = length
        self.shared = min(slots, budget // (8 * length))
        rest = slots - self.shared
        private = min(rest, max(_LEAST_PRIVATE, _PRIVATE_BUDGET // (8 * length)))
        self.most = sys.maxsize if private == rest else private
        self._fill = fill
        self._name = name
        self._disk = disk
        self._family = family
        words, self._private_at = shared_then_private(self.shared * length, private * length)
        self._rows: Row = words.view(dtype)
        self._written, _ = shared_then_private(self.shared, 0)
        # a slot's place among the private rows; free places have negative slots of their own
        self._places = OrderedDict((~place, place) for place in range(private))

    def row(self, line: Line, slot: int) -> Row | None:
        """One row, valid until others are asked for; None when a stop was requested before."""
        found = self.rows(line, np.array([slot]))
        if found is None:
            return None
        rows, at = found
        return rows[at[0] : at[0] + self.length]

    def rows(self, line: Line, slots: NDArray[np.int64]) -> tuple[Row, NDArray[np.int64]] | None:
        """Rows for a whole batch, as one flat array and where each one starts in it.

        Valid until others are asked for.

        Parameters
        ----------
        line : ndarray of int64, shape (8,)
            The stop flag.
        slots : ndarray of int64, shape (n,)
            At most :attr:`most` different ones.

        Returns
        -------
        tuple or None
            None when a stop was requested before all were computed.
        """
        wanted = np.sort(slots)
        wanted = wanted[np.append(True, wanted[1:] != wanted[:-1])]
        n_shared = int(np.searchsorted(wanted, self.shared))
        if not self._share(line, wanted[:n_shared]):
            return None
        if n_shared == len(wanted):
            return self._rows, slots * self.length
        own = self._keep(line, wanted[n_shared:].tolist())
        if own is None:
            return None
        starts = np.concatenate([wanted[:n_shared] * self.length, own])
        return self._rows, starts[np.searchsorted(wanted, slots)]

    def _share(self, line: Line, slots: NDArray[np.int64]) -> bool:
        """See to it that shared rows are written; False when a stop was requested.

        At a run's start all workers want the same ones at once. Each takes them in an order
        of its own and leaves out what is written by then.
        """
        missing = np.empty(len(slots), np.bool_)
        while unwritten(self._written, slots, missing):
            for slot in _in_random_order(slots[missing].tolist(), self._family):
                if self._written[slot]:
                    continue  # a hint: the loop's condition sees the row as well
                at = slot * self.length
                if not self._compute(line, slot, self._rows[at : at + self.length]):
                    return False
                publish(self._written, slot)
        return True

    def _keep(self, line: Line, slots: list[int]) -> NDArray[np.int64] | None:
        """Where this process's own rows start; the longest unused make way for new ones."""
        for slot in slots:
            if slot in self._places:
                self._places.move_to_end(slot)
        starts = []
        for slot in slots:
            if slot not in self._places:
                _, place = self._places.popitem(last=False)
                start = self._private_at + place * self.length
                if not self._compute(line, slot, self._rows[start : start + self.length]):
                    self._places[~place] = place  # half a row: the place is free
                    self._places.move_to_end(~place, last=False)
                    return None
                self._places[slot] = place
            starts.append(self._private_at + self._places[slot] * self.length)
        return np.array(starts)

    def _compute(self, line: Line, slot: int, row: Row) -> bool:
        if self._disk is None:
            return self._fill(line, slot, row)
        name = self._name(slot)
        if self._disk.load(name, row):
            return True
        if not self._fill(line, slot, row):
            return False
        self._disk.store(name, row)
        return True


def _in_random_order(slots: list[int], family: int) -> Iterator[int]:
    """Ascending slots, shuffled; each family stays together."""
    families = [list(members) for _, members in groupby(slots, lambda slot: slot // family)]
    dice = random.Random()  # its own: forked workers have the common one's state in common
    for members in families:
        dice.shuffle(members)
    dice.shuffle(families)
    return chain.from_iterable(families)
