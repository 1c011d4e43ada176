"""A GPU by CuPy; implements :class:`workers.cupy_backtest.device.Device`.

CuPy is imported when a device is opened: in a worker, after the fork, and nowhere else.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DeviceLostError
from supervisor.system.cuda import CudaError
from supervisor.system.install import advice
from workers.cupy_backtest import cubin, faults
from workers.cupy_backtest.device import Buffer, Event, Grid, Staging, Stream
from workers.cupy_backtest.layout import SOURCES, STAGED, Struct

CONTEXT_BYTES = 512 << 20
"""Set aside of a limit for what CuPy does not count: the context, its kernels and stacks. Some
0.3 to 0.5 GB by report (pytorch#86509, unsloth-zoo#1053)."""

_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_NOT_READY = 600
_MULTIPROCESSORS, _SHARED_BYTES_OPTIN = 16, 97  # cudaDevAttr…
_SHARED_BYTES = 48 << 10
"""Shared memory that every block may have; a kernel asks for more before it is launched."""


@dataclass(frozen=True)
class DeviceMemory:
    """Device memory of CuPy's pool; implements :class:`workers.cupy_backtest.device.Buffer`."""

    memory: Any
    n_bytes: int

    @property
    def address(self) -> int:
        return int(self.memory.ptr)


class CudaEvent:
    """An event of CuPy; implements :class:`workers.cupy_backtest.device.Event`."""

    def __init__(self, event: Any, query: Callable[[int], int], guard: Guard) -> None:
        self.event = event
        self._query = query
        self._guard = guard

    def done(self) -> bool:
        """See :class:`workers.cupy_backtest.device.Event`.

        Not by CuPy's ``Event.done``: that is False for ever once the context is broken, since
        the error is taken for "not ready".
        """
        code = self._query(self.event.ptr)
        if code in (0, _NOT_READY):
            return code == 0
        with self._guard("wait for a kernel"):
            raise faults.UncorrectableError(code)


Guard = Callable[[str], AbstractContextManager[None]]


class CupyDevice:
    """The first GPU that this process sees.

    Parameters
    ----------
    limit_bytes : int or None
        GPU memory that this process may use, context included; None: all that is free.

    Raises
    ------
    DeviceLostError
        If there is no GPU, CuPy cannot use it, or CuPy is not installed.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._cupy = cupy = _import_cupy()
        self._runtime = cupy.cuda.runtime
        self._guard: Guard = functools.partial(faults.told_apart, is_cuda=_code_of(cupy))
        with self._guard("open the GPU"):
            self._runtime.setDevice(0)
            self._runtime.memGetInfo()  # makes the context
            ask = self._runtime.deviceGetAttribute
            self.n_multiprocessors = int(ask(_MULTIPROCESSORS, 0))
            self.shared_bytes = max(int(ask(_SHARED_BYTES_OPTIN, 0)), _SHARED_BYTES)
            number = str(cupy.cuda.Device(0).compute_capability)
            self._capability = int(number[:-1]), int(number[-1])
            self._pool = cupy.cuda.MemoryPool()  # not the process's: only ours is limited
            if limit_bytes is not None:
                self._pool.set_limit(size=pool_limit(limit_bytes))
        self._kernels: dict[str, Any] = {}

    # -- memory ----------------------------------------------------------------

    def empty(self, n_bytes: int) -> DeviceMemory:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard(f"allocate {n_bytes:,} bytes"):
            return DeviceMemory(self._pool.malloc(max(n_bytes, 1)), n_bytes)

    def staging(self, n_bytes: int) -> Staging:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard(f"pin {n_bytes:,} bytes of host memory"):
            memory = self._cupy.cuda.PinnedMemoryPointer(
                self._cupy.cuda.PinnedMemory(max(n_bytes, 1)), 0
            )
            return np.frombuffer(memory, np.uint8, n_bytes)

    def upload(self, array: NDArray[Any]) -> DeviceMemory:
        """See :class:`workers.cupy_backtest.device.Device`."""
        array = np.ascontiguousarray(array)
        memory = self.empty(array.nbytes)
        if array.nbytes:
            with self._guard(f"copy {array.nbytes:,} bytes to the GPU"):
                self._runtime.memcpy(memory.address, array.ctypes.data, array.nbytes, _TO_DEVICE)
        return memory

    def copy_in(self, source: Staging, target: Buffer, stream: Stream) -> None:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard("copy to the GPU"):
            self._runtime.memcpyAsync(
                target.address, source.ctypes.data, source.nbytes, _TO_DEVICE, stream.ptr
            )

    def copy_back(self, source: Buffer, start: int, target: Staging, stream: Stream) -> None:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard("copy from the GPU"):
            self._runtime.memcpyAsync(
                target.ctypes.data, source.address + start, target.nbytes, _TO_HOST, stream.ptr
            )

    def free_bytes(self) -> int:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard("ask for free memory"):
            free = int(self._runtime.memGetInfo()[0]) + int(self._pool.free_bytes())
            limit = int(self._pool.get_limit())  # 0: none
            used = int(self._pool.used_bytes())
        return min(free, limit - used) if limit else free

    def release(self) -> None:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard("free memory"):
            self._pool.free_all_blocks()

    # -- work --------------------------------------------------------------------

    def stream(self) -> Stream:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard("make a stream"):
            return self._cupy.cuda.Stream(non_blocking=True)

    def launch(self, kernel: str, grid: Grid, arguments: Sequence[Struct], stream: Stream) -> None:
        """See :class:`workers.cupy_backtest.device.Device`."""
        at = (grid.blocks,), (grid.threads,)
        with self._guard(f"launch {kernel}"), stream:
            # an array of one element is passed by value
            self._kernels[kernel](*at, tuple(arguments), shared_mem=grid.shared_bytes)

    def event(self, stream: Stream) -> CudaEvent:
        """See :class:`workers.cupy_backtest.device.Device`."""
        with self._guard("record an event"):
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record(stream)
        return CudaEvent(event, self._runtime.eventQuery, self._guard)

    def after(self, event: Event, stream: Stream) -> None:
        """See :class:`workers.cupy_backtest.device.Device`."""
        if not isinstance(event, CudaEvent):
            raise TypeError("an event of another device")
        with self._guard("wait for an event"):
            stream.wait_event(event.event)

    def close(self) -> None:
        """See :class:`workers.cupy_backtest.device.Device`."""
        self._kernels.clear()
        self.release()

    # -- kernels -------------------------------------------------------------------

    def load(self, kernels: Sequence[str]) -> None:
        """See :class:`workers.cupy_backtest.device.Device`."""
        for source, of_source in SOURCES.items():
            if not self._kernels.keys() >= set(of_source) and set(of_source) & set(kernels):
                self._kernels.update(self._load(source))

    def _load(self, source: str) -> Mapping[str, Any]:
        """All kernels of a source file."""
        code = cubin.cubin(source, self._capability)
        with self._guard(f"load the kernels of {source}.cu"):
            # CuPy takes a path and remembers modules by it: this one lives as long as we do
            fd = os.memfd_create(f"allstop-{source}", os.MFD_CLOEXEC)
            with open(fd, "wb", closefd=False) as file:
                file.write(code)
            module = self._cupy.RawModule(path=f"/proc/self/fd/{fd}")
            kernels = {name: module.get_function(name) for name in SOURCES[source]}
            for name in STAGED & kernels.keys():
                kernels[name].max_dynamic_shared_size_bytes = self.shared_bytes
            return kernels


def pool_limit(limit_bytes: int) -> int:
    """What of a limit is left for arrays: not the context, and a quarter of it at least."""
    return max(limit_bytes - CONTEXT_BYTES, limit_bytes // 4)


def _import_cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise DeviceLostError(
            f"CuPy cannot be imported ({error}); to install it: {advice('cuda13')} "
            "(cuda12 for a driver that does not know CUDA 13)"
        ) from None
    return cupy


def _code_of(cupy: Any) -> Callable[[BaseException], int | None]:
    """The CUDA code of an exception; None where it has none."""
    from cupy.cuda import driver, runtime

    kinds = (
        runtime.CUDARuntimeError,
        driver.CUDADriverError,
        faults.UncorrectableError,
    )

    def code_of(error: BaseException) -> int | None:
        if isinstance(error, cupy.cuda.memory.OutOfMemoryError):
            return faults.OUT_OF_MEMORY
        if isinstance(error, CudaError):
            return error.code
        return int(error.status) if isinstance(error, kinds) else None

    return code_of
