"""CuPy backtests with little memory: the same rows, or one clear line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from supervisor.rows.grid import Grid
from tests.support.chunks import FakeBars, backtest_all
from tests.support.gpu.cupy_runs import (
    NAMES,
    ROW_BYTES,
    Gate,
    compute,
    opened,
    same,
)
from tests.support.gpu.emulated_device import EmulatedDevice
from workers.cupy_backtest.device import OutOfDeviceMemoryError

# -- memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.95, 0.8, 0.6, 0.45])
def test_little_memory_gives_the_same_rows(devices: Any, name: str, share: float) -> None:
    values = range(1, 65)
    axes: dict[str, dict[str, Any]] = {
        "sma_cross": {"fast": values, "slow": range(64, 128)},
        "bollinger_reversion": {"window": range(2, 66), "width": np.arange(32) / 16},
        "rsi_reversion": {"window": values, "lower": [30, 40, 50], "upper": range(55, 75)},
        "donchian_breakout": {"entry": values, "exit": values},
    }
    bars, grid = FakeBars.walk(300, seed=2), Grid.of(axes[name])
    wanted = backtest_all(bars, grid, name)
    free = devices()
    assert same(compute(opened(free, bars, grid, name, 1_000_000), grid), wanted)
    scarce = devices(int(free.seen.most_bytes * share))
    assert same(compute(opened(scarce, bars, grid, name, 1_000_000), grid), wanted)
    assert scarce.seen.refused or len(scarce.seen.launches) > len(free.seen.launches)
    assert scarce.seen.most_bytes <= free.seen.most_bytes * share


def test_memory_for_one_batchs_rows_at_a_time_is_enough(devices: Any) -> None:
    grid = Grid.of({"window": range(2, 12), "width": np.arange(32) / 16})
    bars = FakeBars.walk(300, seed=2)
    wanted = backtest_all(bars, grid, "bollinger_reversion")
    scarce = devices(_without_rows(devices, bars, grid) + 50 * ROW_BYTES)  # a batch has 33
    backend = opened(scarce, bars, grid, "bollinger_reversion", 32)
    assert same(compute(backend, grid), wanted)
    assert scarce.seen.refused
    assert backend._opened is not None
    assert backend._opened.most == 32


def test_rows_are_not_dropped_while_they_are_being_filled(devices: Any) -> None:
    gate, dropped_before = Gate(), []

    def before(kernel: str, nth: int) -> None:
        if kernel == "fill_bands" and nth == 0:  # those of the entries; the exits' do not fit
            dropped_before.append(gate.wait("dropped", limit_s=0.2))

    grid = Grid.of({"window": range(2, 66), "width": [1.0]})
    bars = FakeBars.walk(300, seed=2)
    limit = _without_rows(devices, bars, grid) + 100 * ROW_BYTES
    device = devices(limit, before=before)
    backend = opened(device, bars, grid, "bollinger_reversion", 64)
    got = compute(backend, grid)
    gate.open("dropped")
    assert same(got, backtest_all(bars, grid, "bollinger_reversion"))
    assert dropped_before == [False]
    assert backend._opened is not None
    assert backend._opened.most == 32
    assert not device.freed_in_use


def test_smaller_batches_leave_their_memory_to_rows(devices: Any) -> None:
    grid = Grid.of({"window": range(2, 34), "width": [1.0, 2.0]})
    bars = FakeBars.walk(300, seed=2)
    device = devices(_without_rows(devices, bars, grid) + 20 * ROW_BYTES)  # of 96
    backend = opened(device, bars, grid, "bollinger_reversion", 1_000_000)
    assert backend._opened is not None
    most = backend._opened.most
    assert same(compute(backend, grid), backtest_all(bars, grid, "bollinger_reversion"))
    assert backend._opened.most == most // 2


def test_ranges_that_do_not_fit_are_done_without(devices: Any) -> None:
    grid = Grid.of({"fast": range(1, 65), "slow": range(64, 128)})
    bars = FakeBars.walk(300, seed=2)
    limit = _without_rows(devices, bars, grid, "sma_cross") + 100 * ROW_BYTES
    device = devices(limit)  # a batch has 127 windows
    backend = opened(device, bars, grid, "sma_cross", 10_000)
    most = backend._opened.most if backend._opened else 0
    assert same(compute(backend, grid), backtest_all(bars, grid, "sma_cross"))
    assert {name for name, _ in device.seen.launches} == {"sweep_crosses"}
    assert backend._opened is not None
    assert backend._opened.most == most


def _without_rows(
    devices: Any, bars: FakeBars, grid: Grid, name: str = "bollinger_reversion"
) -> int:
    device = devices()
    opened(device, bars, grid, name, 64)
    return int(device.seen.most_bytes)


def test_too_little_memory_is_one_clear_line(devices: Any) -> None:
    grid = Grid.of({"entry": range(1, 65), "exit": range(1, 65)})
    bars = FakeBars.walk(300)
    device = devices()
    opened(device, bars, grid, "donchian_breakout", 32)
    base = device._used - sum(s._there.n_bytes for s in _slots(device, bars, grid, devices))
    with pytest.raises(OutOfDeviceMemoryError, match="not enough memory for 32 comb") as caught:
        opened(devices(base + 3_000), bars, grid, "donchian_breakout", 1_000)
    assert "\n" not in str(caught.value)
    with pytest.raises(OutOfDeviceMemoryError):
        opened(devices(1_000), bars, grid, "donchian_breakout", 1_000)


def _slots(device: EmulatedDevice, bars: FakeBars, grid: Grid, devices: Any) -> Any:
    backend = opened(devices(), bars, grid, "donchian_breakout", 32)
    assert backend._opened is not None
    return backend._opened.slots
