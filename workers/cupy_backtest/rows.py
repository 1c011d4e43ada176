"""Indicator rows on the device: filled there once per run where all of a grid's fit.

Rows of one kind lie side by side in one matrix, word by word, so that neighbouring threads read
neighbouring bytes. A matrix is never changed once it is filled: where not all rows fit, a batch
whose rows are not in it has another one filled, of exactly those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.cupy_backtest.device import Buffer, Device, Event, Stream
from workers.cupy_backtest.layout import Struct

Slots = NDArray[np.int64]
"""Numbers of rows among all that a grid can ask for."""


class Queue(NamedTuple):
    """Where work is queued, and where a stop is seen: what every fill and launch needs.

    Attributes
    ----------
    device : Device
    stream : Stream
    stop : Struct
        ``STOP`` of the batch.
    """

    device: Device
    stream: Stream
    stop: Struct


class Matrix(NamedTuple):
    """Rows on the device.

    Attributes
    ----------
    buffer : Buffer
    slots : ndarray of int64, shape (n_rows,)
        Which rows, ascending.
    filled : Event
        When they are.
    inputs : object
        What the fill reads: kept as long as it may still run.
    """

    buffer: Buffer
    slots: Slots
    filled: Event
    inputs: Any

    @property
    def n_rows(self) -> int:
        return len(self.slots)

    def has(self, wanted: Slots) -> bool:
        """Whether all of these ascending slots are in it."""
        if wanted is self.slots:
            return True
        at = np.searchsorted(self.slots, wanted)
        return bool(at[-1] < len(self.slots)) and np.array_equal(self.slots[at], wanted)


Fill = Callable[[Queue, Slots, Buffer], Any]
"""Queue the filling of a matrix with these rows; return what it reads, to be kept."""


class Rows:
    """All rows of one kind that a grid can ask for.

    Parameters
    ----------
    n_slots : int
        How many those are.
    row_bytes : int
        Bytes of one.
    fill : callable
        See :data:`Fill`.
    """

    def __init__(self, n_slots: int, row_bytes: int, fill: Fill) -> None:
        self.total_bytes = n_slots * row_bytes
        self._all = np.arange(n_slots)
        self._row_bytes = row_bytes
        self._fill = fill
        self._kept: Matrix | None = None

    def ready(self, queue: Queue, slots: Slots, *, fits: bool) -> tuple[Matrix, NDArray[np.int32]]:
        """A matrix with these rows, as it will be when the queue gets there.

        Parameters
        ----------
        queue : Queue
            Whose next launch reads them.
        slots : ndarray of int64, shape (n,)
            What each combination needs.
        fits : bool
            Whether all rows of the grid may be filled at once.

        Returns
        -------
        matrix : Matrix
            To be kept until that launch is done.
        columns : ndarray of int32, shape (n,)
            Each combination's row in it.

        Raises
        ------
        OutOfDeviceMemoryError
            If the rows do not fit. The matrix before is dropped then, so that there is more
            room for the next attempt.
        """
        wanted = self._all if fits else np.unique(slots)
        if self._kept is None or not self._kept.has(wanted):
            self._kept = None
            self._kept = self._filled(queue, wanted)
        # it may have been queued on another stream than the one that reads it
        queue.device.after(self._kept.filled, queue.stream)
        columns = slots if fits else np.searchsorted(self._kept.slots, slots)
        return self._kept, columns.astype(np.int32)

    def _filled(self, queue: Queue, slots: Slots) -> Matrix:
        buffer = queue.device.empty(len(slots) * self._row_bytes)
        inputs = self._fill(queue, slots, buffer)
        return Matrix(buffer, slots, queue.device.event(queue.stream), inputs)

    def forget(self) -> None:
        """Drop what was filled: a stop may have ended that early."""
        self._kept = None
