"""CuPy backtests: rows are those of the CPU, whatever the cuts."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from supervisor.errors import ConfigError, DeviceLostError
from supervisor.rows.grid import Grid
from tests.support.chunks import FakeBars, backtest_all
from tests.support.gpu.cupy_runs import (
    AXES,
    BARS,
    FEE,
    NAMES,
    DriversFlag,
    GpuChunk,
    compute,
    expected,
    opened,
    put,
    same,
)
from workers.catalog import STRATEGIES
from workers.cupy_backtest import CupyBacktest

ALONE: dict[str, dict[str, list[Any]]] = {
    "sma_cross": {"fast": [7], "slow": [5, 9, 40]},
    "bollinger_reversion": {"window": [20], "width": [2.0]},
    "rsi_reversion": {"upper": [70], "window": [14], "lower": [30]},
    "donchian_breakout": {"exit": [10], "entry": [20, 10]},
}


def turned(axes: dict[str, list[Any]]) -> Grid:
    return Grid.of(dict(reversed(axes.items())))


# -- rows ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 64, 65, 700, 4_097])
def test_rows_are_those_of_the_cpu(devices: Any, name: str, n: int) -> None:
    bars = FakeBars.walk(n, seed=n)
    for grid in (Grid.of(AXES[name]), turned(AXES[name]), Grid.of(ALONE[name])):
        wanted = backtest_all(bars, grid, name)
        got = compute(opened(devices(), bars, grid, name, most=1_000), grid)
        assert same(got, wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fee", [0.0, 0.2])
def test_rows_on_prices_with_many_ties(devices: Any, name: str, fee: float) -> None:
    bars = FakeBars.walk(1_500, seed=3, decimals=2, spread=0.01)
    grid = Grid.of(AXES[name])
    wanted = backtest_all(bars, grid, name, fee=fee)
    assert same(compute(opened(devices(), bars, grid, name, 1_000, fee), grid), wanted)


@pytest.mark.parametrize(
    ("prices", "kernel"),
    [
        (FakeBars.walk(700, seed=1), "sweep_crosses"),
        (FakeBars.of(np.exp(np.sin(np.arange(700.0)))), "sweep_crosses_wide"),
        (FakeBars.of(1e6 + np.round(np.sin(np.arange(700.0)) * 1e5, 4)), "sweep_crosses_wide"),
    ],
    ids=["whole", "fractions", "large"],
)
def test_the_kernel_that_prices_allow(devices: Any, prices: FakeBars, kernel: str) -> None:
    grid, device = Grid.of(AXES["sma_cross"]), devices()
    got = compute(opened(device, prices, grid, "sma_cross", 1_000), grid)
    assert same(got, backtest_all(prices, grid, "sma_cross"))
    assert {name for name, _ in device.seen.launches} == {"fill_ranges", kernel}


def test_windows_too_long_for_shared_memory(devices: Any) -> None:
    grid, device = Grid.of(AXES["sma_cross"]), devices(shared_bytes=4 * (4_097 + 64))
    got = compute(opened(device, BARS, grid, "sma_cross", 5), grid)
    assert same(got, expected("sma_cross"))
    assert {"sweep_crosses", "sweep_crosses_far"} >= {
        name for name, _ in device.seen.launches if name != "fill_ranges"
    }
    assert any(name == "sweep_crosses_far" for name, _ in device.seen.launches)


def test_windows_longer_than_the_data(devices: Any) -> None:
    bars, longest = FakeBars.walk(100, seed=4), 9_999_999
    for name, axes in {
        "sma_cross": {"fast": [5, 100, 101, longest - 1], "slow": [99, 100, 101, 102, longest]},
        "bollinger_reversion": {"window": [100, 101, longest], "width": [1]},
        "rsi_reversion": {"window": [99, 100, 101, longest], "lower": [30], "upper": [70]},
        "donchian_breakout": {"entry": [99, 100, longest], "exit": [99, 101, longest]},
    }.items():
        grid, device = Grid.of(axes), devices(1 << 20)  # which an array as long does not fit
        got = compute(opened(device, bars, grid, name, 1_000), grid)
        assert same(got, backtest_all(bars, grid, name))


# -- cuts -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("most", [1, 3, 1_000])
def test_rows_do_not_depend_on_cuts(devices: Any, name: str, most: int) -> None:
    grid = Grid.of(AXES[name])
    cuts = (1, 2, 9, grid.size - 1)
    backend = opened(devices(), BARS, grid, name, most)
    assert same(compute(backend, grid, cuts), expected(name))


def test_batches_are_even_and_in_order(devices: Any) -> None:
    grid = Grid.of({"fast": range(1, 12), "slow": range(2, 13)})
    space = STRATEGIES["sma_cross"].space(grid)
    chunk = GpuChunk(0, grid.size)
    bars = FakeBars.walk(65)
    assert opened(devices(), bars, grid, "sma_cross", most=20).evaluate(chunk) == grid.size
    sizes = [len(rows) for _, _, rows in chunk.kept]
    assert sum(sizes) == space.total == 66
    assert sizes == [17, 17, 16, 16]
    assert np.array_equal(np.concatenate(chunk.indices), space.accepted(0, grid.size))
    starts = [start for start, _, _ in chunk.kept]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert chunk.until == grid.size


def test_what_is_not_accepted_is_recorded_as_finished(devices: Any) -> None:
    grid = Grid.of({"fast": range(1, 200), "slow": [2, 199]})
    chunk = GpuChunk(3, grid.size - 1)  # only slow=199 is accepted, and in the end nothing
    bars = FakeBars.walk(65)
    device = devices()
    backend = opened(device, bars, grid, "sma_cross", most=1)
    assert backend.evaluate(chunk) == chunk.stop
    assert chunk.until == chunk.stop
    accepted = STRATEGIES["sma_cross"].space(grid).accepted(3, grid.size - 1)
    assert np.array_equal(np.concatenate(chunk.indices), accepted)
    launches = len(device.seen.launches)
    refused = GpuChunk(2 * 198, 2 * 198 + 2)
    assert backend.evaluate(refused) == refused.stop == refused.until
    assert len(refused.rows) == 0
    assert len(device.seen.launches) == launches


def test_a_long_stretch_that_is_not_accepted(devices: Any) -> None:
    grid = Grid.of({"slow": [2, 200], "fast": range(1, 200)})
    backend = opened(devices(), FakeBars.walk(65), grid, "sma_cross", most=2)
    chunk = GpuChunk(0, grid.size)
    assert backend.evaluate(chunk) == grid.size  # pieces of 32 indices: some without any
    assert any(len(rows) == 0 for _, _, rows in chunk.kept)
    wanted = STRATEGIES["sma_cross"].space(grid).accepted(0, grid.size)
    assert np.array_equal(np.concatenate(chunk.indices), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_rows_on_a_gpu(name: str) -> None:
    grid = Grid.of(AXES[name])
    backend = CupyBacktest(BARS, STRATEGIES[name].space(grid), name, fee=FEE)
    backend.prepare()
    try:
        backend.start()
    except DeviceLostError as error:
        pytest.skip(str(error))
    chunk = GpuChunk(0, grid.size, stop_flag=DriversFlag())
    assert backend.evaluate(chunk) == grid.size
    every = np.full((grid.size, 5), np.nan)
    put(every, chunk)
    assert same(every, expected(name))


# -- the rest ------------------------------------------------------------------------------


def test_a_fee_that_is_no_fraction_is_refused() -> None:
    grid = Grid.of(AXES["sma_cross"])
    with pytest.raises(ConfigError, match="fee must be"):
        CupyBacktest(BARS, STRATEGIES["sma_cross"].space(grid), "sma_cross", fee=1.0)


def test_the_warden_imports_no_compiler_and_no_device() -> None:
    code = (
        "import sys\n"
        "from supervisor.rows.grid import Grid\n"
        "from supervisor.errors import DeviceLostError\n"
        "from supervisor.system import cuda\n"
        "from workers.catalog import STRATEGIES\n"
        "from workers.cupy_backtest import CupyBacktest\n"
        "import numpy as np\n"
        "class Bars:\n"
        "    close = high = low = np.linspace(1, 2, 500).round(3)\n"
        "    bars_per_year = 1.0\n"
        "def backend(name, axes):\n"
        "    space = STRATEGIES[name].space(Grid.of(axes))\n"
        "    return CupyBacktest(Bars(), space, name, fee=0.0)\n"
        f"all = [backend(*each) for each in {AXES!r}.items()]\n"
        "for each in all: each.prepare()\n"
        "assert 'cupy' not in sys.modules, 'CuPy in the warden'\n"
        "assert not cuda.opened(), 'the driver in the warden'\n"
        "for each in all:\n"
        "    try: each.start()\n"
        "    except DeviceLostError as error: print(error)\n"
        "bad = {'numba', 'llvmlite'} & sys.modules.keys()\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
