"""CuPy backtests on an emulated device: rows, cuts, stops, little memory, a lost device."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from supervisor.errors import ConfigError, DeviceLostError
from supervisor.ipc.device_flag import Tier
from supervisor.rows.grid import Grid
from tests.support.chunks import FakeBars, backtest_all
from tests.support.gpu.cupy_runs import (
    FEE,
    DriversFlag,
    EmulatedFlag,
    Gate,
    GpuChunk,
    compute,
    opened,
    put,
    same,
)
from tests.support.gpu.emulated_device import EmulatedDevice
from workers.catalog import STRATEGIES
from workers.cupy_backtest import CupyBacktest
from workers.cupy_backtest.device import OutOfDeviceMemoryError

AXES: dict[str, dict[str, list[Any]]] = {
    "sma_cross": {"fast": [1, 2, 5, 20, 64], "slow": [2, 3, 20, 63, 65, 300]},
    "bollinger_reversion": {"window": [2, 5, 20, 300], "width": [0, 0.5, 1.0, 2.1]},
    "rsi_reversion": {"window": [1, 2, 14, 90], "lower": [20, 30, 50], "upper": [40, 50, 80.5]},
    "donchian_breakout": {"entry": [1, 2, 20, 63, 300], "exit": [1, 5, 64, 100]},
}
ALONE: dict[str, dict[str, list[Any]]] = {
    "sma_cross": {"fast": [7], "slow": [5, 9, 40]},
    "bollinger_reversion": {"window": [20], "width": [2.0]},
    "rsi_reversion": {"upper": [70], "window": [14], "lower": [30]},
    "donchian_breakout": {"exit": [10], "entry": [20, 10]},
}
NAMES = list(AXES)
SWEEPS = ("sweep_crosses", "sweep_crosses_far", "sweep_crosses_wide", "sweep_signals")
BARS = FakeBars.walk(8_257, seed=3)  # two tiles and a bit: kernels poll in between
ROW_BYTES = 512  # of up to 4,096 bars
SMALL = 5  # combinations a batch


def turned(axes: dict[str, list[Any]]) -> Grid:
    return Grid.of(dict(reversed(axes.items())))


@cache
def expected(name: str) -> NDArray[np.float64]:
    return backtest_all(BARS, Grid.of(AXES[name]), name)


@pytest.fixture
def devices(kernel_library: Any) -> Iterator[Any]:
    made: list[EmulatedDevice] = []

    def make(*arguments: Any, **options: Any) -> EmulatedDevice:
        made.append(EmulatedDevice(kernel_library, *arguments, **options))
        return made[-1]

    yield make
    for device in made:
        device.close()


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


# -- double buffering --------------------------------------------------------------


@pytest.mark.parametrize("name", ["sma_cross", "donchian_breakout"])
def test_rows_are_kept_while_the_next_batch_is_computed(devices: Any, name: str) -> None:
    gate, waits = Gate(), []

    def before(kernel: str, nth: int) -> None:
        if kernel in SWEEPS:
            gate.open(("computing", nth))
            if nth:  # it goes on only once the rows before it are being kept
                waits.append(gate.wait(("keeping", nth - 1)))

    def on_keep(number: int) -> None:
        gate.open(("keeping", number))
        if number < 3:
            waits.append(gate.wait(("computing", number + 1)))

    grid = Grid.of(AXES[name])
    chunk = GpuChunk(0, grid.size, on_keep=on_keep)
    backend = opened(devices(before=before), BARS, grid, name, most=SMALL)
    assert backend.evaluate(chunk) == grid.size
    assert len(chunk.kept) == 4
    assert all(waits)
    assert len(waits) == 6


def test_in_waves_no_launch_is_queued_behind_another(devices: Any) -> None:
    grid = Grid.of(AXES["donchian_breakout"])
    flag = EmulatedFlag(Tier.WAVES)
    launched = []

    def before(kernel: str, nth: int) -> None:
        if kernel == "sweep_signals":
            launched.append(nth)
            if nth == 1:
                flag.set()  # which this kernel does not see: its rows are finished

    device = devices(before=before)
    chunk = GpuChunk(0, grid.size, stop_flag=flag)
    until = opened(device, BARS, grid, "donchian_breakout", most=SMALL).evaluate(chunk)
    assert len(launched) == len(chunk.kept) == 2
    assert until == chunk.until == 10


def test_in_waves_a_launch_is_one_wave(devices: Any) -> None:
    grid = Grid.of({"entry": range(1, 61), "exit": range(1, 61)})
    device = devices()
    backend = opened(device, FakeBars.walk(65), grid, "donchian_breakout", most=3_600)
    for tier in Tier:
        device.seen.launches.clear()
        assert backend.evaluate(GpuChunk(0, 3_600, stop_flag=EmulatedFlag(tier))) == 3_600
        sweeps = [grid for name, grid in device.seen.launches if name == "sweep_signals"]
        assert len(sweeps) == (5 if tier is Tier.WAVES else 3)  # of 768, and of two waves


# -- stops ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_at_any_instant_loses_nothing(devices: Any, name: str) -> None:
    grid = Grid.of(AXES[name])
    dice = random.Random(name)
    stopped_early = 0
    for _ in range(12):
        flags: list[EmulatedFlag] = []
        at, delay = dice.randrange(8), dice.random() * 0.002
        seen = iter(range(1_000))

        def before(
            kernel: str,
            nth: int,
            at: int = at,
            delay: float = delay,
            seen: Any = seen,
            flags: Any = flags,
        ) -> None:
            if next(seen) == at:
                threading.Timer(delay, flags[-1].set).start()

        backend = opened(devices(before=before), BARS, grid, name, most=SMALL)
        every = np.full((grid.size, 5), np.nan)
        until = 0
        while until < grid.size:  # as another worker would compute the rest
            flags.append(EmulatedFlag())
            chunk = GpuChunk(until, grid.size, stop_flag=flags[-1])
            until = backend.evaluate(chunk)
            put(every, chunk)
            assert until == (chunk.until if chunk.kept else chunk.start)
            assert chunk.progress[0] == sum(len(rows) for _, _, rows in chunk.kept)
            stopped_early += until < grid.size
        assert same(every, expected(name))
    assert stopped_early


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_hand_is_discarded(devices: Any, name: str) -> None:
    flag, gate = EmulatedFlag(), Gate()

    def before(kernel: str, nth: int) -> None:
        if kernel in SWEEPS and nth == 1:
            assert gate.wait("kept")
            flag.set()

    def on_keep(number: int) -> None:
        gate.open("kept")

    grid = Grid.of(AXES[name])
    chunk = GpuChunk(0, grid.size, stop_flag=flag, on_keep=on_keep)
    until = opened(devices(before=before), BARS, grid, name, most=SMALL).evaluate(chunk)
    assert len(chunk.kept) == 1
    assert until == chunk.until < grid.size


def test_nothing_runs_any_more_when_a_stop_returns(devices: Any) -> None:
    flag, gate, returned_before = EmulatedFlag(), Gate(), []

    def before(kernel: str, nth: int) -> None:
        if kernel == "sweep_signals" and nth == 0:
            flag.set()
        if kernel == "sweep_signals" and nth == 1:  # queued behind, and slow to leave
            returned_before.append(gate.wait("returned", limit_s=0.2))

    grid, device = Grid.of(AXES["rsi_reversion"]), devices(before=before)
    chunk = GpuChunk(0, grid.size, stop_flag=flag)
    assert opened(device, BARS, grid, "rsi_reversion", most=SMALL).evaluate(chunk) == 0
    assert device.idle
    gate.open("returned")
    assert returned_before == [False]


def test_a_stop_before_anything(devices: Any) -> None:
    grid = Grid.of(AXES["sma_cross"])
    chunk = GpuChunk(2, grid.size)
    chunk.stop_flag.set()
    device = devices()
    assert opened(device, BARS, grid, "sma_cross", most=SMALL).evaluate(chunk) == 2
    assert not chunk.kept
    assert not device.seen.launches


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_a_stop_left_unfilled_are_filled_again(devices: Any, name: str) -> None:
    flag = EmulatedFlag()
    device = devices(before=lambda kernel, nth: flag.set())  # before the first fill has begun
    grid = Grid.of(AXES[name])
    backend = opened(device, BARS, grid, name, most=SMALL)
    chunk = GpuChunk(0, grid.size, stop_flag=flag)
    assert backend.evaluate(chunk) == 0
    device.before = lambda kernel, nth: None
    assert same(compute(backend, grid), expected(name))


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
        if kernel == "fill_deviations" and nth == 0:  # those of the entries; the exits' do not fit
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


# -- a lost device --------------------------------------------------------------------------


@pytest.mark.parametrize("lost_at", range(9))
def test_a_lost_device_is_told_and_what_was_finished_is_kept(devices: Any, lost_at: int) -> None:
    grid = Grid.of(AXES["donchian_breakout"])
    device = devices(lost_at=lost_at)
    chunk = GpuChunk(0, grid.size)
    backend = opened(device, BARS, grid, "donchian_breakout", most=3)
    with pytest.raises(DeviceLostError, match="fell off"):
        backend.evaluate(chunk)
    every = np.full((grid.size, 5), np.nan)
    put(every, chunk)
    done = max(chunk.until, 0)
    assert same(every[:done], expected("donchian_breakout")[:done])


def test_rows_that_are_back_are_kept_though_the_next_launch_fails(devices: Any) -> None:
    grid = Grid.of(AXES["donchian_breakout"])
    device = devices()
    first = len(_fills(devices, grid))
    device.lost_at = first + 2  # the third sweep, queued when the first one's rows are back
    chunk = GpuChunk(0, grid.size)
    with pytest.raises(DeviceLostError):
        opened(device, BARS, grid, "donchian_breakout", most=3).evaluate(chunk)
    assert chunk.until == 3


def _fills(devices: Any, grid: Grid) -> list[str]:
    device = devices()
    compute(opened(device, BARS, grid, "donchian_breakout", 1_000), grid)
    return [name for name, _ in device.seen.launches if name not in SWEEPS]


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
