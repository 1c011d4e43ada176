from __future__ import annotations

import datetime as dt
import json
import os
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import errors
from supervisor.errors import AllstopError, ConfigError, DataError, brief
from supervisor.lifecycle import checks
from supervisor.lifecycle.checks import MAX_WORKERS
from supervisor.records.device import Stack
from supervisor.records.plan import MAX_WAIT_S, Plan, Source, StopTimes
from supervisor.records.report import MemoryReport, Report, Rung, StopReport
from supervisor.rows.grid import Grid
from supervisor.rows.ranking import Ranking
from supervisor.states import RunStatus


@pytest.mark.parametrize("key", ["grace_s", "terminate_s", "verify_s"])
@pytest.mark.parametrize(
    "value",
    [-1, -1e-9, float("nan"), float("inf"), MAX_WAIT_S + 1, 10**400, 10**5000, "2", True, None],
    ids=brief,
)
def test_a_bad_timer_is_named_as_the_user_wrote_it(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        StopTimes(**{key: value})
    assert caught.value.key == key.removesuffix("_s")
    assert str(caught.value).startswith(key.removesuffix("_s"))
    assert brief(value) in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.floats(0, MAX_WAIT_S), st.floats(0, MAX_WAIT_S), st.floats(0, MAX_WAIT_S))
def test_timers_within_a_day_are_taken(grace: float, terminate: float, verify: float) -> None:
    times = StopTimes(grace, terminate, verify)
    assert (times.grace_s, times.terminate_s, times.verify_s) == (grace, terminate, verify)


@pytest.mark.parametrize("workers", [0, -1, MAX_WORKERS + 1, 1.5, "4", True, None])
def test_a_bad_number_of_workers_is_refused(workers: Any) -> None:
    with pytest.raises(ConfigError, match="workers") as caught:
        checks.check_workers(workers)
    assert caught.value.key == "workers"


def test_workers_left_out_are_one_per_usable_core() -> None:
    assert checks.default_workers() == len(os.sched_getaffinity(0))
    assert checks.check_workers(1) == 1
    assert checks.check_workers(MAX_WORKERS) == MAX_WORKERS


@pytest.mark.parametrize("fee", [-0.1, 1, 1.5, float("nan"), "0.1", True])
def test_a_bad_fee_is_refused(fee: Any) -> None:
    with pytest.raises(ConfigError, match="fee"):
        checks.check_fee(fee)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:x", "cpu:0", "CUDA", "torch:"])
def test_an_unknown_device_is_refused_with_those_that_are_known(device: str) -> None:
    with pytest.raises(ConfigError, match="must be one of auto, cpu"):
        checks.check_device(device)


def a_plan(**changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "run_id": "r", "strategy": "s:f", "source": Source.IMPORT,
        "grid": Grid.of({"a": [1, 2], "b": [0.5], "c": ["x", "y"], "d": [True]}),
        "combos_total": 4, "data": "bars.csv", "n_bars": 9, "workers": 3,
        "times": StopTimes(1, 2, 3),
    }  # fmt: skip
    return Plan(**facts | changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 0), ("workers", None), ("workers", "q"), ("workers", True),
        ("workers_asked", "q"), ("workers_asked", -1), ("vram_limit_bytes", "8G"),
        ("vram_limit_bytes", -5), ("fallback_workers", "x"), ("combos_total", 1.5),
        ("n_bars", []), ("resumed", -1),
    ],
)  # fmt: skip
def test_a_count_that_is_none_makes_no_plan(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Plan.from_json(a_plan().to_json() | {name: value})


def test_a_plan_comes_back_from_its_file() -> None:
    plan = a_plan()
    again = Plan.from_json(json.loads(json.dumps(plan.to_json() | {"of a later version": 1})))
    assert again.to_json() == plan.to_json()
    assert again.times == plan.times
    assert again.source is Source.IMPORT
    for index in range(plan.grid.size):
        assert again.grid.params(index) == plan.grid.params(index)


def test_the_span_of_a_plan_is_its_part_of_the_grid() -> None:
    assert a_plan().span == range(4)
    shard = a_plan(shard=(1, 3))
    assert shard.span == range(1, 3)
    assert (shard.span.start, shard.span.stop) == (1, 3)
    assert Plan.from_json(json.loads(json.dumps(shard.to_json()))).span == range(1, 3)


def test_a_plan_keeps_the_constraint_of_its_strategy() -> None:
    grid = Grid.of({"fast": [1, 2, 3], "slow": [2, 3]})
    plan = a_plan(strategy="sma_cross", grid=grid, ordered=("fast", "slow"))
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.ordered == ("fast", "slow")
    assert again.space.accepted(0, 6).tolist() == [0, 1, 3]
    assert a_plan().space.total == 4


def test_a_plan_keeps_its_points_and_its_ranking() -> None:
    points = [{"fast": 5, "day": dt.date(2024, 1, 2)}, {"fast": 9, "day": dt.date(2024, 1, 2)}]
    plan = a_plan(grid=Grid.of(points), ranking=Ranking("x", True, 3))
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert [again.grid.params(at) for at in range(2)] == points
    assert again.ranking == Ranking("x", True, 3)


@pytest.mark.parametrize(
    "damage",
    [
        {"grid": 3}, {"grid": {"a": [{"date": 3}]}}, {"grid": {"a": [{"decimal": "x"}]}},
        {"points": 3}, {"points": {"a": [2**70]}}, {"points": {"a": [[0]]}}, {"points": {"a": [9]}},
        {"points": {"a": [-1]}}, {"points": {}}, {"ranking": 3}, {"ranking": {"metric": 3}},
        {"ranking": {"min_trades": None}}, {"ranking": {"min_trades": -1}},
    ],
)  # fmt: skip
def test_a_damaged_plan_is_no_plan(damage: dict[str, object]) -> None:
    plain = a_plan(grid=Grid.of([{"a": 1}, {"a": 2}])).to_json()
    with pytest.raises((LookupError, TypeError, ValueError, ConfigError)):
        Plan.from_json(plain | damage)


def test_a_plan_keeps_its_devices() -> None:
    plan = a_plan(
        device="cuda", workers=3, stack=Stack.CUPY, devices=("GPU-a", "GPU-b", "GPU-a"),
        spare_devices=("GPU-c",), vram_limit_bytes=8 << 30, device_why="as asked",
        workers_asked=3, fallback_workers=16,
    )  # fmt: skip
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.to_json() == plan.to_json()
    assert again.stack is Stack.CUPY
    assert (again.devices, again.spare_devices) == (plan.devices, plan.spare_devices)
    assert again.slots == 16
    assert again.worker_vram_bytes == 4 << 30  # two workers share GPU-a
    assert a_plan(vram_limit_bytes=8 << 30).worker_vram_bytes is None


def test_a_plan_of_before_there_were_devices_is_read() -> None:
    plain = json.loads(json.dumps(a_plan(device="cpu").to_json()))
    for name in ("stack", "devices", "spare_devices", "vram_limit_bytes", "device_why",
                 "workers_asked", "fallback_workers"):  # fmt: skip
        del plain[name]
    plan = Plan.from_json(plain)
    assert (plan.stack, plan.devices, plan.slots) == (Stack.NUMBA, (), 3)
    assert plan.device == "cpu"


def test_a_report_comes_back_from_its_file() -> None:
    report = Report(
        run_id="r", status=RunStatus.STOPPED, reason="SIGINT", exit_code=130,
        containment="subreaper", combos_total=4, combos_done=2, combos_failed=1, elapsed_s=1.5,
        run_dir="/r", stop=StopReport("SIGINT", "stop", 0.1, [Rung("flag", 0.0, 2)], ["pid 1"]),
        memory=MemoryReport(1, 2, 1, 1, settled_s=0.2), errors=["e"],
    )  # fmt: skip
    plain = json.loads(json.dumps(report.to_json()))
    assert Report.from_json(plain | {"of a later version": 1}) == report
    # the names are a contract
    assert {
        "run_id", "status", "reason", "exit_code", "containment", "combos_total", "combos_done",
        "elapsed_s", "stop", "memory", "jobs", "components_cleaned", "errors",
    } <= set(plain)  # fmt: skip
    assert {"requested_by", "level", "elapsed_s", "rungs", "survivors"} <= set(plain["stop"])
    assert set(plain["stop"]["rungs"][0]) == {"name", "at_s", "acted_on"}
    assert {
        "ram_baseline_bytes", "ram_peak_bytes", "ram_after_bytes", "ram_freed_bytes", "settled_s",
    } <= set(plain["memory"])  # fmt: skip
    assert plain["memory"]["vram_peak_bytes"] is None


KINDS = [
    kind for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, AllstopError)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickling_with_its_facts(kind: type[AllstopError]) -> None:
    needed = {"path": "bars.csv"} if issubclass(kind, DataError | errors.JournalError) else {}
    error = kind("what happened", **needed)
    error.pid = 7  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_data_error_names_the_file_and_the_row() -> None:
    error = DataError("price is negative", path="bars.csv", row=7)
    assert str(error) == "bars.csv, row 7: price is negative"
    assert (error.path, error.row, error.key) == ("bars.csv", 7, "data")
