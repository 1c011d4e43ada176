"""The progress table: one row of counters per worker, in anonymous shared memory.

Every row has one writer at a time: its worker and, once that is dead, the warden.
So there is no lock, and progress costs no message: a worker that is killed in
the middle of a write leaves at worst one stale number on a progress bar.
Combinations are counted only where the strategy accepts them.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype(
    [
        ("pid", np.int64),
        ("chunk_start", np.int64),
        ("chunk_stop", np.int64),
        ("kept_until", np.int64),  # everything of this chunk below it is in the journal
        ("done", np.int64),  # combinations computed since the run began
        ("kept", np.int64),  # those of them that are in a journal
        ("failed", np.int64),  # and of these those that failed
        ("best_index", np.int64),
        ("best_value", np.float64),  # its score: the higher, the better, whatever the metric
        ("unranked", np.int64),  # 1: a row had no metric to rank by
        ("spare", np.int64, (6,)),
    ]
)
"""One worker's row: 128 bytes, two cache lines, so that neighbours never share one."""


class ProgressTable:
    """Rows of counters shared by front, warden and workers.

    Attributes
    ----------
    rows : ndarray of :data:`ROW`, shape (n_workers,)
        A view of the shared memory.
    """

    def __init__(self, fd: int, n_workers: int) -> None:
        self._fd = fd
        memory = mmap.mmap(fd, n_workers * ROW.itemsize, mmap.MAP_SHARED)
        self.rows: NDArray[np.void] = np.frombuffer(memory, ROW, n_workers)

    @classmethod
    def create(cls, n_workers: int) -> ProgressTable:
        """Make a progress table with every counter at zero and no best value yet."""
        fd = os.memfd_create("allstop-progress", os.MFD_CLOEXEC)
        os.ftruncate(fd, n_workers * ROW.itemsize)
        table = cls(fd, n_workers)
        table.rows["best_index"], table.rows["best_value"] = -1, -np.inf
        return table

    def vacate(self, slot: int) -> None:
        """Reset the row of a dead worker for the worker that takes its place.

        The number of rows kept stays, and so does the best value.
        """
        row = self.rows[slot]
        for name in ("pid", "chunk_start", "chunk_stop", "kept_until"):
            row[name] = 0
        self.drop_unkept(slot)

    def drop_unkept(self, slot: int) -> None:
        """Count what a dead worker had computed and not kept as not done."""
        row = self.rows[slot]
        row["done"] = row["kept"]

    def done(self) -> int:
        """Combinations computed since the run began; less only when a worker has died."""
        return int(self.rows["done"].sum())

    def failed(self) -> int:
        """Combinations kept as failed since the run began."""
        return int(self.rows["failed"].sum())

    def best(self) -> tuple[int, float] | None:
        """Index and score of the best combination so far, or None."""
        scores = self.rows["best_value"]
        slot = int(np.argmax(scores))
        index = int(self.rows["best_index"][slot])
        return (index, float(scores[slot])) if index >= 0 else None

    @property
    def unranked(self) -> bool:
        """Whether a row had no metric to rank by."""
        return bool(self.rows["unranked"].any())

    def fileno(self) -> int:
        """Descriptor of the table's memory."""
        return self._fd

    def close(self) -> None:
        """Drop the descriptor; the mapping goes with the last view of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()
