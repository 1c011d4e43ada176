"""The stop flag on a device: registration, time to a stop per tier, and the cost of polls."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from bench.gpu.children import Nursery, answer_of
from bench.gpu.poll_cost import TILE_OF_THE_BACKTESTS_US, overhead_rows, overheads
from bench.gpu.probe import NO_WORD, Probe, spin
from bench.gpu.shots import SHOT_S, Turns, shoot, tail_row
from bench.gpu.step import Bench
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.ipc.device_flag import FORCED_BY, Tier
from supervisor.ipc.stopflag import StopFlag
from supervisor.system import cuda

_STOP_TARGET_US = 1000.0

_WAVE_MS = 40.0
_IMPORTS = ("cupy",)


def measure(bench: Bench) -> None:
    """Register the flag in several ways, stop kernels by it, and time polls."""
    sizes = bench.sizes
    parts: dict[str, Callable[[], list[Row]]] = {
        "StopFlag.cuda, when first asked for": opening_rows,
        **{f"stop, tier {tier}": partial(stop_rows, tier, sizes.shots) for tier in Tier},
        "stop, one process": lambda: direct_rows(answer_of(partial(direct_stops, sizes.shots), 30)),
        "cost of polls": lambda: overhead_rows(
            answer_of(partial(overheads, sizes.tile_us, sizes.overhead_rounds), 30)
        ),
    }
    for name, part in parts.items():
        try:
            rows = part()
        except NotMeasuredError as error:
            rows = [Row(name, "µs", not_measured=str(error))]
        for row in rows:
            bench.record.row(row)
    with suppress(NotMeasuredError):
        bench.record.fact("registrations", answer_of(registrations, 15))


# -- registration ------------------------------------------------------------------


def opening_rows() -> list[Row]:
    """Time what opening a flag costs a worker that has a context."""
    took = answer_of(_time_opening, 15)
    return [compare("StopFlag.cuda, when first asked for", "µs", [took])]


def _time_opening() -> float:
    driver = _driver()
    driver.context()
    flag = StopFlag()
    begun = time.perf_counter()
    flag.cuda  # noqa: B018 - opening it is what is timed
    return 1e6 * (time.perf_counter() - begun)


def registrations() -> dict[str, Any]:
    """Register memory in all the ways that could be asked for; times, or what was refused."""
    driver = _driver()
    driver.context()
    page, size = mmap.PAGESIZE, 1 << 20
    shared = _mapping(size, mmap.PROT_READ | mmap.PROT_WRITE)
    read_only = _mapping(size, mmap.PROT_READ)
    mapped = cuda.REGISTER_PORTABLE | cuda.REGISTER_DEVICEMAP
    ways = {
        "one page": (shared, 0, page, mapped),
        "64 bytes, not at a page's start": (shared, page + 64, 64, mapped),
        "a page that is registered already": (shared, 0, page, mapped),
        "1 MiB": (_mapping(size, mmap.PROT_READ | mmap.PROT_WRITE), 0, size, mapped),
        "read-only mapping": (read_only, 0, page, mapped),
        "read-only mapping, flag READ_ONLY": (
            read_only, page, page, mapped | cuda.REGISTER_READ_ONLY,
        ),
    }  # fmt: skip
    return {name: _register(driver, *way) for name, way in ways.items()}


def _register(
    driver: cuda.Driver, memory: mmap.mmap, offset: int, size: int, flags: int
) -> dict[str, Any]:
    address = int(np.frombuffer(memory, np.uint8).ctypes.data) + offset
    begun = time.perf_counter()
    try:
        driver.register(address, size, flags)
    except cuda.CudaError as error:
        return {"refused": str(error)}
    took_us = 1e6 * (time.perf_counter() - begun)
    pointer = driver.device_pointer(address)
    return {"us": round(took_us, 1), "device_pointer_is_host_pointer": pointer == address}


def _mapping(size: int, protection: int) -> mmap.mmap:
    fd = os.memfd_create("allstop-bench", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    os.pwrite(fd, b"\0", 0)
    return mmap.mmap(fd, size, mmap.MAP_SHARED, protection)


def _driver() -> cuda.Driver:
    driver = cuda.find()
    if driver is None:
        raise NotMeasuredError("libcuda.so.1 cannot be loaded")
    driver.initialise()
    return driver


# -- stops, as a worker sees them ------------------------------------------------------


def stop_rows(tier: Tier, shots: int) -> list[Row]:
    """Time stops that another process requests, until the worker's wait for the kernel ends."""
    shots = shots if tier is not Tier.WAVES else max(5, shots // 10)
    with Nursery(_IMPORTS) as nursery:
        delays_us = shoot(nursery, "flag:listen", shots, 0.003, tier=str(tier))
    target = Target(_STOP_TARGET_US) if tier is not Tier.WAVES else None
    return [tail_row(f"request → worker's wait is over, tier {tier}", delays_us, target)]


def listen(nursery: Nursery, slot: int, *, tier: str, shots: int) -> None:
    """Run kernels until each is stopped; a worker's body."""
    os.environ[FORCED_BY] = tier
    probe = Probe()
    iterations = probe.iterations_for(TILE_OF_THE_BACKTESTS_US)
    tiles = round(1000 * _WAVE_MS / TILE_OF_THE_BACKTESTS_US)
    turns = Turns(nursery, slot, shots)
    for _ in turns:
        opened = nursery.flag.cuda
        if tier == Tier.WAVES:
            turns.begun()
            while not nursery.flag.is_set():
                probe.timed_ms("twin", NO_WORD, tiles, iterations)
        else:
            done = probe.until_stopped(opened.pointer, SHOT_S, 100)
            probe.wait_started()
            turns.begun()
            opened.wait(done)
        turns.over()


# -- stops, within one process -----------------------------------------------------------


def direct_stops(shots: int) -> dict[str, list[float]]:
    """Time from the store to the kernel's own sign, and to its event, in µs."""
    os.environ[FORCED_BY] = Tier.MAPPED
    probe = Probe()
    seen: dict[str, list[float]] = {"kernel": [], "event": []}
    flag = StopFlag()
    for _ in range(shots):
        flag.clear()
        done = probe.until_stopped(flag.cuda.pointer, SHOT_S, 100)
        probe.wait_started()
        time.sleep(0.0005)
        begun = time.monotonic_ns()
        flag.set()
        seen["kernel"].append((spin(probe.has_seen, SHOT_S) - begun) / 1000)
        seen["event"].append((spin(lambda done=done: done.done, SHOT_S) - begun) / 1000)  # type: ignore[misc]
    return seen


def direct_rows(seen: dict[str, list[float]]) -> list[Row]:
    """Return the rows of :func:`direct_stops`."""
    names = {
        "kernel": "request → the kernel's own sign, one process",
        "event": "request → the kernel's event is done, one process",
    }
    return [
        tail_row(names[name], delays_us, Target(_STOP_TARGET_US))
        for name, delays_us in seen.items()
    ]
