"""A chunk's way through the device: two batches in hand, and the rows of a third being kept."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

import numpy as np
from numpy.typing import NDArray

from supervisor.ipc.device_flag import DeviceFlag, Tier
from supervisor.rows.space import Space
from workers.backend import Chunk
from workers.cupy_backtest.accounting import Accounting
from workers.cupy_backtest.batches import Flight, Slot, slots_for
from workers.cupy_backtest.device import Device, OutOfDeviceMemoryError
from workers.cupy_backtest.layout import MOST_THREADS
from workers.cupy_backtest.programs import Program

_BLOCKS_PER_PROCESSOR = 3
"""What fits of a kernel of 256 threads with some 80 registers each."""

_WAVES = 2
"""Waves of blocks in a launch: the second fills the processors that the first leaves early."""

_LEAST = 32
"""Combinations of a batch, one warp: with less memory than those need there is no going on."""

_SPAN = 16
"""Grid indices in a batch are at most so many times the combinations: where few are accepted,
listing them takes memory for all."""

_NONE = np.empty(0, np.int64)


def most_at_once(n_multiprocessors: int) -> int:
    """Combinations of a batch: what the device computes at once, twice."""
    return n_multiprocessors * _BLOCKS_PER_PROCESSOR * MOST_THREADS * _WAVES


class Opened:
    """A device with everything that batches need on it."""

    def __init__(
        self, device: Device, accounting: Accounting, program: Program, n_columns: int
    ) -> None:
        self.device = device
        self.tables = accounting.tables
        self.program = program
        self.most = most_at_once(device.n_multiprocessors)
        self.slots: list[Slot] = []
        self._n_columns = n_columns
        device.load(program.kernels)
        self._allocate()

    def _allocate(self) -> None:
        """Make room for batches, of half the size as often as it takes."""
        while not self.slots:
            try:
                self.slots = slots_for(self.device, self.program, self.most, self._n_columns)
            except OutOfDeviceMemoryError as error:
                why = str(error)
            else:
                return
            self._halve(why)

    def _halve(self, why: str) -> None:
        """Go on with batches of half the size.

        Raises
        ------
        OutOfDeviceMemoryError
            If they are as small as is sensible.
        """
        self.most //= 2
        if self.most < _LEAST:
            raise OutOfDeviceMemoryError(
                f"the GPU has not enough memory for {_LEAST} combinations at once: free some, or "
                f"raise the limit (--vram-limit); {why}"
            )

    def shrink(self, why: str) -> None:
        """Give back all that can be made again, then make room for smaller batches.

        Nothing may be queued any more. By then the exception is gone: the frames in its traceback
        hold memory.

        Parameters
        ----------
        why : str
            What did not fit.
        """
        self.program.forget()
        self.slots = []
        self.device.release()
        self._halve(why)
        self._allocate()


class Sweep:
    """One chunk's way through the device."""

    def __init__(
        self,
        opened: Opened,
        space: Space,
        columns: tuple[str, ...],
        chunk: Chunk,
        flag: DeviceFlag,
    ) -> None:
        self._opened = opened
        self._space = space
        self._columns = columns
        self._chunk = chunk
        self._flag = flag
        self._in_waves = flag.tier is Tier.WAVES
        self._flying: deque[Flight] = deque()
        self._launched_until = chunk.start

    def run(self) -> int:
        """Compute and keep; return the first index that is not finished."""
        until = self._chunk.start
        self._launch()
        while self._flying:
            flight = self._flying.popleft()
            rows = self._landed(flight)
            if rows is None:
                break
            flight = flight._replace(held=None)  # the next one may need the memory
            self._chunk.progress[0] += len(rows)
            try:
                self._launch()
            finally:  # also where the device is lost meanwhile
                self._keep(flight, rows)
            until = flight.stop
        if until < self._chunk.stop:
            self._settle()
            # a stop has ended it early, and rows that were being filled with it
            self._opened.program.forget()
        return until

    def _keep(self, flight: Flight, rows: NDArray[np.float64]) -> None:
        self._chunk.keep(
            flight.start, self._columns, rows, stop=flight.stop, indices=flight.indices
        )

    def _launch(self) -> None:
        """Queue as many batches as may be in hand at once: one or two.

        Where a kernel does not see the stop, none is queued behind another: the flag is looked
        at before every launch.
        """
        in_hand = 1 if self._in_waves else 2
        while len(self._flying) < in_hand and self._launched_until < self._chunk.stop:
            if self._chunk.stop_requested():
                return
            stop = self._cut(self._launched_until, self._chunk.stop)
            why = self._launch_up_to(stop)
            if why is None:
                self._launched_until = stop
            elif self._flying:
                return  # what is in hand gives memory back
            else:
                self._settle()
                self._opened.shrink(why)

    def _launch_up_to(self, stop: int) -> str | None:
        """Queue the next batch; None, or why it does not fit into the device's memory."""
        try:
            self._flying.append(self._launched(self._launched_until, stop))
        except OutOfDeviceMemoryError as error:
            return str(error)
        return None

    def _launched(self, start: int, stop: int) -> Flight:
        """Queue the combinations of one batch."""
        opened = self._opened
        slot = next(slot for slot in opened.slots if all(f.slot is not slot for f in self._flying))
        if self._space.count(start, stop) == 0:
            return Flight(start, stop, _NONE)
        indices = self._space.accepted(start, stop)
        queue = slot.queue(self._flag.pointer)
        ready = opened.program.ready(queue, self._space.grid.digits(indices))
        done = slot.launch(queue, opened.tables, ready)
        return Flight(start, stop, indices, slot, done, ready.held)

    def _landed(self, flight: Flight) -> NDArray[np.float64] | None:
        """Wait for a batch; its rows, or None where a stop has ended it early."""
        if flight.slot is None or flight.done is None:
            return np.empty((0, len(self._columns)))
        self._flag.wait(flight.done.done)
        return flight.slot.rows(len(flight.indices))

    def _settle(self) -> None:
        """Wait until nothing is queued any more, rows to be filled included."""
        for slot in self._opened.slots:
            self._flag.wait(self._opened.device.event(slot.stream).done)

    def _cut(self, start: int, stop: int) -> int:
        """Where the batch ends that begins at ``start``: even ones up to ``stop``.

        A launch of few combinations takes as long as one of many: no small ones at the end.
        """
        most = self._opened.most
        if self._in_waves:
            most = min(most, self._flag.wave(MOST_THREADS, _BLOCKS_PER_PROCESSOR))
        stop = min(stop, start + _SPAN * most)
        n = self._space.count(start, stop)
        if n <= most:
            return stop
        wanted = -(-n // -(-n // most))
        return bisect_left(range(stop), wanted, lo=start, key=lambda i: self._space.count(start, i))
