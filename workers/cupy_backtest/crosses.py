"""Long while one moving average is above another: compared on the device, bar by bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workers.cupy_backtest import tables
from workers.cupy_backtest.device import Buffer, Device, Grid, OutOfDeviceMemoryError, opened
from workers.cupy_backtest.layout import (
    CROSSES,
    MOST_THREADS,
    RANGE_BYTES,
    RANGES,
    SOURCES,
    Struct,
    struct,
)
from workers.cupy_backtest.programs import WARP, Axes, Digits, Ready, windows_of
from workers.cupy_backtest.rows import Matrix, Queue, Rows, Slots
from workers.indicators.prices import running_sums
from workers.kernels.blocks import TILE, TILE_BARS

if TYPE_CHECKING:
    from workers.strategies.market import Bars

_SHARE_OF_FREE = 2
"""All ranges are filled at once where they take at most one half of what is free."""


def sma_cross(bars: Bars, axes: Axes) -> CrossProgram:
    """See :mod:`workers.strategies.sma_cross`."""
    n_bars = len(bars.close)
    return CrossProgram(
        np.array(bars.close),
        windows_of(axes["fast"], n_bars),
        windows_of(axes["slow"], n_bars),
    )


class CrossProgram:
    """Pairs of averages; implements :class:`workers.cupy_backtest.programs.Program`.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
    fast, slow : ndarray of int64
        Values of both axes, no longer than the data by more than one bar.
    """

    kernels: tuple[str, ...] = SOURCES["crosses"]
    n_inputs = 4

    def __init__(
        self, close: NDArray[np.float64], fast: NDArray[np.int64], slow: NDArray[np.int64]
    ) -> None:
        self._n_bars = len(close)
        self._n_tiles = -(-len(close) // TILE_BARS)
        self._fast, self._slow = fast, slow
        self._windows, at = np.unique(np.concatenate([fast, slow]), return_inverse=True)
        self._fast_slots, self._slow_slots = at[: len(fast)], at[len(fast) :]
        self._front = int(self._windows[-1])
        length = self._front + self._n_tiles * TILE_BARS + 1
        self._sums = running_sums(close, self._front, length)
        self._wrapped = tables.wrapped_sums(close, fast, slow, self._front, length)
        self._sums_there: Buffer | None = None
        self._wrapped_there: Buffer | None = None
        self._shared_bytes = 0
        self._fits = False
        self._ranges = Rows(
            len(self._windows), self._n_tiles * TILE * RANGE_BYTES, self._fill_ranges
        )

    def open(self, device: Device) -> None:
        """See :class:`workers.cupy_backtest.programs.Program`."""
        self._sums_there = device.upload(self._sums)
        if self._wrapped is not None:
            self._wrapped_there = device.upload(self._wrapped)
        self._shared_bytes = device.shared_bytes
        self._fits = self._ranges.total_bytes * _SHARE_OF_FREE <= device.free_bytes()

    def ready(self, queue: Queue, digits: Digits) -> Ready:
        """See :class:`workers.cupy_backtest.programs.Program`."""
        fast, slow = self._fast[digits["fast"]], self._slow[digits["slow"]]
        n, reach = len(fast), int(slow.max())
        slots = np.concatenate([self._fast_slots[digits["fast"]], self._slow_slots[digits["slow"]]])
        matrix, at = self._ranges_for(queue, slots)
        kernel, shared_bytes = self._kernel(reach)
        sums = self._sums_there if self._wrapped_there is None else self._wrapped_there

        def argument(fast: int, slow: int, fast_at: int, slow_at: int) -> Struct:
            return struct(
                CROSSES,
                sums=opened(sums),
                ranges=matrix.buffer if matrix else 0,
                fast=fast,
                slow=slow,
                fast_at=fast_at,
                slow_at=slow_at,
                front=self._front,
                reach=reach,
                n_windows=matrix.n_rows if matrix else 0,
            )

        inputs = fast.astype(np.int32), slow.astype(np.int32), at[:n], at[n:]
        return Ready(kernel, shared_bytes, inputs, argument, matrix)

    def _kernel(self, reach: int) -> tuple[str, int]:
        """The fastest kernel that these prices and windows allow, and its shared memory."""
        if self._wrapped_there is None:
            return "sweep_crosses_wide", 0
        staged = 4 * (reach + TILE_BARS + 1)
        if staged > self._shared_bytes:
            return "sweep_crosses_far", 0
        return "sweep_crosses", staged

    def _ranges_for(self, queue: Queue, slots: Slots) -> tuple[Matrix | None, NDArray[np.int32]]:
        """Ranges of these averages; without them, where they do not fit, every bar is compared."""
        try:
            return self._ranges.ready(queue, slots, fits=self._fits)
        except OutOfDeviceMemoryError:
            return None, np.zeros(len(slots), np.int32)

    def _fill_ranges(self, queue: Queue, slots: Slots, into: Buffer) -> Any:
        n_windows = len(slots)
        windows = queue.device.upload(self._windows[slots].astype(np.int32))
        ranges = struct(
            RANGES,
            sums=opened(self._sums_there),
            windows=windows,
            ranges=into,
            front=self._front,
            n_bars=self._n_bars,
            n_tiles=self._n_tiles,
            n_windows=n_windows,
        )
        threads = min(-(-n_windows // WARP) * WARP, MOST_THREADS)
        grid = Grid(self._n_tiles * -(-n_windows // threads), threads)
        queue.device.launch("fill_ranges", grid, (queue.stop, ranges), queue.stream)
        return windows

    def forget(self) -> None:
        """See :class:`workers.cupy_backtest.programs.Program`."""
        self._ranges.forget()
