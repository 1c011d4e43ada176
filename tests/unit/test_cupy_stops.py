"""CuPy backtests: double buffering, stops at any instant, a lost device."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

from supervisor.errors import DeviceLostError
from supervisor.ipc.device_flag import Tier
from supervisor.rows.grid import Grid
from tests.support.chunks import FakeBars
from tests.support.gpu.cupy_runs import (
    AXES,
    BARS,
    NAMES,
    SMALL,
    SWEEPS,
    EmulatedFlag,
    Gate,
    GpuChunk,
    compute,
    expected,
    opened,
    put,
    same,
)

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
                if delay < 0.0007:
                    flags[-1].set()
                else:
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
            assert gate.wait("second")
            flag.set()
        if kernel == "sweep_signals" and nth == 1:  # queued behind, and slow to leave
            gate.open("second")
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
