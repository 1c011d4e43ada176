"""Kernels of the measurements on the device, through CuPy; only ever used in worker processes."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.errors import NotMeasuredError

SOURCE = Path(__file__).parent / "source" / "probe.cu"

THREADS = 256
NO_WORD = (np.int32(0),)
"""What `twin` is given in place of a stop word."""

BLOCKS_PER_SM = 3
"""As in a wave of the backtests' kernels."""

_STARTED, _SEEN, _SIGNS = 0, 1, 3
_START_S = 5.0


class Probe:
    """The kernels, compiled for the device at hand, with a stream of their own.

    Parameters
    ----------
    shared_bytes : int
        Shared memory that :meth:`until_stopped` takes, per block.
    """

    def __init__(self, shared_bytes: int = 4096) -> None:
        import cupy

        self.cupy: Any = cupy
        self.stream: Any = cupy.cuda.Stream(non_blocking=True)
        module: Any = cupy.RawModule(code=SOURCE.read_text(), options=("-std=c++17",))
        names = ("until_stopped", "polling", "in_turns", "twin")
        self._kernels: dict[str, Any] = {name: module.get_function(name) for name in names}
        self._multiprocessors = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
        self._out: Any = cupy.zeros(self.blocks * THREADS, "f4")
        self._pinned: Any = cupy.cuda.alloc_pinned_memory(8 * _SIGNS)
        self._signs = (ctypes.c_int64 * _SIGNS).from_address(self._pinned.ptr)
        self._shared = shared_bytes
        self._kernels["until_stopped"].max_dynamic_shared_size_bytes = shared_bytes
        self.until_stopped(0, 1e-4)  # loaded now: a first launch may wait for a running kernel
        self.stream.synchronize()

    @property
    def blocks(self) -> int:
        """Blocks of one wave."""
        return self._multiprocessors * BLOCKS_PER_SM

    def until_stopped(self, pointer: int, limit_s: float, iterations: int = 100) -> Any:
        """Launch a kernel that runs until the word at ``pointer`` is set.

        Parameters
        ----------
        pointer : int
            Device address; 0: it never polls.
        limit_s : float
            It ends by itself after this time.
        iterations : int
            Work between two polls.

        Returns
        -------
        event of CuPy
            Done when the kernel is.
        """
        self._signs[_STARTED] = self._signs[_SEEN] = 0
        arguments = (
            np.uint64(pointer),
            np.uint64(limit_s * 1e9),
            np.int32(iterations),
            np.uint64(self._pinned.ptr),
        )
        kernel = self._kernels["until_stopped"]
        with self.stream:
            kernel((self._multiprocessors,), (THREADS,), arguments, shared_mem=self._shared)
        event = self.cupy.cuda.Event(disable_timing=True)
        event.record(self.stream)
        return event

    def wait_started(self) -> None:
        """Wait until the kernel says that it runs.

        Raises
        ------
        NotMeasuredError
            If it does not within seconds.
        """
        deadline = time.monotonic() + _START_S
        while not self._signs[_STARTED]:
            if time.monotonic() > deadline:
                raise NotMeasuredError("the kernel has not begun")

    def has_seen(self) -> bool:
        """Whether the kernel has said that it saw the stop."""
        return bool(self._signs[_SEEN])

    # -- a known time of work ------------------------------------------------

    def timed_ms(self, kernel: str, words: tuple[Any, ...], tiles: int, iterations: int) -> float:
        """Return the time of a kernel that is given these words first, by the device's clock."""
        begun, ended = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        with self.stream:
            begun.record(self.stream)
            self._kernels[kernel](
                (self.blocks,), (THREADS,),
                (*words, np.int32(tiles), np.int32(iterations), self._out),
            )  # fmt: skip
            ended.record(self.stream)
        ended.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(begun, ended))

    def iterations_for(self, tile_us: float) -> int:
        """Return how many iterations a tile of about this time has, with the device full."""
        self.timed_ms("twin", NO_WORD, 100, 1000)  # clocks go up
        us = 1000 * self.timed_ms("twin", NO_WORD, 1000, 1000) / 1000
        return max(1, round(1000 * tile_us / us))


def spin(condition: Callable[[], bool], limit_s: float) -> int:
    """Wait without giving the core away; return ``time.monotonic_ns()`` just then.

    Raises
    ------
    NotMeasuredError
        If it does not hold in time.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"not within {limit_s:g} s")
    return time.monotonic_ns()
