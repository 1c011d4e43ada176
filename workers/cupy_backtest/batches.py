"""Batches of combinations on their way through the device: launched, waited for, taken back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.cupy_backtest.device import Device, Event, Staging
from workers.cupy_backtest.layout import BATCH, STOP, Struct, struct
from workers.cupy_backtest.programs import Program, Ready, spread
from workers.cupy_backtest.rows import Queue

_ALIGNED = 64
_HEAD_BYTES = 64
"""Before the rows: the word that says that a launch is unfinished, and nothing else."""


class Slot:
    """Memory for one batch, on the device and pinned on the host, and a stream of its own.

    Both are laid out alike: the inputs, then a head, then the rows. The inputs and the head go
    in by one copy, the head and the rows come back by one.

    Parameters
    ----------
    device : Device
    most : int
        Combinations of a batch.
    n_inputs, n_columns : int
        Arrays of int32 that go in, and float64 columns that come back.
    """

    def __init__(self, device: Device, most: int, n_inputs: int, n_columns: int) -> None:
        self.stream = device.stream()
        self._device = device
        self._most = most
        self._n_columns = n_columns
        self._input_bytes = _aligned(4 * most)
        self._head = n_inputs * self._input_bytes
        n_bytes = self._head + _HEAD_BYTES + 8 * n_columns * most
        self._there = device.empty(n_bytes)
        self._here: Staging = device.staging(n_bytes)
        self._here[self._head :][:_HEAD_BYTES] = 0
        self._seen = device.empty(_HEAD_BYTES)
        self._unseen = device.staging(_HEAD_BYTES)
        self._unseen[:] = 0

    def queue(self, flag: int) -> Queue:
        """Where a batch that uses this slot is queued.

        Parameters
        ----------
        flag : int
            Device address of the stop word.
        """
        self._device.copy_in(self._unseen, self._seen, self.stream)
        unfinished = self._there.address + self._head
        stop = struct(STOP, flag=flag, seen=self._seen, unfinished=unfinished)
        return Queue(self._device, self.stream, stop)

    def launch(self, queue: Queue, tables: Struct, ready: Ready) -> Event:
        """Queue a batch: its inputs, its kernel, and the way back of its rows."""
        n = len(ready.inputs[0])
        for number, values in enumerate(ready.inputs):
            at = number * self._input_bytes
            self._here[at : at + values.nbytes] = values.view(np.uint8)
        into = self._here[: self._head + _HEAD_BYTES]
        into[self._head :] = 0
        self._device.copy_in(into, self._there, self.stream)
        addresses = [
            self._there.address + number * self._input_bytes for number in range(len(ready.inputs))
        ]
        rows = struct(BATCH, rows=self._there.address + self._head + _HEAD_BYTES, n=n)
        grid = spread(n, self._device.n_multiprocessors)._replace(shared_bytes=ready.shared_bytes)
        arguments = (tables, queue.stop, ready.argument(*addresses), rows)
        self._device.launch(ready.kernel, grid, arguments, self.stream)
        self._device.copy_back(self._there, self._head, self._back(n), self.stream)
        return self._device.event(self.stream)

    def rows(self, n: int) -> NDArray[np.float64] | None:
        """Copy of the rows that came back; None where the kernel left early."""
        back = self._back(n)
        if back[:_HEAD_BYTES].any():
            return None
        rows = back[_HEAD_BYTES:].view(np.float64).reshape(n, self._n_columns)
        return rows.copy()

    def _back(self, n: int) -> Staging:
        return self._here[self._head :][: _HEAD_BYTES + 8 * self._n_columns * n]


class Flight(NamedTuple):
    """A batch on its way.

    Attributes
    ----------
    start, stop : int
        Combinations of the grid, ``stop`` exclusive.
    indices : ndarray of int64, shape (n,)
        The accepted ones.
    slot : Slot or None
        Where its rows come back; None where no combination is accepted: nothing was launched.
    done : Event or None
        When they are back.
    held : object
        Device memory that the kernel reads.
    """

    start: int
    stop: int
    indices: NDArray[np.int64]
    slot: Slot | None = None
    done: Event | None = None
    held: Any = None


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNED) * _ALIGNED


def slots_for(device: Device, program: Program, most: int, n_columns: int) -> list[Slot]:
    """Two: while the rows of one batch are being kept, another is computed.

    Raises
    ------
    OutOfDeviceMemoryError
        If batches of that size do not fit.
    """
    return [Slot(device, most, program.n_inputs, n_columns) for _ in range(2)]
