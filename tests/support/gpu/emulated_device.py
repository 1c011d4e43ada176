"""A GPU made of threads: the kernels' own source, compiled for the CPU, behind the device's port.

"Device memory" is host memory that is filled with rubbish when it is made and when it goes, so
that what is read too early or too late is seen. Every stream is a thread with a queue: a launch
returns at once, and what was queued happens later, as on a device.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DeviceLostError
from workers.cupy_backtest.device import Event, Grid, OutOfDeviceMemoryError, Staging
from workers.cupy_backtest.layout import KERNELS, MOST_THREADS, STAGED, Struct

_ALIGNED = 256
_RUBBISH = 0xAB
_LIMIT_S = 120.0


class EmulatedMemory:
    """Implements :class:`workers.cupy_backtest.device.Buffer`."""

    def __init__(self, n_bytes: int, gone: Callable[[NDArray[np.uint8]], None]) -> None:
        memory = np.full(n_bytes + _ALIGNED, _RUBBISH, np.uint8)
        self.n_bytes = n_bytes
        self.address = -(-memory.ctypes.data // _ALIGNED) * _ALIGNED
        weakref.finalize(self, gone, memory)


class EmulatedEvent:
    """Implements :class:`workers.cupy_backtest.device.Event`."""

    def __init__(self, device: EmulatedDevice) -> None:
        self.reached = threading.Event()
        self._device = device

    def done(self) -> bool:
        self._device.check()
        return self.reached.is_set()


class EmulatedStream:
    """A thread that does what is queued, in order."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name="emulated-stream")
        self._thread.start()

    def _run(self) -> None:
        while (work := self.queue.get()) is not None:
            work()
            del work  # what it held must not live until the next one

    def end(self) -> None:
        self.queue.put(None)
        self._thread.join(_LIMIT_S)
        assert not self._thread.is_alive()


@dataclass
class Seen:
    """What was asked of a device."""

    launches: list[tuple[str, Grid]] = field(default_factory=list)
    refused: int = 0
    most_bytes: int = 0
    uploads: int = 0


class EmulatedDevice:
    """Implements :class:`workers.cupy_backtest.device.Device`.

    Parameters
    ----------
    library : CDLL
        The kernels as C functions, ``launch_<kernel>(void** arguments, blocks, threads)``.
    limit_bytes : int, optional
        Device memory; unlimited if left out.
    lost_at : int, optional
        The number of the launch, from 0, at which the device is lost; from then on every call
        says so.
    before : callable, optional
        Called in the stream's thread before a kernel runs, with its name and how many of that
        name were launched before.
    """

    def __init__(
        self,
        library: Any,
        limit_bytes: int | None = None,
        *,
        lost_at: int | None = None,
        before: Callable[[str, int], None] = lambda kernel, nth: None,
        n_multiprocessors: int = 1,
        shared_bytes: int = 100_000,
    ) -> None:
        self.n_multiprocessors = n_multiprocessors
        self.shared_bytes = shared_bytes
        self.seen = Seen()
        self.lost = False
        self.lost_at = lost_at
        self.before = before
        self._library = library
        self._limit = limit_bytes
        self._used = 0
        # finalizers run anywhere, at any time
        self._gone: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        self._grave: list[NDArray[np.uint8]] = []
        self._in_use: dict[int, list[int]] = {}
        self.freed_in_use: list[str] = []
        """Kernels whose memory went before they were done."""
        self._loaded: set[str] = set()
        self._streams: list[EmulatedStream] = []

    def check(self) -> None:
        """Raise if the device is lost."""
        if self.lost:
            raise DeviceLostError("the emulated GPU fell off its bus")

    def load(self, kernels: Sequence[str]) -> None:
        self.check()
        self._loaded |= set(kernels)

    def stream(self) -> EmulatedStream:
        self.check()
        self._streams.append(EmulatedStream())
        return self._streams[-1]

    def empty(self, n_bytes: int) -> EmulatedMemory:
        self.check()
        if self._limit is not None and n_bytes > self.free_bytes():
            self.seen.refused += 1
            raise OutOfDeviceMemoryError(f"{n_bytes:,} bytes are not free")
        self._used += n_bytes
        self.seen.most_bytes = max(self.seen.most_bytes, self._used)
        return EmulatedMemory(n_bytes, self._bury)

    def _bury(self, memory: NDArray[np.uint8]) -> None:
        start = memory.ctypes.data
        for number, addresses in list(self._in_use.items()):
            if any(start <= address < start + len(memory) for address in addresses):
                self.freed_in_use.append(self.seen.launches[number][0])
        memory[:] = _RUBBISH
        self._gone.put(memory)  # kept until the end: what still reads it reads rubbish

    def staging(self, n_bytes: int) -> Staging:
        self.check()
        return np.full(n_bytes, _RUBBISH, np.uint8)

    def upload(self, array: NDArray[Any]) -> EmulatedMemory:
        array = np.ascontiguousarray(array)
        memory = self.empty(array.nbytes)
        ctypes.memmove(memory.address, array.ctypes.data, array.nbytes)
        self.seen.uploads += 1
        return memory

    def copy_in(self, source: Staging, target: Any, stream: EmulatedStream) -> None:
        self._copy(source, target.address, source.ctypes.data, source.nbytes, stream)

    def copy_back(self, source: Any, start: int, target: Staging, stream: EmulatedStream) -> None:
        self._copy(target, target.ctypes.data, source.address + start, target.nbytes, stream)

    def _copy(
        self, host: Staging, target: int, source: int, n_bytes: int, stream: EmulatedStream
    ) -> None:
        self.check()
        # the host's array by address only: keeping it alive is the caller's task, as on a device
        assert host.flags.c_contiguous
        stream.queue.put(lambda: self._unless_lost(ctypes.memmove, target, source, n_bytes))

    def launch(
        self, kernel: str, grid: Grid, arguments: Sequence[Struct], stream: EmulatedStream
    ) -> None:
        self.check()
        assert kernel in self._loaded
        assert grid.blocks >= 1
        assert grid.threads % 32 == 0
        assert 32 <= grid.threads <= MOST_THREADS
        assert grid.shared_bytes <= (self.shared_bytes if kernel in STAGED else 0)
        assert tuple(argument.dtype for argument in arguments) == KERNELS[kernel]
        number = len(self.seen.launches)
        nth = [name for name, _ in self.seen.launches].count(kernel)
        self.seen.launches.append((kernel, grid))
        copies = [argument.copy() for argument in arguments]  # by value, as a device takes them
        self._in_use[number] = [address for copy in copies for address in _addresses(copy)]
        stream.queue.put(lambda: self._run(kernel, nth, number, grid, copies))
        if number == self.lost_at:
            self._when_done(stream).wait(_LIMIT_S)  # so that the next call finds it lost

    def _run(self, kernel: str, nth: int, number: int, grid: Grid, arguments: list[Struct]) -> None:
        self.lost = self.lost or number == self.lost_at
        self.before(kernel, nth)
        addresses = [argument.ctypes.data for argument in arguments]
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        function = getattr(self._library, f"launch_{kernel}")
        self._unless_lost(function, pointers, grid.blocks, grid.threads)
        del self._in_use[number]

    @property
    def idle(self) -> bool:
        """Whether no kernel is queued or running."""
        return not self._in_use

    def _unless_lost(self, work: Callable[..., Any], *arguments: Any) -> None:
        if not self.lost:
            work(*arguments)

    def event(self, stream: EmulatedStream) -> EmulatedEvent:
        self.check()
        event = EmulatedEvent(self)
        stream.queue.put(event.reached.set)
        return event

    def _when_done(self, stream: EmulatedStream) -> threading.Event:
        event = threading.Event()
        stream.queue.put(event.set)
        return event

    def after(self, event: Event, stream: EmulatedStream) -> None:
        self.check()
        assert isinstance(event, EmulatedEvent)
        stream.queue.put(lambda: self._wait_for(event))

    def _wait_for(self, event: EmulatedEvent) -> None:
        assert event.reached.wait(_LIMIT_S)

    def free_bytes(self) -> int:
        self.check()
        while not self._gone.empty():
            self._grave.append(self._gone.get())
            self._used -= len(self._grave[-1]) - _ALIGNED
        return 1 << 40 if self._limit is None else self._limit - self._used

    def release(self) -> None:
        self.check()

    def close(self) -> None:
        for stream in self._streams:
            stream.end()
        self._streams = []
        assert self.lost or not self.freed_in_use


def _addresses(argument: Struct) -> list[int]:
    names = argument.dtype.names or ()
    return [int(argument[name]) for name in names if argument.dtype[name] == np.uint64]
