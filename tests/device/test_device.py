"""Acceptance on a GPU: rows, stops inside kernels, kills at every level, little memory."""

from __future__ import annotations

import importlib.util
import signal
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.helpers import examples
from bench.gpu.watch import SLACK_BYTES
from supervisor.market.bars import Bars
from supervisor.market.example import example_bars
from supervisor.rows.frames import iter_frames
from supervisor.rows.journal import journal_paths
from supervisor.system import process
from supervisor.system.process import Identity
from tests.device.conftest import Baseline
from tests.support.cli import ROOT, Place, Started, rows_of
from tests.support.waiting import wait_for
from workers import reference

pytestmark = pytest.mark.gpu

SMALL = {
    "sma_cross": ("fast=5:40:5", "slow=50:500:50"),
    "bollinger_reversion": ("window=10:100:10", "width=1,1.5,2,2.5"),
    "rsi_reversion": ("window=5:20:5", "lower=20,30", "upper=60,70,80"),
    "donchian_breakout": ("entry=10:100:10", "exit=5:50:5"),
}
LARGE = ("fast=2:3000", "slow=3001:9000")
"""18 million combinations on a year of minutes: seconds of work."""

EXAMPLES = ROOT / "docs" / "examples" / "gpu"
RELATIVE = 1e-9


def sweep(place: Place, name: str, strategy: str, axes: tuple[str, ...], *options: str) -> Started:
    """Start a sweep of the embedded example's bars in a run directory of its own."""
    grid = [word for axis in axes for word in ("--grid", axis)]
    return place.start(
        place.argv(
            "run", "--strategy", strategy, *grid, "--run-dir", str(place.root / name), "--json",
            *options,
        )
    )  # fmt: skip


def swept(
    place: Place, name: str, strategy: str, axes: tuple[str, ...], *options: str
) -> list[dict[str, Any]]:
    """Rows of a sweep that runs to its end."""
    run = sweep(place, name, strategy, axes, *options)
    assert run.end() == 0, run.tell_end()
    return rows_of(place.root / name)


def computing(place: Place, *options: str, strategy: str = "sma_cross", axes=LARGE) -> Started:
    """A sweep that has kept rows and is far from its end."""
    run = sweep(place, "run", strategy, axes, "--device", "cuda", *options)
    run.wait_for(lambda: kept(run), "rows")
    return run


def kept(run: Started) -> int:
    """Combinations in the journals; all of these grids are accepted."""
    paths = journal_paths(run.run_dir / "journal")
    return sum(frame.stop - frame.start for path in paths for frame in iter_frames(path))


def numba_is_ours() -> bool:
    """Whether this machine's Numba is one that the CPU's kernels take."""
    try:
        version = metadata.version("numba")
    except metadata.PackageNotFoundError:
        return False
    return tuple(map(int, version.split(".")[:2])) >= (0, 68)


@pytest.mark.parametrize("strategy", SMALL)
def test_rows_are_bit_for_bit_those_of_the_cpu(strategy: str, place: Place) -> None:
    if not numba_is_ours():
        pytest.skip("the CPU's kernels need numba >= 0.68")
    on_gpu = swept(place, "gpu", strategy, SMALL[strategy], "--device", "cuda")
    on_cpu = swept(place, "cpu", strategy, SMALL[strategy], "--device", "cpu")
    assert on_gpu == on_cpu


@pytest.mark.parametrize("device", ["cuda", "torch:cuda"])
def test_rows_equal_the_definition(device: str, place: Place) -> None:
    bars = example_bars(3000)
    data = str(written(place.root / "minutes.csv", bars))
    options = "--device", device, "--data", data
    rows = swept(place, "run", "sma_cross", ("fast=2,3", "slow=40,80"), *options)
    assert len(rows) == 4
    for row in rows:
        expected = reference.backtest("sma_cross", bars, {k: row[k] for k in ("fast", "slow")})
        for column in ("total_return", "max_drawdown", "sharpe", "trades", "exposure"):
            assert row[column] == pytest.approx(expected[column], rel=RELATIVE, abs=1e-12)


def written(path: Path, bars: Bars) -> Path:
    """Bars as CSV, every digit of them."""
    times = bars.time.astype("datetime64[ns]").astype("datetime64[s]")
    columns = (times, bars.open, bars.high, bars.low, bars.close, bars.volume)
    lines = [",".join(map(str, line)) for line in zip(*columns, strict=True)]
    path.write_text("\n".join(["time,open,high,low,close,volume", *lines]) + "\n")
    return path


@pytest.mark.parametrize("device", ["cuda", "torch:cuda"])
def test_ctrl_c_inside_a_kernel_stops_and_gives_the_memory_back(
    device: str, place: Place, baseline: Baseline
) -> None:
    run = sweep(place, "run", "sma_cross", LARGE, "--device", device)
    run.wait_for(lambda: kept(run), "rows")
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert baseline.is_back(), baseline.tell()  # not soon: when the command has ended
    run.assert_gone()
    report = run.report
    assert report["status"] == "stopped"
    assert report["stop"]["survivors"] == []
    memory = report["memory"]
    assert memory["vram_after_bytes"] <= memory["vram_baseline_bytes"] + SLACK_BYTES
    assert memory["vram_peak_bytes"] > memory["vram_baseline_bytes"] + SLACK_BYTES
    assert memory["vram_settled_s"] is not None
    assert report["combos_done"] == kept(run)


def test_a_stopped_run_resumes_on_the_gpu(place: Place) -> None:
    axes = ("fast=2:1000", "slow=1001:3000")
    run = sweep(place, "run", "sma_cross", axes, "--device", "cuda")
    run.wait_for(lambda: kept(run), "rows")
    run.signal(signal.SIGINT)
    run.end()
    resumed = place.start(place.argv("resume", str(run.run_dir), "--json"))
    assert resumed.end() == 0, resumed.tell_end()
    assert run.report["status"] == "completed"
    assert run.report["combos_done"] == kept(run) == 999 * 2000


def test_killing_the_front_leaves_nothing_on_the_device(place: Place, baseline: Baseline) -> None:
    run = computing(place)
    run.kill_front()
    run.assert_gone()
    baseline.wait_back()


def test_killing_the_warden_leaves_nothing_on_the_device(place: Place, baseline: Baseline) -> None:
    run = computing(place)
    kill(run.warden)
    assert run.end() != 0
    run.assert_gone()
    baseline.wait_back()


def test_a_killed_worker_is_replaced_and_nothing_is_lost(place: Place, baseline: Baseline) -> None:
    axes = ("fast=2:1000", "slow=1001:5000")
    run = computing(place, axes=axes)
    (worker,) = process.children(run.warden)
    kill(worker)
    assert run.end() == 0, run.tell()
    assert run.report["combos_done"] == kept(run) == 999 * 4000
    assert baseline.is_back(), baseline.tell()


def kill(pid: int) -> None:
    """SIGKILL for a process that was started here."""
    who = Identity.of(pid)
    assert who is not None
    assert who.send(signal.SIGKILL)
    wait_for(lambda: not who.alive, "its end")


@pytest.mark.parametrize("device", ["cuda", "torch:cuda"])
def test_with_little_memory_batches_are_smaller_and_rows_the_same(
    device: str, place: Place
) -> None:
    axes = ("fast=5:40:5", "slow=50:1000:50")
    plenty = swept(place, "plenty", "sma_cross", axes, "--device", device)
    options = "--device", device, "--vram-limit", "2G"
    little = swept(place, "little", "sma_cross", axes, *options)
    assert little == plenty


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_of_the_documentation_stops(
    example: str, place: Place, baseline: Baseline
) -> None:
    framework = example.partition("_")[0]
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    axes = ("threshold=0:0.5:0.00001",)
    if "reversal" in (EXAMPLES / example).read_text():
        axes = ("reversal=0,1", *axes)
    run = sweep(place, "run", f"{EXAMPLES / example}:{function_of(EXAMPLES / example)}", axes,
                "--device", "cuda", "--workers", "1")  # fmt: skip
    run.wait_for(lambda: kept(run), "rows")
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert baseline.is_back(), baseline.tell()
    rungs = [rung["name"] for rung in run.report["stop"]["rungs"]]
    assert rungs == ["flag", "verify"], run.tell()  # nobody had to be asked twice
    assert '"warden.device_flag"' in run.events


def function_of(path: Path) -> str:
    return next(one.function for one in examples(path.parent) if one.path == path)
