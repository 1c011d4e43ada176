"""CuPy backtests on an emulated device, and what they are compared with."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.ipc.device_flag import DeviceFlag, Line, Tier, Waves
from supervisor.ipc.stopflag import StopFlag
from supervisor.rows.grid import Grid
from tests.support.chunks import FakeBars, FakeChunk, backtest_all
from tests.support.gpu.emulated_device import EmulatedDevice
from workers.catalog import STRATEGIES
from workers.cupy_backtest import CupyBacktest

FEE = 0.0005

AXES: dict[str, dict[str, list[Any]]] = {
    "sma_cross": {"fast": [1, 2, 5, 20, 64], "slow": [2, 3, 20, 63, 65, 300]},
    "bollinger_reversion": {"window": [2, 5, 20, 300], "width": [0, 0.5, 1.0, 2.1]},
    "rsi_reversion": {"window": [1, 2, 14, 90], "lower": [20, 30, 50], "upper": [40, 50, 80.5]},
    "donchian_breakout": {"entry": [1, 2, 20, 63, 300], "exit": [1, 5, 64, 100]},
}
NAMES = list(AXES)
SWEEPS = ("sweep_crosses", "sweep_crosses_far", "sweep_crosses_wide", "sweep_signals")
BARS = FakeBars.walk(8_257, seed=3)  # two tiles and a bit: kernels poll in between
ROW_BYTES = 512  # of up to 4,096 bars
SMALL = 5  # combinations a batch


@cache
def expected(name: str) -> NDArray[np.float64]:
    return backtest_all(BARS, Grid.of(AXES[name]), name)


class EmulatedFlag:
    """A stop flag whose line an emulated device reads: host memory is its memory too."""

    def __init__(self, tier: Tier = Tier.MAPPED) -> None:
        self.flag = flag = StopFlag()
        word = flag._base + 8 * flag._stop
        line = Line(flag._memory, word, flag._futex_address, flag.generation)
        self._silent = ctypes.c_int64(0)
        pointer = ctypes.addressof(self._silent) if tier is Tier.WAVES else word
        self.cuda = DeviceFlag(pointer, tier, "", line, Waves(1, 32, 1))

    def set(self) -> None:
        self.flag.set()


class DriversFlag:
    """A stop flag as the driver of a real device shows it."""

    def __init__(self) -> None:
        self.flag = StopFlag()

    @property
    def cuda(self) -> DeviceFlag:
        return self.flag.cuda


@dataclass
class GpuChunk(FakeChunk):
    """A chunk with a flag that a device sees."""

    stop_flag: Any = field(default_factory=EmulatedFlag)
    on_keep: Callable[[int], None] = lambda number: None

    def __post_init__(self) -> None:
        self.flag = self.stop_flag.flag.array

    def keep(
        self, start: int, columns: tuple[str, ...], rows: NDArray[np.float64], **more: Any
    ) -> None:
        self.on_keep(len(self.kept))
        super().keep(start, columns, rows, **more)
        self.until = more["stop"]

    until: int = -1


def opened(
    device: EmulatedDevice, bars: FakeBars, grid: Grid, name: str, most: int, fee: float = FEE
) -> CupyBacktest:
    """A backend on an emulated device, with batches of at most so many combinations."""
    backend = CupyBacktest(
        bars, STRATEGIES[name].space(grid), name, fee=fee, open_device=lambda limit: device
    )
    backend.prepare()
    backend.start()
    assert backend._opened is not None
    backend._opened.most = min(most, backend._opened.most)
    return backend


def compute(backend: CupyBacktest, grid: Grid, cuts: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Rows of a whole grid, NaN where a combination is not accepted."""
    every = np.full((grid.size, len(backend.columns)), np.nan)
    for start, stop in pairwise([0, *cuts, grid.size]):
        chunk = GpuChunk(start, stop)
        assert backend.evaluate(chunk) == stop
        put(every, chunk)
        assert chunk.progress[0] == len(chunk.rows)
    return every


def put(every: NDArray[np.float64], chunk: FakeChunk) -> None:
    """Add a chunk's rows; each combination at most once, in order."""
    if not chunk.kept:
        return
    indices = np.concatenate(chunk.indices)
    assert (np.diff(indices) > 0).all()
    assert np.isnan(every[indices, 0]).all()
    every[indices] = chunk.rows


def same(left: NDArray[np.float64], right: NDArray[np.float64]) -> bool:
    """Whether all bits are the same."""
    return left.tobytes() == right.tobytes()


class Gate:
    """Numbered events that threads wait for, each under a limit."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._passed: set[object] = set()

    def open(self, what: object) -> None:
        with self._condition:
            self._passed.add(what)
            self._condition.notify_all()

    def wait(self, what: object, limit_s: float = 30.0) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: what in self._passed, limit_s)
