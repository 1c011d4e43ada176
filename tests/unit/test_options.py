"""The table of options, and that all places which have an option agree with it."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import supervisor
from slurm.client import LEASE_S
from supervisor.cli.command import refuse_sweep_options
from supervisor.cli.resume import resume as resume_command
from supervisor.cli.run import run as run_command
from supervisor.errors import ConfigError, brief
from supervisor.lifecycle import options, resuming
from supervisor.lifecycle.options import BY_NAME, OPTIONS, Given, Kind, Option, Use, used_for
from supervisor.lifecycle.prepare import Changes, Order, check, prepare
from supervisor.lifecycle.spread import ClusterOrder
from supervisor.records.plan import Plan, StopTimes


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


# -- the table and the places -------------------------------------------------


def test_the_sweep_of_python_has_the_options_and_the_defaults_of_the_table() -> None:
    there = parameters(supervisor.sweep)
    assert there.keys() == {o.in_python for o in used_for(Use.PYTHON)} | {"stop_event"}
    for option in used_for(Use.PYTHON):
        wanted = inspect.Parameter.empty if option.required else option.default
        assert there[option.in_python].default == wanted, option.name


def test_the_resume_of_python_has_the_options_of_the_table() -> None:
    there = parameters(supervisor.resume)
    assert there.keys() == {o.in_python for o in used_for(Use.RESUME)} | {"run", "stop_event"}
    for option in used_for(Use.RESUME):
        unset = False if option.kind is Kind.FLAG else None
        assert there[option.in_python].default is unset, option.name


@pytest.mark.parametrize(
    ("command", "use", "own"),
    [
        (run_command, Use.SWEEP | Use.COMMAND, {"context", "spec", "as_json"}),
        (resume_command, Use.RESUME, {"run", "as_json"}),
    ],
)
def test_a_command_has_the_options_of_the_table(command: Any, use: Use, own: set[str]) -> None:
    there = parameters(command)
    assert there.keys() == {o.name for o in used_for(use)} | own
    for option in used_for(use):
        info = there[option.name].default
        assert info.param_decls == (option.flag,)
        assert info.help == option.help
        assert info.rich_help_panel == option.group.value


def test_the_records_have_the_defaults_of_the_table() -> None:
    order = Order.of({})
    for item in dataclasses.fields(Order):
        if item.name != "times":
            assert getattr(order, item.name) == BY_NAME[item.name].default, item.name
    assert order.times == StopTimes()
    for option in OPTIONS:
        if option.section == "stop":
            assert getattr(StopTimes(), option.in_python) == option.default
    for item in dataclasses.fields(Plan):
        if item.name in BY_NAME and item.default is not dataclasses.MISSING:
            assert item.default == BY_NAME[item.name].default, item.name
    cluster = ClusterOrder()
    for option in used_for(Use.CLUSTER):
        if option.name != "slurm" and option.default is not None:
            assert getattr(cluster, option.in_python) == option.default, option.name
    assert BY_NAME["lease"].default == LEASE_S


def test_an_option_has_one_name_in_each_place() -> None:
    assert len(BY_NAME) == len(OPTIONS)
    assert len({option.in_python for option in OPTIONS}) == len(OPTIONS)


def test_a_default_passes_its_own_check() -> None:
    for option in OPTIONS:
        if option.default is not None:
            assert option.check(option.default, "x") == option.default


# -- what cannot be, in every place that has it ------------------------------------

LONG = 256 * "a"
WRONG: dict[str, list[tuple[Any, str | None]]] = {
    # a value as Python may have it, and as the command line has it; None: it cannot say that
    "data": [("", ""), ("a\0b", None), (Path("a\0b"), None), (LONG, LONG), ("\ud800", None)],
    "strategy": [("", ""), (f"{LONG}.py:f", f"{LONG}.py:f"), (3, None), (None, None),
                 (["f"], None)],
    "grid": [(3, None), (None, None), ("a=1", None), ({1: [2]}, None), ([1, 2], None)],
    "columns": [("close", "close"), ("klose=a", "klose=a"), ("time,close,close", None),
                ("", ""), (3, None), ("close=" + 20 * LONG, None), ({"shut": "a"}, None)],
    "symbol": [("", ""), (" ", " "), (3, None), (["A"], None), ("a\0b", None)],
    "bars_per_year": [(0, "0"), (-1, "-1"), (float("nan"), "nan"), ("x", "x"), (True, None),
                      (1e12, "1e12"), (10**5000, None), (1j, None)],
    "year_days": [(0, "0"), (367, "367"), (252.5, "252.5"), ("x", "x"), (True, None), ([], None)],
    "fee": [(1, "1"), (-0.1, "-0.1"), (float("nan"), "nan"), ("x", "x"), (True, None),
            (None, None), (1j, None), (10**5000, None)],
    "seed": [(-1, "-1"), (2**63, str(2**63)), (2.5, "2.5"), ("x", "x"), (True, None), ([], None)],
    "sort": [("", ""), (3, None), ("a\0b", None), (["sharpe"], None)],
    "ascending": [("yes", None), (1, None)],
    "min_trades": [(-1, "-1"), (1.5, "1.5"), ("x", "x"), (True, None), (2**53, str(2**53))],
    "workers": [(0, "0"), (1025, "1025"), (2.5, "2.5"), ("many", "many"), (True, None),
                (-1, "-1"), (float("inf"), "inf"), ([], None), (10**5000, 5000 * "9")],
    "device": [("tpu", "tpu"), ("", ""), ("cuda:", "cuda:"), ("cuda:0,", "cuda:0,"), (3, None),
               (None, None), ("cuda:x", "cuda:x"), (["cuda"], None)],
    "vram_limit": [("", ""), ("8", "8"), ("63M", "63M"), ("8Q", "8Q"), (-1, "-1"), (True, None),
                   (8e9, "1e9"), ("inf", "inf"), (10**5000, 5000 * "9"), ([], None)],
    "containment": [("bucket", "bucket"), ("", ""), (3, None), (["auto"], None)],
    "grace": [(-1, "-1"), (86_401, "86401"), ("2", None), ("x", "x"), (True, None),
              (10**5000, "1e999")],
    "terminate": [(-1e-9, "-1e-9"), (float("inf"), "inf"), ([], None)],
    "verify": [(float("nan"), "nan"), ({}, None), ("", "")],
    "run_dir": [("", ""), (LONG, LONG), (2000 * "ab/", 2000 * "ab/"), (3, None),
                ("a\0b", None), (b"x", None)],
    "resume": [],
    "slurm": [],
    "cluster": [("carrier:pigeon", "carrier:pigeon"), ("ssh:", "ssh:"), ("", ""), (3, None)],
    "tasks": [(0, "0"), (10_001, "10001"), ("x", "x"), (True, None), (4.0, "4.0")],
    "job": [({"cpu": 8}, "cpu=8"), ({"cpus": 0}, "cpus=0"), ({"cpus": "x"}, "cpus=x"),
            ({"time_limit": "soon"}, "time_limit=soon"), ({"array": 3}, "array=3"),
            (3, None), ([], None), (None, "cpus")],
    "python": [("", ""), (3, None), ("a\0b", None)],
    "lease": [(-1, "-1"), (1.5, "1.5"), ("x", "x"), (True, None)],
    "detach": [("yes", None), (1, None)],
    "retry_failed": [("yes", None), (1, None)],
    "changed_code": [("yes", None), (0, None)],
}  # fmt: skip

IN_PYTHON = [(BY_NAME[name], value) for name, pairs in WRONG.items() for value, _ in pairs]
TYPED = [(BY_NAME[name], text) for name, pairs in WRONG.items() for _, text in pairs]


def named(value: Any) -> str:
    return value.name if isinstance(value, Option) else brief(value)[:20]


def test_no_option_is_left_out_here() -> None:
    assert WRONG.keys() == BY_NAME.keys()


def one_line(error: ConfigError, name: str, key: str) -> None:
    assert str(error).startswith(name), str(error)
    assert error.key == key
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def python_value(option: Option, value: Any) -> bool:
    """Whether the value is one that Python's sweep takes for the option not being given."""
    return value is None and not option.required and option.default is None


@pytest.mark.parametrize(("option", "value"), IN_PYTHON, ids=named)
def test_a_bad_value_from_python_names_the_keyword(option: Option, value: Any) -> None:
    if python_value(option, value):
        return
    use = Use.PYTHON if Use.PYTHON in option.use else option.use
    with pytest.raises(ConfigError) as caught:
        options.from_python(use, **{option.in_python: value})
    one_line(caught.value, option.in_python, option.name)


@pytest.mark.parametrize(
    ("option", "text"), [pair for pair in TYPED if pair[1] is not None], ids=named
)
def test_a_bad_value_on_the_command_line_names_the_option(option: Option, text: str) -> None:
    typed: Any = [text] if option.kind is Kind.TABLE else text
    with pytest.raises(ConfigError) as caught:
        options.from_command_line({option.name: typed})
    one_line(caught.value, option.flag, option.name)


@pytest.mark.parametrize(("option", "value"), IN_PYTHON, ids=named)
def test_nothing_is_begun_for_a_bad_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: Option, value: Any
) -> None:
    """Through the public functions: no warden, no directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("supervisor.api.take_warden", None)
    fine = {"strategy": "sma_cross", "grid": {"fast": [1], "slow": [2]}}
    if python_value(option, value):
        return
    if Use.PYTHON in option.use:
        with pytest.raises(ConfigError):
            supervisor.sweep(**fine | {option.in_python: value})
    if Use.RESUME in option.use and value is not None:
        with pytest.raises(ConfigError) as caught:
            supervisor.resume("no-such-run", **{option.in_python: value})
        assert caught.value.key == option.name
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "mine.py"
    grid = {"a": [1]}
    with monkeypatch.context() as patch:
        patch.setattr("supervisor.lifecycle.inputs.check_small", denied)
        with pytest.raises(ConfigError, match=f"{path} cannot be read: Permission denied"):
            check(Order.of({"strategy": f"{path}:f", "grid": grid}))
    monkeypatch.setattr("supervisor.market.cache.load", denied)
    with pytest.raises(ConfigError, match=r"x\.csv: cannot be read: Permission denied") as caught:
        check(Order.of({"strategy": "m:f", "grid": grid, "data": "x.csv"}))
    assert caught.value.key == "data"


def test_an_event_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stop_event must have a method is_set"):
        supervisor.sweep("sma_cross", {"fast": [1], "slow": [2]}, stop_event=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="stop_event"):
        supervisor.resume("x", stop_event=object())  # type: ignore[arg-type]


def test_a_command_takes_only_the_options_that_are_marked_for_one() -> None:
    for option in OPTIONS:
        typed: Any = {Kind.FLAG: True, Kind.TABLE: ["a=1"]}.get(option.kind, "1")
        if Use.COMMAND in option.use:
            refuse_sweep_options(None, {option.name: typed})
            continue
        with pytest.raises(ConfigError) as caught:
            refuse_sweep_options(None, {"grace": "1", option.name: typed})
        one_line(caught.value, f"{option.flag} is for sweeps only", option.name)
    refuse_sweep_options(None, {"data": None, "resume": False, "grid": []})
    with pytest.raises(ConfigError, match=r"'s\.toml' is for sweeps only"):
        refuse_sweep_options(Path("s.toml"), {})


# -- what can be ---------------------------------------------------------------------


def test_what_is_typed_arrives_as_values() -> None:
    typed = {option.name: None for option in OPTIONS} | {
        "data": "x.csv", "workers": "4", "fee": "1e-3", "grace": "3", "run_dir": "out",
        "grid": ["a=1:3", "b=x,true"], "job": ["cpus=8", "setup=one", "setup=two", "memory=4G"],
        "resume": True, "detach": False, "lease": "0",
        "device": "torch:cuda:1", "vram_limit": "1.5g",
    }  # fmt: skip
    given = options.from_command_line(typed)
    assert {name: list(values) for name, values in given.pop("grid").items()} == {
        "a": [1, 2, 3], "b": ["x", True],
    }  # fmt: skip
    assert given == {
        "data": "x.csv", "workers": 4, "fee": 0.001, "grace": 3.0, "run_dir": Path("out"),
        "job": {"cpus": 8, "setup": ["one", "two"], "memory": "4G"}, "resume": True, "lease": 0,
        "device": "torch:cuda:1", "vram_limit": 3 << 29,
    }  # fmt: skip


def test_numpy_s_numbers_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    given = options.from_python(Use.PYTHON, workers=numpy.int64(4), fee=numpy.float32(0.5))
    assert given == {"workers": 4, "fee": 0.5}
    assert (type(given["workers"]), type(given["fee"])) == (int, float)


def test_what_was_not_set_is_not_among_what_may_change() -> None:
    assert Changes.of({}) == Changes()
    given: Given = {"workers": 2, "grace": 3.0, "containment": "cgroup", "retry_failed": True}
    assert Changes.of(given) == Changes(2, {"grace_s": 3.0}, True, False, "cgroup")


@pytest.mark.parametrize(("kill_wait_s", "grace_s"), [(30.0, 21.429), (None, 100.0)])
def test_a_run_resumed_inside_a_job_stops_before_the_cluster_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_wait_s: float | None, grace_s: float
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    order = Order.of({
        "strategy": "sma_cross", "grid": {"fast": [2], "slow": [3]}, "run_dir": tmp_path / "run",
    })  # fmt: skip
    prepare(order).claim.release()
    changes = Changes.of({"grace": 100.0, "terminate": 5.0})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("slurm.allocation.kill_wait_s", lambda: kill_wait_s)
    again = resuming.prepare(str(tmp_path / "run"), changes)
    again.claim.release()
    assert again.plan.times.grace_s == pytest.approx(grace_s)
    assert any("KillWait" in note for note in again.notes) is (kill_wait_s is not None)
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["times"]["grace_s"] == again.plan.times.grace_s


def test_only_an_option_of_a_cluster_s_asks_for_one() -> None:
    for option in OPTIONS:
        asked = options.on_cluster({option.name: option.default})
        assert asked is (Use.CLUSTER in option.use), option.name
    assert ClusterOrder.of({"workers": 3}) is None
    assert ClusterOrder.of({"slurm": True}) == ClusterOrder()
    given = {"cluster": "local", "tasks": 7, "lease": 5, "job": {"cpus": 2}, "fee": 0.1}
    assert ClusterOrder.of(given) == ClusterOrder("local", 7, {"cpus": 2}, 5)
