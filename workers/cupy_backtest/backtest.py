"""The built-in strategies as a backend: batches of combinations through a GPU's kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from supervisor.errors import ConfigError, DeviceLostError, UnsupportedPlatformError
from supervisor.ipc.device_flag import DeviceFlag
from supervisor.rows.space import Space
from supervisor.system.cuda import CudaError
from workers.backend import Chunk
from workers.catalog import STRATEGIES
from workers.cupy_backtest import faults, signals
from workers.cupy_backtest.accounting import Accounting
from workers.cupy_backtest.crosses import sma_cross
from workers.cupy_backtest.device import Device
from workers.cupy_backtest.programs import Axes, Program
from workers.cupy_backtest.sweep import Opened, Sweep, most_at_once

if TYPE_CHECKING:
    from workers.strategies.market import Bars

_H100_PROCESSORS = 132

_NONE = np.empty(0, np.int64)

_PROGRAMS: Mapping[str, Callable[[Bars, Axes], Program]] = {
    "sma_cross": sma_cross,
    "bollinger_reversion": signals.bollinger_reversion,
    "rsi_reversion": signals.rsi_reversion,
    "donchian_breakout": signals.donchian_breakout,
}

OpenDevice = Callable[[int | None], Device]
"""Opens the GPU of this process, within a limit in bytes."""


class CupyBacktest:
    """Backtests one built-in strategy on a GPU; implements :class:`workers.backend.Backend`.

    Parameters
    ----------
    bars : Bars
        Read-only float64 arrays `high`, `low`, `close`, and `bars_per_year`.
    space : Space
        The combinations the strategy accepts; its grid was checked with
        :func:`workers.catalog.check`.
    strategy_name : str
        One of :data:`workers.catalog.STRATEGIES`.
    fee : float
        Fraction of the traded value that each fill costs.
    limit_bytes : int, optional
        GPU memory that each worker may use; all that is free if left out.
    open_device : callable, optional
        Opens the device in the worker.

    Attributes
    ----------
    batch : int
        Combinations that are aimed at per launch: what a large GPU computes at once, twice.

    Raises
    ------
    ConfigError
        If the fee is not a fraction.
    """

    def __init__(
        self,
        bars: Bars,
        space: Space,
        strategy_name: str,
        *,
        fee: float,
        limit_bytes: int | None = None,
        open_device: OpenDevice | None = None,
    ) -> None:
        if not 0.0 <= fee < 1.0:
            raise ConfigError(f"fee must be at least 0 and below 1, not {fee}", key="fee")
        self._bars = bars
        self._space = space
        self._facts = STRATEGIES[strategy_name]
        self._fee = fee
        self._limit_bytes = limit_bytes
        self._open_device = open_device or _open_cupy
        self.batch = most_at_once(_H100_PROCESSORS)
        self._accounting: Accounting | None = None
        self._program: Program | None = None
        self._opened: Opened | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that :meth:`evaluate` keeps."""
        return self._facts.columns

    def prepare(self) -> None:
        """Compute with NumPy what all workers copy to their devices; before the fork."""
        grid = self._space.grid
        axes = dict(zip(grid.names, grid.axes, strict=True))
        self._accounting = Accounting(self._bars, self._fee)
        self._program = _PROGRAMS[self._facts.name](self._bars, axes)

    def start(self) -> None:
        """Open the device and copy there what all combinations need.

        Raises
        ------
        DeviceLostError
            If there is no device that can be used.
        OutOfDeviceMemoryError
            If the bars do not fit.
        """
        if self._accounting is None or self._program is None:
            raise RuntimeError("prepare() comes before start()")
        device = self._open_device(self._limit_bytes)
        self._accounting.open(device)
        self._program.open(device)
        self._opened = Opened(device, self._accounting, self._program, len(self.columns))

    def evaluate(self, chunk: Chunk) -> int:
        """Compute a chunk batch by batch; see :meth:`workers.backend.Backend.evaluate`.

        While one batch is computed, the rows of the one before are kept. A stop discards the
        batches that the device has in hand; every batch before them is kept.

        Raises
        ------
        DeviceLostError
            If the device, or this process's context on it, is broken. What was finished before
            is kept.
        OutOfDeviceMemoryError
            If not even some tens of combinations fit.
        """
        if self._opened is None:
            raise RuntimeError("start() comes before evaluate()")
        if self._space.count(chunk.start, chunk.stop) == 0:
            rows = np.empty((0, len(self.columns)))
            chunk.keep(chunk.start, self.columns, rows, stop=chunk.stop, indices=_NONE)
            return chunk.stop
        return Sweep(self._opened, self._space, self.columns, chunk, _flag_of(chunk)).run()


def _flag_of(chunk: Chunk) -> DeviceFlag:
    """The stop flag on the device.

    Raises
    ------
    DeviceLostError
        If the device cannot be used any more.
    """
    try:
        return chunk.stop_flag.cuda
    except CudaError as error:
        if error.unusable:
            raise faults.lost(error.code, str(error)) from None
        raise
    except UnsupportedPlatformError as error:
        raise DeviceLostError(str(error)) from None


def _open_cupy(limit_bytes: int | None) -> Device:
    from workers.cupy_backtest.cuda_device import CupyDevice

    return CupyDevice(limit_bytes)
