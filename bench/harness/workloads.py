"""Workloads that a measurement stops: kernels that poll the stop flag, and that do not.

Each function holds private memory and sits in one compiled kernel for about a
minute. The kernel keeps raising a shared word, so that the measurement sees
that it is inside, rather than hoping so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bench.harness.words import BEAT, HOLD_VARIABLE, PID, Words
from supervisor.ipc.stopflag import StopFlag
from workers.poll import load_acquire, stop_requested, store_release

TILE_BARS = 1024
TILES = 15_000_000
"""About a minute of tiles of 4 µs: a kernel that is not stopped ends by itself."""

Function = Callable[[Any, Mapping[str, Any], StopFlag], dict[str, float] | None]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def polling_kernel(flag: Any, line: Any, prices: Any, tiles: int) -> float:
    """Smooth prices tile by tile, polling the stop flag once a tile."""
    average = 0.0
    for tile in range(tiles):
        if stop_requested(flag):
            break
        average = _smooth(prices, average)
        store_release(line, BEAT, tile + 1)
    return average


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def deaf_kernel(line: Any, prices: Any, tiles: int) -> float:
    """Do the same and never poll."""
    average = 0.0
    for tile in range(tiles):
        average = _smooth(prices, average)
        store_release(line, BEAT, tile + 1)
    return average


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def spinning_kernel(flag: Any, line: Any) -> int:
    """Do nothing but poll; return the number of polls."""
    polls = 0
    while not stop_requested(flag):
        polls += 1
        store_release(line, BEAT, polls)
    return polls


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _smooth(prices: Any, average: float) -> float:
    for bar in range(len(prices)):
        average += 0.01 * (prices[bar] - average)
    return average


def polling(bars: Any, params: Mapping[str, Any], stop: StopFlag) -> dict[str, float] | None:
    """Hold memory, and compute in a kernel that polls."""
    held, line, prices = _settle(params)
    average = polling_kernel(stop.array, line, prices, TILES)
    return None if stop.is_set() else {"average": average + held[0]}


def deaf(bars: Any, params: Mapping[str, Any], stop: StopFlag) -> dict[str, float] | None:
    """Hold memory, and compute in a kernel that never polls."""
    held, line, prices = _settle(params)
    return {"average": deaf_kernel(line, prices, TILES) + held[0]}


def stubborn(bars: Any, params: Mapping[str, Any], stop: StopFlag) -> dict[str, float] | None:
    """Like :func:`deaf`, and ignore SIGTERM too."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return deaf(bars, params, stop)


def instant(bars: Any, params: Mapping[str, Any], stop: StopFlag) -> dict[str, float]:
    """Return at once."""
    return {"index": float(params["index"])}


def load_kernels() -> None:
    """Compile the kernels, or load them from the disk cache, before workers are forked."""
    flag, line = np.ones(8, np.int64), np.zeros(8, np.int64)
    prices = np.ones(TILE_BARS)
    polling_kernel(flag, line, prices, 1)
    deaf_kernel(line, prices, 1)
    spinning_kernel(flag, line)
    read_word(line, 0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def read_word(line: Any, index: int) -> int:
    """Return a shared word as it is now."""
    return load_acquire(line, index)  # type: ignore[no-any-return]


def _settle(
    params: Mapping[str, Any],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Resident memory, this worker's line of words, and a tile of prices."""
    held = np.ones(max(1, int(os.environ[HOLD_VARIABLE]) // 8))
    line = Words.inherited().lines[int(params["slot"])]
    line[PID] = os.getpid()
    return held, line, np.linspace(1.0, 2.0, TILE_BARS)
