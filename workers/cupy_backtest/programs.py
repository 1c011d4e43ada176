"""What each strategy has on the device, and how a batch of its combinations is launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.cupy_backtest.device import Device, Grid
from workers.cupy_backtest.layout import MOST_THREADS, Struct
from workers.cupy_backtest.rows import Queue

Axes = Mapping[str, NDArray[np.generic]]
"""Each parameter's values, the last one varying fastest."""

Digits = Mapping[str, NDArray[np.int64]]
"""Each parameter's position on its axis, a combination per element."""

WARP = 32


class Ready(NamedTuple):
    """A batch whose rows are on the device, or will be when the queue gets there.

    Attributes
    ----------
    kernel : str
    shared_bytes : int
        For each block.
    inputs : tuple of ndarray of int32, each of shape (n,)
        What the kernel reads for each combination.
    argument : callable
        Makes the strategy's struct from the device addresses of ``inputs``.
    held : object
        Device memory that the kernel reads: kept until it is done.
    """

    kernel: str
    shared_bytes: int
    inputs: tuple[NDArray[np.int32], ...]
    argument: Callable[..., Struct]
    held: Any


class Program(Protocol):
    """A strategy over one market and one grid; built with NumPy before the fork.

    Attributes
    ----------
    kernels : tuple of str
        What it launches.
    n_inputs : int
        Arrays in :attr:`Ready.inputs`.
    """

    kernels: tuple[str, ...]
    n_inputs: int

    def open(self, device: Device) -> None:
        """Copy to the device what all combinations need."""
        ...

    def ready(self, queue: Queue, digits: Digits) -> Ready:
        """Queue what is missing on the device for a batch.

        Raises
        ------
        OutOfDeviceMemoryError
            If it does not fit; fewer combinations may need less.
        """
        ...

    def forget(self) -> None:
        """Drop rows that a stop may have left unfinished, or that take memory."""
        ...


def spread(n: int, n_multiprocessors: int) -> Grid:
    """A grid of one thread per item: whole blocks if there are many, else one for each processor.

    A block lasts as long as its slowest warp, and a multiprocessor runs few warps as fast as one.
    """
    per_processor = -(-n // n_multiprocessors)
    threads = min(-(-per_processor // WARP) * WARP, MOST_THREADS)
    return Grid(-(-n // threads), threads)


def windows_of(axis: NDArray[np.generic], n_bars: int) -> NDArray[np.int64]:
    """Windows as the kernels take them: one that is longer than the data stands for all longer."""
    windows = axis.astype(np.int64)
    return np.minimum(windows, n_bars + 1)
