"""Checked by mypy, never run: the public API keeps its types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, assert_type

from supervisor import Bars, StopFlag, load_bars, resume, sweep
from supervisor.api import Run
from supervisor.records.report import Report


def strategy(bars: Bars, params: Mapping[str, Any], stop: StopFlag) -> dict[str, float]:
    return {"last": float(bars.close[-1]), "stopped": float(stop.is_set())}


bars = load_bars("bars.csv")
assert_type(bars, Bars)

with sweep(strategy, grid={"fast": range(5, 50), "slow": [50, 100]}, data=bars) as run:
    assert_type(run, Run)
    assert_type(run.rows(), Iterator[dict[str, Any]])
    assert_type(run.stop(), Report)
    assert_type(run.wait(1.0), Report | None)

with resume("20260101-000000-abcdef", workers=2, retry_failed=True) as again:
    assert_type(again, Run)

flag = StopFlag()
assert_type(flag.checkpoint({"bar": 7}), bool)
assert_type(flag.is_set(), bool)
assert_type(flag.wait(0.1), bool)


def on_a_gpu(stop: StopFlag) -> None:
    assert_type(stop.device_pointer, int)
    assert_type(stop.cuda.wait(lambda: True), bool)
