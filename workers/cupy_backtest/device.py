"""The port through which a backtest uses a GPU: memory, streams, launches, events.

Two things implement it: :class:`workers.cupy_backtest.cuda_device.CupyDevice`, and a device that
the tests emulate on the CPU. Nothing here imports CuPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import AllstopError
from workers.cupy_backtest.layout import Struct

Stream = Any
"""A queue of work: what is queued on one is done in order. Each device has its own kind."""

Staging = NDArray[np.uint8]
"""Host memory that a device copies from and to while the host does something else."""


class OutOfDeviceMemoryError(AllstopError):
    """The device, or the limit that was set for it, has not that much memory left.

    Attributes
    ----------
    transient : bool
        True: other processes may give memory back.
    """

    transient = True


class Buffer(Protocol):
    """Device memory, which goes back when the last reference to it does."""

    @property
    def address(self) -> int:
        """Device address, a multiple of 256."""
        ...

    @property
    def n_bytes(self) -> int: ...


def opened(buffer: Buffer | None) -> Buffer:
    """What ``open()`` has put on the device.

    Raises
    ------
    RuntimeError
        If it was not called.
    """
    if buffer is None:
        raise RuntimeError("open() comes first")
    return buffer


class Event(Protocol):
    """A point in a stream."""

    def done(self) -> bool:
        """Whether all that was queued before it is done; never blocks.

        Raises
        ------
        DeviceLostError
            If the device, or this process's context on it, is broken.
        """
        ...


class Grid(NamedTuple):
    """How a kernel is launched: blocks of threads, and bytes of shared memory for each block."""

    blocks: int
    threads: int
    shared_bytes: int = 0


class Device(Protocol):
    """A GPU that this process has opened.

    Every method may raise :class:`~supervisor.errors.DeviceLostError`. None but :meth:`upload`
    waits for queued work.

    Attributes
    ----------
    n_multiprocessors : int
    shared_bytes : int
        Most shared memory that a block may have.
    """

    n_multiprocessors: int
    shared_bytes: int

    def load(self, kernels: Sequence[str]) -> None:
        """Make kernels ready to be launched: compiled where no code is cached.

        Loading one later could wait for another that runs.
        """
        ...

    def stream(self) -> Stream:
        """Make a stream that waits for no other."""
        ...

    def empty(self, n_bytes: int) -> Buffer:
        """Allocate device memory, uninitialised.

        Raises
        ------
        OutOfDeviceMemoryError
            If there is not enough.
        """
        ...

    def staging(self, n_bytes: int) -> Staging:
        """Allocate pinned host memory, shape (n_bytes,).

        Raises
        ------
        OutOfDeviceMemoryError
            If there is not enough.
        """
        ...

    def upload(self, array: NDArray[Any]) -> Buffer:
        """Copy an array to device memory of its own; has been copied on return.

        Raises
        ------
        OutOfDeviceMemoryError
            If there is not enough.
        """
        ...

    def copy_in(self, source: Staging, target: Buffer, stream: Stream) -> None:
        """Queue a copy of all of ``source`` to the start of ``target``."""
        ...

    def copy_back(self, source: Buffer, start: int, target: Staging, stream: Stream) -> None:
        """Queue a copy of the bytes from ``start`` on in ``source``, as many as ``target`` has."""
        ...

    def launch(self, kernel: str, grid: Grid, arguments: Sequence[Struct], stream: Stream) -> None:
        """Queue a kernel.

        Parameters
        ----------
        kernel : str
            One of :data:`workers.cupy_backtest.layout.KERNELS`.
        grid : Grid
            At least one block.
        arguments : sequence of Struct
            Passed by value: they may be changed on return.
        stream : Stream
            Where to queue it.
        """
        ...

    def event(self, stream: Stream) -> Event:
        """Record the point that a stream has come to."""
        ...

    def after(self, event: Event, stream: Stream) -> None:
        """Have what is queued on a stream from now on wait for an event of another one."""
        ...

    def free_bytes(self) -> int:
        """How much can still be allocated, about."""
        ...

    def release(self) -> None:
        """Give back what is cached, after references to it were dropped."""
        ...

    def close(self) -> None:
        """Drop everything. A worker does not call it: the kernel frees it when the worker ends."""
        ...
