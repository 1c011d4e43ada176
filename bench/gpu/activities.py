"""Bodies of workers that are ended: what they hold, what they do, and how they leave."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

from bench.gpu.children import BACK_NS, LOOPS, READY_NS, Nursery, Shared
from bench.gpu.probe import SOURCE, Probe
from supervisor.system import cuda

LONGEST_S = 30.0
"""A kernel that is never stopped ends by itself after this time."""

_PIECE = 4 * 10**9
_SHARED = 160 * 1024
_BLOCK = 256 * 2**20


def hold(
    nursery: Shared, slot: int, *, hold_gb: int, pinned_gb: int, kernel: str, leave: str
) -> None:
    """Hold memory and run a kernel until ended, by the flag or by a signal.

    Parameters
    ----------
    nursery : Shared
        Its flag and signs.
    slot : int
        This worker's line of signs.
    hold_gb, pinned_gb : int
        VRAM and pinned host memory, in GB.
    kernel : str
        ``polling``, ``deaf`` or ``idle`` (none).
    leave : str
        ``exit``: at once, once the kernel is back; ``free``: memory is freed and the context
        reset before.
    """
    probe = Probe(_SHARED)
    runtime = probe.cupy.cuda.runtime
    pieces = [runtime.malloc(size) for size in pieces_of(hold_gb * 10**9)]
    pinned = [runtime.hostAlloc(size, 0) for size in pieces_of(pinned_gb * 10**9)]
    for pointer, size in zip(pieces, pieces_of(hold_gb * 10**9), strict=True):
        runtime.memset(pointer, 1, size)
    probe.cupy.cuda.Device().synchronize()
    flag = nursery.flag
    flag.rearm()
    pointer = flag.cuda.pointer if kernel == "polling" else 0
    done: Any = None
    if kernel != "idle":
        done = probe.until_stopped(pointer, LONGEST_S)
        probe.wait_started()
    if nursery.after_ready is not None:
        nursery.after_ready()
    nursery.signs.put(slot, READY_NS, time.monotonic_ns())
    if done is None:
        flag.wait(LONGEST_S)
    else:
        flag.cuda.wait(done)
    nursery.signs.put(slot, BACK_NS, time.monotonic_ns())
    if leave == "free":
        for pointer in pieces:
            runtime.free(pointer)
        for pointer in pinned:
            runtime.freeHost(pointer)
        _reset()
    os._exit(0)


def _reset() -> None:
    """Destroy the context, as a long-lived process would."""
    driver = cuda.find()
    if driver is not None:
        driver.call("cuDevicePrimaryCtxReset_v2", ctypes.c_int(0))


def pieces_of(size: int) -> list[int]:
    """Cut an allocation into pieces of at most 4 GB, in bytes."""
    return [min(_PIECE, size - first) for first in range(0, size, _PIECE)]


# -- what is killed at a random moment --------------------------------------------


def busy(nursery: Nursery, slot: int, *, library: str, activity: str) -> None:
    """Do one thing again and again, until killed."""
    # the first use of the device is an activity too: ready before it
    if activity == "start":
        nursery.signs.put(slot, READY_NS, time.monotonic_ns())
        _CONTEXTS[library]()
        time.sleep(LONGEST_S)
        return
    once = _ONCE[library, activity]()
    once()
    nursery.signs.put(slot, READY_NS, time.monotonic_ns())
    until = time.monotonic() + LONGEST_S
    loops = 0
    while time.monotonic() < until:
        once()
        loops += 1
        nursery.signs.put(slot, LOOPS, loops)


def _cupy_context() -> None:
    import cupy

    cupy.cuda.runtime.free(0)


def _torch_context() -> None:
    import torch

    torch.cuda.init()
    torch.zeros(1, device="cuda")


def _cupy_kernel() -> Callable[[], Any]:
    probe = Probe(_SHARED)

    def once() -> None:
        done = probe.until_stopped(0, 0.05)
        while not done.done:
            pass

    return once


def _cupy_malloc() -> Callable[[], Any]:
    import cupy

    runtime = cupy.cuda.runtime

    def once() -> None:
        pointer = runtime.malloc(_BLOCK)
        runtime.free(pointer)

    return once


def _cupy_memcpy() -> Callable[[], Any]:
    import cupy
    import numpy as np

    device = cupy.zeros(_BLOCK, "u1")
    host = np.zeros(_BLOCK, "u1")

    def once() -> None:
        device.set(host)
        device.get(out=host)

    return once


def _cupy_module() -> Callable[[], Any]:
    import cupy
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(SOURCE.read_text(), SOURCE.name, (), ())
    arch = f"--gpu-architecture=sm_{cupy.cuda.Device().compute_capability}"
    nvrtc.compileProgram(program, (arch, "--std=c++17"))
    code = nvrtc.getCUBIN(program)

    def once() -> None:
        module = cupy.cuda.function.Module()
        module.load(code)
        module.get_function("twin")

    return once


def _torch_kernel() -> Callable[[], Any]:
    import torch

    a = torch.ones(4096, 4096, device="cuda")

    def once() -> None:
        torch.mm(a, a)
        torch.cuda.synchronize()

    return once


def _torch_malloc() -> Callable[[], Any]:
    import torch

    torch.cuda.init()

    def once() -> None:
        torch.empty(_BLOCK, dtype=torch.uint8, device="cuda")
        torch.cuda.empty_cache()

    return once


def _torch_memcpy() -> Callable[[], Any]:
    import torch

    device = torch.zeros(_BLOCK, dtype=torch.uint8, device="cuda")
    host = torch.zeros(_BLOCK, dtype=torch.uint8)

    def once() -> None:
        device.copy_(host)
        host.copy_(device)

    return once


_CONTEXTS: dict[str, Callable[[], None]] = {"cupy": _cupy_context, "torch": _torch_context}

_ONCE: dict[tuple[str, str], Callable[[], Callable[[], Any]]] = {
    ("cupy", "kernel"): _cupy_kernel,
    ("cupy", "malloc"): _cupy_malloc,
    ("cupy", "memcpy"): _cupy_memcpy,
    ("cupy", "module"): _cupy_module,
    ("torch", "kernel"): _torch_kernel,
    ("torch", "malloc"): _torch_malloc,
    ("torch", "memcpy"): _torch_memcpy,
}

ACTIVITIES = (*_ONCE, *((library, "start") for library in _CONTEXTS))
"""Libraries and what they can be killed in."""
