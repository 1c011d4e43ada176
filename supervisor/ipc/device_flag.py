"""The stop flag as a kernel on a GPU sees it.

A kernel polls an int64 word at a device address, which becomes non-zero once a stop is
requested. How the request gets there depends on what the driver allows, strongest first:

1. *mapped*: the page of shared memory that holds the flag's line is mapped into the device's
   address space. The kernel reads the word that the stop writes; no process is in between.
2. *vram*: the word is in device memory. A thread of this process waits for the stop and
   copies over a stream of its own, which does not wait for the running kernel.
3. *waves*: the word is never written. The caller launches as many blocks at once as the
   device holds, and looks at the flag between launches (:meth:`DeviceFlag.launches`).

Nothing is unregistered, freed or joined: a worker ends by ``os._exit``, and the kernel driver
takes back what it held.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from supervisor.errors import ConfigError, UnsupportedPlatformError
from supervisor.ipc import futex
from supervisor.ipc.device_word import NULL_STREAM, Line, Refused, follow, map_line, zero_word
from supervisor.system import cuda
from supervisor.system.cuda import Attribute, CudaError, Driver

FORCED_BY = "ALLSTOP_DEVICE_FLAG"
"""Environment variable that names the tier to use, whatever else would work."""

CUDA_INCLUDE = os.path.dirname(__file__)  # noqa: PTH120 - pathlib takes longer to load than this file
"""Directory of ``allstop.cuh``, for compilers of CUDA C++."""

_SHORTEST_S = 50e-6
_LONGEST_S = 0.002
_SHARE = 64
"""A wait looks again after 1/64 of the time it has taken so far: it then ends at most 1.6 %
late, and a long one costs nothing."""


class Tier(StrEnum):
    """How a stop reaches a running kernel."""

    MAPPED = "mapped"
    """The kernel reads the flag itself."""
    VRAM = "vram"
    """A thread of the process writes a word in device memory."""
    WAVES = "waves"
    """It does not: launches are short instead."""


class Waves(NamedTuple):
    """What decides how many threads a device runs at once."""

    multiprocessors: int
    threads_each: int
    blocks_each: int


class DeviceFlag:
    """A stop flag on one device; see :attr:`supervisor.StopFlag.cuda`.

    Attributes
    ----------
    pointer : int
        Device address of an int64 word: non-zero once a stop is requested, except in tier
        *waves*, where it stays 0. Valid in every context of the device as long as this
        process lives.
    tier : Tier
        How a stop reaches a running kernel.
    why : str
        Why not by a stronger tier; empty for the strongest.
    generation : int
        Generation of the stop flag that it follows.
    """

    def __init__(self, pointer: int, tier: Tier, why: str, line: Line, waves: Waves) -> None:
        self.pointer = pointer
        self.tier = tier
        self.why = why
        self.generation = line.generation
        self._line = line
        self._waves = waves

    def __repr__(self) -> str:
        return f"<DeviceFlag {self.tier} at {self.pointer:#x}, generation {self.generation}>"

    def wait(self, done: Any, timeout: float | None = None) -> bool:
        """Wait for queued work, so that a stop and signals are seen meanwhile.

        ``synchronize`` of any framework waits inside the driver, where Python handles no
        signal. After a stop this continues to wait: a kernel that polls leaves within
        milliseconds, and its buffers may be used only then. Look at ``stop.is_set()``
        afterwards, since what such a kernel has written is incomplete.

        Parameters
        ----------
        done : event, stream or callable
            An event or stream of CuPy (``done``), PyTorch or Numba (``query()``), or a
            callable that returns whether the work is done.
        timeout : float, optional
            Longest time to wait, in s; for ever when left out.

        Returns
        -------
        bool
            Whether the work is done; False only after ``timeout``.

        Raises
        ------
        TypeError
            If ``done`` is none of these.
        Exception
            What asking ``done`` raises: the framework's error if the kernel has failed.
        """
        finished = _question(done)
        began = time.monotonic()
        deadline = futex.monotonic_deadline(timeout)
        while not finished():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return finished()
            if self._line.is_set():
                time.sleep(_SHORTEST_S)
                continue
            pause = min((now - began) / _SHARE, _LONGEST_S)
            if pause < _SHORTEST_S:
                pause = 0.0  # look again at once: the kernel's timer is not finer than that
            until = now + pause
            # even without a pause: a thread that waits for the stop needs the interpreter
            futex.wait(
                self._line.futex_address, 0, until if deadline is None else min(until, deadline)
            )
        return True

    def wave(self, threads_per_block: int, blocks_per_sm: int | None = None) -> int:
        """Return how many threads the device runs at once: the size of one wave.

        Parameters
        ----------
        threads_per_block : int
            Block size of the launch.
        blocks_per_sm : int, optional
            Blocks that fit on a multiprocessor, as the compiler's or profiler's occupancy
            says. When left out: as many as its threads allow, which is too many for a kernel
            that needs many registers; a launch then takes two or three waves.

        Returns
        -------
        int
            Threads; with one thread per item, items.
        """
        if threads_per_block < 1 or (blocks_per_sm is not None and blocks_per_sm < 1):
            raise ValueError("a block has at least one thread, a multiprocessor one block")
        if blocks_per_sm is None:
            fit = max(self._waves.threads_each // threads_per_block, 1)
            blocks_per_sm = min(fit, self._waves.blocks_each or fit)
        return self._waves.multiprocessors * blocks_per_sm * threads_per_block

    def launches(
        self, items: int, threads_per_block: int, blocks_per_sm: int | None = None
    ) -> Iterator[range]:
        """Cut ``items`` into launches that a stop can end; wait for each before the next.

        Yields
        ------
        range
            Items of one launch: all of them where the kernel sees the stop by itself, one
            wave in tier *waves*. Ends early once a stop is requested.
        """
        at_once = self.wave(threads_per_block, blocks_per_sm)
        size = at_once if self.tier is Tier.WAVES else max(items, 1)
        for first in range(0, items, size):
            if self._line.is_set():
                return
            yield range(first, min(first + size, items))


def _question(done: Any) -> Callable[[], bool]:
    """Return how to ask whether ``done`` is done."""
    if hasattr(done, "query"):  # torch, numba
        return lambda: bool(done.query())
    if _is_property(done, "done") and hasattr(done, "ptr"):  # CuPy: a failed kernel's is "not done"
        kind: Literal["Event", "Stream"] = "Stream" if hasattr(done, "wait_event") else "Event"
        driver = cuda.find()
        if driver is not None:
            return lambda: driver.is_done(kind, int(done.ptr))
    for name in ("done", "is_done"):  # cuda.core
        if _is_property(done, name):
            return lambda: bool(getattr(done, name))
    if callable(done):
        return lambda: bool(done())
    raise TypeError(
        f"cannot wait for {type(done).__name__}: give an event or stream of CuPy, PyTorch or "
        "Numba, or a callable"
    )


def _is_property(of: Any, name: str) -> bool:
    return hasattr(type(of), name) and not callable(getattr(type(of), name))


# -- what this process has opened ----------------------------------------------


class _Opened:
    """Flags and pages of this process.

    Invariant: a page is registered once, and its mapping is kept for good: were it unmapped,
    another one at the same address would pass for registered.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pid = 0
        self.flags: dict[tuple[int, int], DeviceFlag] = {}
        self.pages: dict[int, mmap.mmap] = {}


_opened = _Opened()
_report: Callable[[DeviceFlag], None] | None = None


def report_to(report: Callable[[DeviceFlag], None]) -> None:
    """Have ``report`` called with each flag that this process opens on a device.

    Raises
    ------
    ConfigError
        If ``ALLSTOP_DEVICE_FLAG`` names no tier: better now than at the first combination.
    """
    global _report  # noqa: PLW0603
    forced()
    _report = report


def forced() -> Tier | None:
    """Return the tier that ``ALLSTOP_DEVICE_FLAG`` names, or None.

    Raises
    ------
    ConfigError
        If it names none.
    """
    name = os.environ.get(FORCED_BY, "")
    if not name:
        return None
    try:
        return Tier(name)
    except ValueError:
        raise ConfigError(
            f"{FORCED_BY}={name}: known tiers are {', '.join(Tier)}", key=FORCED_BY
        ) from None


def open_line(line: Line) -> DeviceFlag:
    """Open a stop flag's line on the device of the calling thread's context.

    The same flag is returned until the line, or the context, is another.

    Raises
    ------
    CudaError
        If the device cannot be used, or this process was forked from one that used it.
    UnsupportedPlatformError
        If there is no NVIDIA driver.
    ConfigError
        If ``ALLSTOP_DEVICE_FLAG`` names no tier, or one that the driver refuses.
    """
    wanted = forced()
    driver = cuda.find()
    if driver is None:
        raise UnsupportedPlatformError(
            f"{cuda.LIBRARY} cannot be loaded: there is no NVIDIA driver here, and without a GPU "
            "no kernel to stop"
        )
    if _opened.pid not in (0, os.getpid()):
        raise cuda.forked_error("fork")  # what was opened is the parent's
    context = driver.context()
    key = (id(line.memory), context)
    with _opened.lock:
        flag = _opened.flags.get(key)
        if flag is not None and flag.generation == line.generation:
            return flag
        flag = _open(driver, context, line, wanted, _opened.pages)
        _opened.flags[key] = flag
        _opened.pid = os.getpid()
    if _report is not None:
        _report(flag)
    return flag


def _open(
    driver: Driver,
    context: int,
    line: Line,
    wanted: Tier | None,
    pages: dict[int, mmap.mmap],
) -> DeviceFlag:
    """Open the strongest tier that works, or the one that is wanted."""
    device = driver.current_device()
    waves = Waves(
        max(driver.attribute(device, Attribute.MULTIPROCESSOR_COUNT), 1),
        driver.attribute(device, Attribute.MAX_THREADS_PER_MULTIPROCESSOR),
        driver.attribute(device, Attribute.MAX_BLOCKS_PER_MULTIPROCESSOR),
    )
    ways: dict[Tier, Callable[[], int]] = {
        Tier.MAPPED: lambda: map_line(driver, device, line, pages),
        Tier.VRAM: lambda: follow(driver, context, line),
        Tier.WAVES: lambda: zero_word(driver, NULL_STREAM).pointer,
    }
    reasons = [f"{FORCED_BY}={wanted}"] if wanted not in (None, Tier.MAPPED) else []
    for tier in [wanted] if wanted else list(ways):
        try:
            return DeviceFlag(ways[tier](), tier, "; ".join(reasons), line, waves)
        except (CudaError, Refused) as error:
            if isinstance(error, CudaError) and (error.unusable or tier is Tier.WAVES):
                raise
            reasons.append(f"{tier}: {error}")
    raise ConfigError(f"{FORCED_BY}={wanted} does not work here: {reasons[-1]}", key=FORCED_BY)
