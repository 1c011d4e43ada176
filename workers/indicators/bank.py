"""Indicator rows that all workers of a run share without a lock.

A bank is an array in anonymous shared memory, made before the workers are
forked, with a row for each indicator and parameter the grid can ask for, and a
word per row that says "written". Whoever first needs a row computes it, writes
it and then sets its word. Two workers may do so at once: they write the same
bytes. One killed half-way leaves a row that nobody takes for written.

Pages that were never touched take no memory, so a bank may be as large as its
budget from the start. Rows beyond the budget are computed where needed.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from workers.indicators.disk import DiskCache
from workers.kernels.compiled import kernel
from workers.poll import load_acquire, store_release

DEFAULT_BUDGET = 256 << 20
"""Bytes of shared rows per bank; freeing 256 MiB costs the kernel 40 ms."""

_PRIVATE_ROWS = 4

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
    ) -> None:
        self.length = length
        self.shared = min(slots, budget // (8 * length))
        self._fill = fill
        self._name = name
        self._disk = disk
        self._dtype = np.dtype(dtype)
        self._rows = _shared_array(self.shared * length, dtype)
        self._written = _shared_array(self.shared, np.int64)
        self._private: OrderedDict[int, Row] = OrderedDict()

    def row(self, line: Line, slot: int) -> Row | None:
        """One row; None when a stop was requested before it was computed."""
        if slot < self.shared:
            at = slot * self.length
            row = self._rows[at : at + self.length]
            if not _is_published(self._written, slot):
                if not self._compute(line, slot, row):
                    return None
                _publish(self._written, slot)
            return row
        private = self._private.pop(slot, None)
        if private is None:
            private = np.empty(self.length, self._dtype)
            if not self._compute(line, slot, private):
                return None
        self._private[slot] = private
        if len(self._private) > _PRIVATE_ROWS:
            self._private.popitem(last=False)
        return private

    def rows(self, line: Line, slots: NDArray[np.int64]) -> tuple[Row, NDArray[np.int64]] | None:
        """Rows for a whole batch, as one flat array and where each one starts in it.

        Returns None when a stop was requested before all were computed.
        """
        wanted = np.sort(slots)
        wanted = wanted[np.append(True, wanted[1:] != wanted[:-1])]
        if wanted[-1] < self.shared:
            for slot in wanted.tolist():
                if self.row(line, slot) is None:
                    return None
            return self._rows, slots * self.length
        copies = np.empty((len(wanted), self.length), self._dtype)
        for copy, slot in zip(copies, wanted.tolist(), strict=True):
            row = self.row(line, slot)
            if row is None:
                return None
            copy[:] = row
        return copies.ravel(), np.searchsorted(wanted, slots) * self.length

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


def _shared_array(n: int, dtype: DTypeLike) -> Row:
    """Zeros in memory shared with every process forked from here on."""
    if n == 0:
        return np.zeros(0, dtype)
    fd = os.memfd_create("fullstop-bank", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, 8 * n)
        return np.frombuffer(mmap.mmap(fd, 8 * n), dtype)
    finally:
        os.close(fd)


@kernel
def _publish(written, slot):  # type: ignore[no-untyped-def]
    store_release(written, slot, 1)


@kernel
def _is_published(written, slot):  # type: ignore[no-untyped-def]
    return load_acquire(written, slot) != 0
