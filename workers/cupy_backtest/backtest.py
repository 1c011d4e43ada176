"""The built-in strategies as a backend: batches of combinations through a GPU's kernels."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError, DeviceLostError, UnsupportedPlatformError
from supervisor.ipc.device_flag import DeviceFlag, Tier
from supervisor.rows.space import Space
from supervisor.system.cuda import CudaError
from workers.backend import Chunk
from workers.catalog import STRATEGIES
from workers.cupy_backtest import faults, signals
from workers.cupy_backtest.accounting import Accounting
from workers.cupy_backtest.batches import Flight, Slot, slots_for
from workers.cupy_backtest.crosses import sma_cross
from workers.cupy_backtest.device import Device, OutOfDeviceMemoryError
from workers.cupy_backtest.layout import MOST_THREADS
from workers.cupy_backtest.programs import Axes, Program

if TYPE_CHECKING:
    from workers.strategies.market import Bars

_BLOCKS_PER_PROCESSOR = 3
"""What fits of a kernel of 256 threads with some 80 registers each."""

_WAVES = 2
"""Waves of blocks in a launch: the second fills the processors that the first leaves early."""

_H100_PROCESSORS = 132

_LEAST = 32
"""Combinations of a batch, one warp: with less memory than those need there is no going on."""

_SPAN = 16
"""Grid indices in a batch are at most so many times the combinations: where few are accepted,
listing them takes memory for all."""

_NONE = np.empty(0, np.int64)

_PROGRAMS: Mapping[str, Callable[[Bars, Axes], Program]] = {
    "sma_cross": sma_cross,
    "bollinger_reversion": signals.bollinger_reversion,
    "rsi_reversion": signals.rsi_reversion,
    "donchian_breakout": signals.donchian_breakout,
}

OpenDevice = Callable[[int | None], Device]
"""Opens the GPU of this process, within a limit in bytes."""


class CupyBacktest:
    """Backtests one built-in strategy on a GPU; implements :class:`workers.backend.Backend`.

    Parameters
    ----------
    bars : Bars
        Read-only float64 arrays `high`, `low`, `close`, and `bars_per_year`.
    space : Space
        The combinations the strategy accepts; its grid was checked with
        :func:`workers.catalog.check`.
    strategy_name : str
        One of :data:`workers.catalog.STRATEGIES`.
    fee : float
        Fraction of the traded value that each fill costs.
    limit_bytes : int, optional
        GPU memory that each worker may use; all that is free if left out.
    open_device : callable, optional
        Opens the device in the worker.

    Attributes
    ----------
    batch : int
        Combinations that are aimed at per launch: what a large GPU computes at once, twice.

    Raises
    ------
    ConfigError
        If the fee is not a fraction.
    """

    def __init__(
        self,
        bars: Bars,
        space: Space,
        strategy_name: str,
        *,
        fee: float,
        limit_bytes: int | None = None,
        open_device: OpenDevice | None = None,
    ) -> None:
        if not 0.0 <= fee < 1.0:
            raise ConfigError(f"fee must be at least 0 and below 1, not {fee}", key="fee")
        self._bars = bars
        self._space = space
        self._facts = STRATEGIES[strategy_name]
        self._fee = fee
        self._limit_bytes = limit_bytes
        self._open_device = open_device or _open_cupy
        self.batch = _most_at_once(_H100_PROCESSORS)
        self._accounting: Accounting | None = None
        self._program: Program | None = None
        self._opened: _Opened | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that :meth:`evaluate` keeps."""
        return self._facts.columns

    def prepare(self) -> None:
        """Compute with NumPy what all workers copy to their devices; before the fork."""
        grid = self._space.grid
        axes = dict(zip(grid.names, grid.axes, strict=True))
        self._accounting = Accounting(self._bars, self._fee)
        self._program = _PROGRAMS[self._facts.name](self._bars, axes)

    def start(self) -> None:
        """Open the device and copy there what all combinations need.

        Raises
        ------
        DeviceLostError
            If there is no device that can be used.
        OutOfDeviceMemoryError
            If the bars do not fit.
        """
        if self._accounting is None or self._program is None:
            raise RuntimeError("prepare() comes before start()")
        device = self._open_device(self._limit_bytes)
        self._accounting.open(device)
        self._program.open(device)
        self._opened = _Opened(device, self._accounting, self._program, len(self.columns))

    def evaluate(self, chunk: Chunk) -> int:
        """Compute a chunk batch by batch; see :meth:`workers.backend.Backend.evaluate`.

        While one batch is computed, the rows of the one before are kept. A stop discards the
        batches that the device has in hand; every batch before them is kept.

        Raises
        ------
        DeviceLostError
            If the device, or this process's context on it, is broken. What was finished before
            is kept.
        OutOfDeviceMemoryError
            If not even some tens of combinations fit.
        """
        if self._opened is None:
            raise RuntimeError("start() comes before evaluate()")
        if self._space.count(chunk.start, chunk.stop) == 0:
            rows = np.empty((0, len(self.columns)))
            chunk.keep(chunk.start, self.columns, rows, stop=chunk.stop, indices=_NONE)
            return chunk.stop
        return _Sweep(self._opened, self._space, self.columns, chunk, _flag_of(chunk)).run()


class _Opened:
    """A device with everything that batches need on it."""

    def __init__(
        self, device: Device, accounting: Accounting, program: Program, n_columns: int
    ) -> None:
        self.device = device
        self.tables = accounting.tables
        self.program = program
        self.most = _most_at_once(device.n_multiprocessors)
        self.slots: list[Slot] = []
        self._n_columns = n_columns
        self._allocate()

    def _allocate(self) -> None:
        """Make room for batches, of half the size as often as it takes."""
        while not self.slots:
            try:
                self.slots = slots_for(self.device, self.program, self.most, self._n_columns)
            except OutOfDeviceMemoryError as error:
                self.halve(error)

    def halve(self, error: OutOfDeviceMemoryError) -> None:
        """Go on with batches of half the size; nothing may be queued any more.

        Raises
        ------
        OutOfDeviceMemoryError
            If they are as small as is sensible.
        """
        self.most //= 2
        if self.most < _LEAST:
            raise OutOfDeviceMemoryError(
                f"the GPU has not enough memory for {_LEAST} combinations at once: free some, or "
                f"raise the limit (--vram-limit); {error}"
            ) from None

    def shrink(self, error: OutOfDeviceMemoryError) -> None:
        """Give back all that can be made again, then make room for smaller batches."""
        self.program.forget()
        self.slots = []
        self.device.release()
        self.halve(error)
        self._allocate()


class _Sweep:
    """One chunk's way through the device."""

    def __init__(
        self,
        opened: _Opened,
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
            try:
                self._flying.append(self._launched(self._launched_until, stop))
            except OutOfDeviceMemoryError as error:
                if self._flying:
                    return  # what is in hand gives memory back
                self._settle()
                self._opened.shrink(error)
            else:
                self._launched_until = stop

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


def _most_at_once(n_multiprocessors: int) -> int:
    return n_multiprocessors * _BLOCKS_PER_PROCESSOR * MOST_THREADS * _WAVES


def _flag_of(chunk: Chunk) -> DeviceFlag:
    """The stop flag on the device.

    Raises
    ------
    DeviceLostError
        If the device cannot be used any more.
    """
    try:
        return chunk.stop_flag.cuda
    except CudaError as error:
        if error.unusable:
            raise faults.lost(error.code, str(error)) from None
        raise
    except UnsupportedPlatformError as error:
        raise DeviceLostError(str(error)) from None


def _open_cupy(limit_bytes: int | None) -> Device:
    from workers.cupy_backtest.cuda_device import CupyDevice

    return CupyDevice(limit_bytes)
