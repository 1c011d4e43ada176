"""The CUDA backtests: their rows against the CPU's, their rate, what bounds it, how they stop."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu import expected
from bench.gpu.backtests import started, swept
from bench.gpu.children import Nursery, answer_of
from bench.gpu.expected import BARS, COMBOS, Expected, compare_rows
from bench.gpu.grids import STRATEGIES, grid_of
from bench.gpu.shots import shoot, tail_row
from bench.gpu.step import Bench
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.example import example_bars

LIMIT_OF_DIFFERENCE = 1e-9

_GOAL_PER_S = 2e6
_PROFILED = 202_752
"""Combinations of the launch that is profiled: two waves of 132 multiprocessors."""

_STOPS = 20

METRICS = {
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "any unit of a multiprocessor",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_elapsed": "shared memory",
    "sm__inst_issued.avg.pct_of_peak_sustained_active": "issue of instructions",
    "sm__pipe_fp64_cycles_active.avg.pct_of_peak_sustained_active": "FP64",
    "sm__pipe_alu_cycles_active.avg.pct_of_peak_sustained_active": "integers",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "L2",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps in flight",
}
"""What ncu is asked for, in % of the most that is possible, and what it says."""


def measure(bench: Bench) -> None:
    """Compare rows, take rates, profile a launch, stop a sweep; a failure costs its part alone."""
    record, sizes = bench.record, bench.sizes
    known: Expected | None = None
    try:
        known = expected.load(bench.expected, example_bars(BARS))
        record.fact("cpu", known.cpu)
    except NotMeasuredError as error:
        record.fact("expected", str(error))
    for strategy in STRATEGIES:
        work = partial(measure_one, strategy, known, sizes.combos, sizes.rate_rounds)
        try:
            seen = answer_of(work, max(1.0, bench.left_s()))
        except NotMeasuredError as error:
            record.row(Row(f"{strategy}: rows", "", not_measured=str(error)))
            continue
        for row in rows_of(strategy, seen, known):
            record.row(row)
    record.fact("ncu", profile("sma_cross"))
    try:
        with Nursery(("cupy",)) as nursery:
            delays_us = shoot(
                nursery, "backtests:listen", min(_STOPS, sizes.shots), 0.2,
                stack="cupy", strategy="sma_cross", combos=1_000_000, bars=BARS,
            )  # fmt: skip
    except NotMeasuredError as error:
        record.row(Row("request → sma_cross has ended", "µs", not_measured=str(error)))
    else:
        record.row(tail_row("request → sma_cross has ended", delays_us, None))


def measure_one(
    strategy: str, known: Expected | None, combos: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Compute one strategy's rows and rates, in a process that opens the device."""
    from bench.gpu.timed_device import TimedDevice
    from workers.cupy_backtest.cuda_device import CupyDevice

    bars, flag = example_bars(BARS), StopFlag()
    devices: list[TimedDevice] = []

    def open_device(limit_bytes: int | None) -> Any:
        devices.append(TimedDevice(CupyDevice(limit_bytes)))
        return devices[-1]

    seen: dict[str, Any] = {"rates": {}}
    if known is not None:
        grid = grid_of(strategy, COMBOS)
        backtest = started("cupy", bars, grid, strategy, open_device=open_device)
        difference = compare_rows(swept(backtest, grid.size, flag).rows, known.rows[strategy])
        seen["differing"], seen["largest"] = difference.differing, difference.largest
    for n in combos:
        backtest = started("cupy", bars, grid_of(strategy, n), strategy, open_device=open_device)
        swept(backtest, n, flag)  # what depends on the windows alone is kept from here on
        devices[-1].taken_ms()
        per_s: dict[str, list[float]] = {"wall": [], "device": []}
        for _ in range(rounds):
            per_s["wall"].append(n / swept(backtest, n, flag).took_s)
            per_s["device"].append(1000 * n / max(devices[-1].taken_ms(), 1e-6))
        seen["rates"][str(n)] = per_s
    return seen


def rows_of(strategy: str, seen: dict[str, Any], known: Expected | None) -> list[Row]:
    """Return the rows of :func:`measure_one`."""
    rows = []
    if "differing" in seen:
        of = f"of {COMBOS:,} × {BARS:,} bars"
        rows += [
            compare(
                f"{strategy}: rows that differ from the CPU's in any bit, {of}",
                "",
                [seen["differing"]],
                target=Target(0),
            ),
            compare(
                f"{strategy}: largest relative difference from the CPU's rows",
                "",
                [seen["largest"]],
                target=Target(LIMIT_OF_DIFFERENCE),
            ),
        ]
    largest = max(map(int, seen["rates"]), default=0)
    for n, per_s in seen["rates"].items():
        goal = strategy == "sma_cross" and int(n) == largest >= 1_000_000
        rows.append(
            compare(
                f"{strategy}: combinations/s at {int(n):,}",
                "/s",
                per_s["wall"],
                target=Target(_GOAL_PER_S, at_most=False) if goal else None,
                details={"by_device_per_s": per_s["device"]},
            )
        )
    if known is not None and largest:
        per_s = seen["rates"][str(largest)]["wall"]
        times = [rate / known.per_s[strategy] for rate in per_s]
        name = f"{strategy}: times one core of {known.cpu}"
        rows.append(compare(name, "×", times, note=f"at {largest:,} combinations"))
    return rows


# -- what bounds it ------------------------------------------------------------------


def profile(strategy: str) -> dict[str, Any]:
    """Return the metrics of one launch, in % of what is possible; or why there are none."""
    command = [
        *("ncu", "--clock-control", "none", "--csv", "--page", "raw"),
        *("--kernel-name", "regex:^sweep", "--launch-count", "1"),
        *("--metrics", ",".join(METRICS)),
        *(sys.executable, "-P", "-m", "bench.gpu.launch", strategy, str(_PROFILED)),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd()))},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"not measured": str(error)}
    found = metrics_in(done.stdout)
    return found or {"not measured": (done.stderr or done.stdout)[-800:]}


def metrics_in(text: str) -> dict[str, float]:
    """Return the metrics that ncu printed as CSV: a line of names, of units, of values."""
    start = text.find('"ID"')
    if start < 0:
        return {}
    lines = list(csv.DictReader(io.StringIO(text[start:])))
    found = {}
    for metric, name in METRICS.items():
        for line in lines:
            value = (line.get(metric) or "").replace(",", "")
            if value.replace(".", "", 1).isdecimal():
                found[name] = float(value)
    return found
