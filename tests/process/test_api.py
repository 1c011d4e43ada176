from __future__ import annotations

import datetime as dt
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import multiprocess
import numpy as np
import pytest

import supervisor
from supervisor.errors import ConfigError, RunFailedError
from supervisor.front.link import release_wardens
from supervisor.ipc.stopflag import StopFlag
from supervisor.system.process import Identity, children, descendants
from tests.support.cli import PATIENT_S, POLITE, ROOT, Place, kept_in
from tests.support.inside import see_idle, sweep_inside
from tests.support.waiting import DEADLINE_S, wait_for

TIMES = {"grace_s": 0.3, "terminate_s": 0.2}


def marked(place: Place, name: str, n: int) -> None:
    wait_for(lambda: len(list(place.root.glob(f"{name}*"))) >= n, f"{n} marks {name}")


def holding(root: Path, done: int):
    """A closure that finishes ``done`` combinations and then stays until it is told to stop."""

    def backtest(bars, params, stop):
        if params["a"] < done:
            return {"x": float(params["a"]), "bars": float(len(bars.close))}
        (root / f"ready-{os.getpid()}").touch()
        stop.wait()
        return None

    return backtest


# --- what can be swept ---------------------------------------------------------------------------


VALUES = {
    "stop": [None, 0.5],
    "day": [dt.date(2024, 1, 2), dt.date(2024, 2, 29)],
    "price": [Decimal("1.10")],
    "pair": [(1, 2)],
    "window": [1, 2.5],
    "long": [True],
    "code": ["00012", "09:30"],
    "signal": [signal.SIGINT, signal.SIGTERM],
}


def as_told(rows: list[dict[str, Any]]) -> list[str]:
    """Rows in one order, with the types of their values."""
    return sorted(repr([(n, type(v).__name__, v) for n, v in row.items()]) for row in rows)


def test_values_of_every_kind_and_rows_like_results(inside: Place) -> None:
    """What the function gets is what was given; rows() and results() have the same columns."""
    seen = inside.root / "seen"

    def backtest(bars, params, stop):
        with seen.open("a") as file:
            file.write(repr(list(params.values())) + "\n")
        metrics = {"day": 4.0, "error": 5.0, "index": 6.0, "x": 0.5}
        return {"trades": 3} | metrics if params["code"] == "00012" else metrics

    with supervisor.sweep(
        backtest, VALUES, inside.data, workers=2, run_dir=inside.root / "run"
    ) as run:
        rows = list(run.rows())
        table = run.results()
    given = [repr(list(point)) for point in itertools.product(*VALUES.values())]
    assert sorted(seen.read_text().splitlines()) == sorted(given)
    results = table.to_pylist()
    for row in results:
        assert row["code"] == "00012" or row.pop("trades") is None  # rows leave it out
    assert as_told(rows) == as_told(results)
    assert list(results[0]) == [
        *VALUES, "trades", "result_day", "result_error", "index", "x",
    ]  # fmt: skip
    assert results[0]["trades"] == 3
    assert [results[0][name] for name in ("day", "signal")] == [VALUES["day"][0], "Signals.SIGINT"]


def test_a_resumed_run_gets_the_same_values(inside: Place) -> None:
    seen, first = inside.root / "seen", inside.root / "first"

    def backtest(bars, params, stop):
        with seen.open("a") as file:
            file.write(repr(list(params.values())) + "\n")
        if not first.exists():
            first.touch()
            stop.wait()
            return None
        return {"x": 0.5}

    run_dir = inside.root / "run"
    with supervisor.sweep(backtest, VALUES, inside.data, workers=1, run_dir=run_dir) as run:
        wait_for(first.exists, "the first combination")
        run.stop()
    seen.unlink()
    with supervisor.resume(run_dir) as run:
        rows = run.results().to_pylist()
    given = [repr(list(point)) for point in itertools.product(*VALUES.values())]
    assert sorted(seen.read_text().splitlines()) == sorted(given)
    assert len(rows) == len(given)


def test_points_in_place_of_a_grid(inside: Place) -> None:
    points = [{"a": 3, "b": "x"}, {"a": 1, "b": "y"}, {"a": 3, "b": "y"}]

    def backtest(bars, params, stop):
        return {"y": params["a"] + (params["b"] == "y")}

    with supervisor.sweep(backtest, points, inside.data, run_dir=inside.root / "run") as run:
        rows = sorted(run.rows(), key=lambda row: (row["a"], row["b"]))
        table = run.results().to_pylist()
    assert table == [point | {"y": y} for point, y in zip(points, (3.0, 2.0, 4.0), strict=True)]
    assert rows == [table[1], table[0], table[2]]


def test_a_builtin_over_points(inside: Place) -> None:
    points = [{"fast": 3, "slow": 7}, {"slow": 3, "fast": 5}, {"fast": 2, "slow": 5}]
    with supervisor.sweep("sma_cross", points, inside.data, run_dir=inside.root / "run") as run:
        rows = run.results().to_pylist()
    assert [(row["fast"], row["slow"]) for row in rows] == [(3, 7), (2, 5)]


def test_a_closure_over_a_grid(inside: Place) -> None:
    factor = 3.0
    table = np.arange(10.0)

    def backtest(bars, params, stop):
        assert not stop.is_set()
        assert not bars.close.flags.writeable
        return {"y": factor * table[params["a"]] + params["b"], "n": len(bars.close)}

    grid = {"a": range(10), "b": [0.5, 1.5]}
    with supervisor.sweep(backtest, grid, inside.data, run_dir=inside.root / "run") as run:
        report = run.wait()
    assert (report.status, report.exit_code, report.combos_done) == ("completed", 0, 20)
    rows = run.results().to_pylist()
    assert [(row["a"], row["b"]) for row in rows] == [(a, b) for a in range(10) for b in (0.5, 1.5)]
    assert all(row["y"] == 3 * row["a"] + row["b"] and row["n"] == 20 for row in rows)
    assert not run.running


def test_a_lambda_a_callable_object_and_a_partial(inside: Place) -> None:
    import functools

    class Callable:
        def __call__(self, bars, params, stop):
            return {"y": 1.0}

    for at, function in enumerate(
        [lambda bars, params, stop: {"y": 1.0}, Callable(),
         functools.partial(lambda y, bars, params, stop: {"y": y}, 1.0)]
    ):  # fmt: skip
        with supervisor.sweep(
            function, {"a": [1, 2]}, inside.data, run_dir=inside.root / str(at)
        ) as run:
            assert [row["y"] for row in run.results().to_pylist()] == [1.0, 1.0]


def test_what_cannot_be_sent_is_refused_before_anything_is_started(
    inside: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inside.work)
    generator = (number for number in range(3))
    with pytest.raises(ConfigError, match="cannot be sent"):
        supervisor.sweep(lambda b, p, s: {"y": next(generator)}, {"a": [1]}, inside.data)
    assert list(inside.work.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"grid": {}}, "grid is empty"),
        ({"grid": {"a": []}}, "empty"),
        ({"workers": 0}, "workers"),
        ({"grace_s": -1}, "grace"),
        ({"data": "no-such.csv"}, "no-such"),
        ({"strategy": "no_such.py:f"}, "does not exist"),
        ({"strategy": "no such form:"}, "module:function"),
    ],
)
def test_what_cannot_be_done_is_said_at_once_and_leaves_nothing(
    inside: Place, monkeypatch: pytest.MonkeyPatch, change: dict, complaint: str
) -> None:
    monkeypatch.chdir(inside.work)
    arguments = {"strategy": lambda b, p, s: {"y": 1.0}, "grid": {"a": [1]}, "data": inside.data}
    with pytest.raises(ConfigError, match=complaint):
        supervisor.sweep(**arguments | change)
    assert list(inside.work.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("def g(): pass", "no function 'f'"),
        ("1 / 0", "ZeroDivisionError"),
        (None, "no_such_module"),
    ],
)
def test_a_strategy_that_is_not_there_is_told_by_the_worker(
    inside: Place, body: str | None, complaint: str
) -> None:
    spec = "no_such_module_at_all:f" if body is None else inside.strategy(body)
    with (
        supervisor.sweep(spec, {"a": [1]}, inside.data, run_dir=inside.root / "run") as run,
        pytest.raises(ConfigError, match=complaint),
    ):
        run.results()
    assert not (inside.root / "run").exists()


# --- rows ----------------------------------------------------------------------------------------


def test_rows_come_while_it_runs_each_once(inside: Place) -> None:
    with supervisor.sweep(
        holding(inside.root, 40), {"a": range(200)}, inside.data, workers=2,
        run_dir=inside.root / "run", grace_s=PATIENT_S,
    ) as run:  # fmt: skip
        seen = []
        for row in run.rows():
            seen.append(row["a"])
            assert row["x"] == row["a"]
            if len(seen) == 20:
                assert run.running
                threading.Thread(target=run.stop).start()
    assert sorted(seen) == sorted(kept_in(run.run_dir))
    assert len(seen) == len(set(seen)) >= 20


def test_rows_are_given_once_though_they_were_kept_twice(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        import workers.main
        if params["a"] == 30 and first("torn"):
            workers.main.ChunkInHand._count = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return row(params)
    """
    run = sweep_inside(inside, body, n=100)
    seen = [row["a"] for row in run.run.rows()]
    assert run.end() == 0
    assert max(run.kept().values()) == 2  # it did happen
    assert sorted(seen) == list(range(100))


def test_rows_of_failed_combinations_have_an_error(inside: Place) -> None:
    def backtest(bars, params, stop):
        return {"y": 1 / params["a"]}

    with supervisor.sweep(
        backtest, {"a": [0, 1, 2]}, inside.data, run_dir=inside.root / "run"
    ) as run:
        rows = {row["a"]: row for row in run.rows()}
    assert "ZeroDivisionError" in rows[0]["error"]
    assert "y" not in rows[0]
    assert rows[2] == {"a": 2, "y": 0.5}


def test_a_run_of_which_nothing_succeeded_has_failed(inside: Place) -> None:
    def backtest(bars, params, stop):
        raise ValueError("never")

    with supervisor.sweep(backtest, {"a": [0, 1]}, inside.data, run_dir=inside.root / "r") as run:
        report = run.wait()
    assert (report.status, report.exit_code) == ("failed", 1)
    assert "every combination failed" in report.reason
    assert len(run.results()) == 2


# --- ending it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_it_is_ended_from_any_thread(inside: Place, how: str, elsewhere: bool) -> None:
    with supervisor.sweep(
        holding(inside.root, 30), {"a": range(200)}, inside.data, workers=2,
        run_dir=inside.root / "run", grace_s=PATIENT_S,
    ) as run:  # fmt: skip
        marked(inside, "ready", 2)
        reports = []
        if elsewhere:
            thread = threading.Thread(target=lambda: reports.append(getattr(run, how)()))
            thread.start()
            thread.join(DEADLINE_S)
        else:
            reports.append(getattr(run, how)())
        (report,) = reports
        assert not run.running
        assert (report.status, report.stop.level) == ("stopped", how)
        assert report.stop.requested_by == "python"
        assert report.stop.survivors == []
        assert report.errors == []
        assert run.report == report
        assert run.stop() == report  # again: nothing more happens
        if how == "stop":
            assert report.combos_done == 30
        assert len(run.results()) == report.combos_done == len(kept_in(run.run_dir))


def test_progress_is_live_and_never_goes_back(inside: Place) -> None:
    seen = [0]
    with supervisor.sweep(
        "sma_cross", {"fast": range(5, 105), "slow": range(110, 610)}, workers=2,
        run_dir=inside.root / "run",
    ) as run:  # fmt: skip
        while run.running:
            seen.append(run.progress.done)
    assert seen == sorted(seen)
    assert len(set(seen)) > 20, "not only when a chunk is through"
    assert run.progress.done == run.report.combos_done == 50_000


def test_a_signal_to_a_warden_without_a_run_is_not_the_next_runs(inside: Place) -> None:
    grid, kw = {"a": range(5)}, {"workers": 1}

    def backtest(bars, params, stop):
        return {"y": 1.0}

    with supervisor.sweep(backtest, grid, inside.data, run_dir=inside.root / "1", **kw) as run:
        run.wait()
    link = run._front.link
    see_idle(link)
    os.kill(link.pid, signal.SIGTERM)
    see_idle(link)
    with supervisor.sweep(backtest, grid, inside.data, run_dir=inside.root / "2", **kw) as run:
        report = run.wait()
    assert run._front.link is link
    assert (report.status, report.stop) == ("completed", None)


def test_what_fails_shows_while_the_sweep_goes_on(inside: Place) -> None:
    def backtest(bars, params, stop):
        if params["a"] < 5:
            raise ValueError("never")
        if params["a"] < 7:
            return {"y": 1.0}
        stop.wait()
        return None

    with supervisor.sweep(
        backtest, {"a": range(100)}, inside.data, workers=1, run_dir=inside.root / "run"
    ) as run:
        wait_for(lambda: run.progress.done == 7, "seven combinations")
        assert run.progress.failed == 5
        assert run.stop().combos_failed == 5


def test_what_comes_too_late_for_one_run_is_not_the_next_ones(own_state: Path) -> None:
    (own_state / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.support.late_request", own_state / "run"],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert said[0] == "RunStarted"
    assert said[-1] == "RunEnded", "a warden is kept: the next run's front would hear the rest"


def test_drain_finishes_what_is_in_hand(inside: Place) -> None:
    gate = inside.root / "gate"

    def backtest(bars, params, stop):
        if params["a"] >= 30:
            (gate.parent / f"ready-{os.getpid()}").touch()
            while not gate.exists():
                time.sleep(0.001)
        return {"y": 1.0}

    with supervisor.sweep(
        backtest, {"a": range(10_000)}, inside.data, workers=2, run_dir=inside.root / "run"
    ) as run:
        marked(inside, "ready", 2)
        threading.Timer(0, run.drain).start()
        wait_for(lambda: '"draining"' in (run.run_dir / "events.jsonl").read_text(), "the drain")
        gate.touch()
        report = run.wait(DEADLINE_S)
    assert report is not None
    assert (report.status, report.stop.level) == ("stopped", "drain")
    kept = sorted(kept_in(run.run_dir))
    assert kept == list(range(len(kept)))
    assert 30 < len(kept) < 10_000


def test_leaving_the_block_by_an_exception_stops_it(inside: Place) -> None:
    with pytest.raises(LookupError, match="mine"), supervisor.sweep(
        holding(inside.root, 30), {"a": range(200)}, inside.data, workers=2,
        run_dir=inside.root / "run", grace_s=PATIENT_S,
    ) as run:  # fmt: skip
        marked(inside, "ready", 2)
        raise LookupError("mine")
    assert not run.running
    assert run.report.status == "stopped"
    assert len(run.results()) == 30


def test_leaving_the_block_stops_it(inside: Place) -> None:
    with supervisor.sweep(
        holding(inside.root, 5), {"a": range(200)}, inside.data, run_dir=inside.root / "run"
    ) as run:
        pass
    assert run.report.status == "stopped"
    assert run.report.errors == []


def test_stopping_a_finished_run_changes_nothing(inside: Place) -> None:
    run = sweep_inside(inside, "def f(bars, params, stop): return row(params)", n=5)
    assert run.end() == 0
    assert run.run.stop().status == "completed"
    assert run.run.kill().stop is None


def test_a_report_asked_for_too_early_is_an_error(inside: Place) -> None:
    run = sweep_inside(inside, POLITE, DONE=5)
    with pytest.raises(RunFailedError, match="not over"):
        _ = run.run.report
    assert run.run.wait(0.01) is None
    assert run.stop() == 143


@pytest.mark.parametrize("make_event", [multiprocess.Event, threading.Event])
def test_an_event_of_the_callers_is_mirrored(inside: Place, make_event: Any) -> None:
    stop = make_event()
    with supervisor.sweep(
        holding(inside.root, 5), {"a": range(200)}, inside.data, workers=2,
        run_dir=inside.root / "run", stop_event=stop,
    ) as run:  # fmt: skip
        marked(inside, "ready", 2)
        assert run.running
        stop.set()
        report = run.wait(DEADLINE_S)
    assert report is not None
    assert (report.status, report.stop.requested_by) == ("stopped", "stop_event")


def test_an_event_that_hangs_does_no_harm(inside: Place) -> None:
    let_go = threading.Event()

    class Hangs:
        def is_set(self) -> bool:
            let_go.wait()
            return False

    with supervisor.sweep(
        holding(inside.root, 5), {"a": range(200)}, inside.data, workers=2,
        run_dir=inside.root / "run", stop_event=Hangs(),
    ) as run:  # fmt: skip
        marked(inside, "ready", 2)
        assert run.stop().status == "stopped"
    let_go.set()


def test_a_stop_flag_serves_as_event_too(inside: Place) -> None:
    flag = StopFlag()
    with supervisor.sweep(
        holding(inside.root, 5), {"a": range(200)}, inside.data, workers=2,
        run_dir=inside.root / "run", stop_event=flag,
    ) as run:  # fmt: skip
        marked(inside, "ready", 2)
        flag.set()
        report = run.wait(DEADLINE_S)
    assert report is not None
    assert report.status == "stopped"


def test_a_stop_that_the_front_is_slow_to_pass_on_fails_no_combination(inside: Place) -> None:
    """Workers see the flag before the warden is told; it must not take them for crashed."""
    run = sweep_inside(inside, POLITE, DONE=30)
    run.wait_marks("ready", 2)
    pids = set(children(run.warden))
    run.run._front.flag.set()  # what request() does first; the message comes late
    wait_for(lambda: not pids & set(children(run.warden)), "the workers' end", tell=run.tell)
    code = run.stop()
    assert code == 143, run.tell()
    assert run.report["errors"] == []
    assert run.report["combos_failed"] == 0
    run.assert_nothing_lost(30)


# --- the caller's process is left alone ----------------------------------------------------------


def test_nothing_about_the_callers_process_is_changed(inside: Place) -> None:
    def state() -> dict[str, object]:
        import ctypes

        subreaper = ctypes.c_int(-1)
        ctypes.CDLL(None).prctl(37, ctypes.byref(subreaper), 0, 0, 0)
        return {
            "handlers": [signal.getsignal(n) for n in sorted(signal.valid_signals())],
            "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
            "wakeup": signal.set_wakeup_fd(-1),
            "subreaper": subreaper.value,
            "environment": dict(os.environ),
            "cwd": Path.cwd(),
            "session": os.getsid(0),
            "threads": sorted(t.name for t in threading.enumerate()),
        }

    see_threads_end()  # those of the tests before this one
    before = state()
    with supervisor.sweep(
        holding(inside.root, 5), {"a": range(200)}, inside.data, run_dir=inside.root / "run"
    ) as run:
        marked(inside, "ready", 1)
        during = state()
        run.stop()
    wait_for(lambda: state() == before, "everything as it was", tell=lambda: str(state()))
    for name in before.keys() - {"threads"}:
        assert during[name] == before[name]


def test_it_works_off_the_main_thread(inside: Place) -> None:
    reports = []

    def work() -> None:
        with supervisor.sweep(
            holding(inside.root, 5), {"a": range(200)}, inside.data, workers=2,
            run_dir=inside.root / "run", grace_s=PATIENT_S,
        ) as run:  # fmt: skip
            marked(inside, "ready", 2)
            reports.append(run.stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(DEADLINE_S)
    assert [report.status for report in reports] == ["stopped"]


def test_two_sweeps_at_once_do_not_disturb_each_other(inside: Place) -> None:
    one, two = inside.root / "one", inside.root / "two"
    one.mkdir()
    two.mkdir()
    with (
        supervisor.sweep(holding(one, 5), {"a": range(200)}, inside.data, workers=2,
                         run_dir=one / "run", grace_s=PATIENT_S) as first,
        supervisor.sweep(holding(two, 6), {"a": range(200)}, inside.data, workers=2,
                         run_dir=two / "run", grace_s=PATIENT_S) as second,
    ):  # fmt: skip
        for root in (one, two):
            wait_for(lambda root=root: len(list(root.glob("ready-*"))) >= 2, "both ready")
        assert first.stop().combos_done == 5
        assert second.running
        assert second.stop().combos_done == 6
    release_wardens()


def test_a_worker_killed_by_another_sweeps_end_is_unheard_of(inside: Place) -> None:
    """Children of the caller's that have nothing to do with us stay."""
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        run = sweep_inside(inside, POLITE, times={"grace_s": 0.0, "terminate_s": 0.0}, DONE=5)
        run.wait_marks("ready", 2)
        run.run.kill()
        assert bystander.poll() is None
        bystander.kill()


# --- again, at once ------------------------------------------------------------------------------


def test_the_next_run_starts_at_once_in_the_warden_that_is_warm(inside: Place) -> None:
    warden = None
    for at in range(5):
        stopped = time.monotonic()
        run = sweep_inside(inside, POLITE, DONE=5)
        first = next(iter(run.run.rows()))
        assert first["sharpe"] == first["a"]
        assert time.monotonic() - stopped < 20
        assert warden in (None, run.warden)
        warden = run.warden
        run.wait_marks("ready", 2)
        assert run.stop() == 143
        assert descendants(warden) == [], "a warm warden holds no process"
        for mark in inside.root.glob("ready-*"):
            mark.unlink()
        run.run_dir.rename(inside.root / f"was{at}")


def test_a_warm_warden_that_died_is_not_missed(inside: Place) -> None:
    run = sweep_inside(inside, "def f(bars, params, stop): return row(params)", n=5)
    assert run.end() == 0
    os.kill(run.warden, signal.SIGKILL)
    gone = Identity.of(run.warden)
    wait_for(lambda: gone is None or not gone.alive, "its death")
    run.run_dir.rename(inside.root / "was")
    again = sweep_inside(inside, "def f(bars, params, stop): return row(params)", n=5)
    assert again.end() == 0, again.tell()
    release_wardens()


def test_runs_leave_no_descriptors_and_no_memory_behind(inside: Place) -> None:
    counts = []
    for at in range(6):
        run = sweep_inside(inside, "def f(bars, params, stop): return row(params)", n=50)
        assert run.end() == 0
        warden, link = run.warden, run.run._front.link
        run.run_dir.rename(inside.root / f"was{at}")
        inside.inside.clear()
        del run
        gc.collect()
        see_idle(link)
        see_threads_end()
        counts.append(
            tuple(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in ("self", warden))
        )
    assert counts[-1] == counts[1], counts


def see_threads_end() -> None:
    """Wait for the end of what runs beside a run, and what a test runs beside itself."""
    beside = ("allstop", "Thread-")
    wait_for(
        lambda: not [each for each in threading.enumerate() if each.name.startswith(beside)],
        "the threads' end",
        tell=lambda: str(threading.enumerate()),
    )


# --- the end of the caller ------------------------------------------------------------------------

CALLER = """
import os, sys, time
import supervisor
sys.path.insert(0, {root!r})
from pathlib import Path

run = supervisor.sweep(
    {strategy!r}, {{"a": range(200)}}, {data!r}, workers=2, run_dir={run_dir!r},
    grace_s=30,
)
while len(list(Path({marks!r}).glob("ready-*"))) < 2:
    time.sleep(0.001)
print("ready", flush=True)
{ending}
"""


@pytest.mark.parametrize(
    "ending", ["", "os._exit(0)", "raise SystemExit(3)", "os.kill(os.getpid(), 9)", "1 / 0"],
    ids=["falls off the end", "os._exit", "sys.exit", "killed", "exception"],
)  # fmt: skip
def test_a_caller_that_ends_without_a_word_takes_its_run_along(place: Place, ending: str) -> None:
    code = CALLER.format(
        root=str(ROOT), strategy=place.strategy(POLITE, DONE=30), data=str(place.data),
        run_dir=str(place.root / "run"), marks=str(place.root), ending=ending,
    )  # fmt: skip
    run = place.start([sys.executable, "-P", "-c", code])
    run.wait_for(lambda: "ready" in run.out or run.over, "the caller")
    run.look()
    run.end()
    report = run.wait_report()
    run.assert_gone()
    assert report["status"] == "stopped"
    run.assert_nothing_lost(30)


def test_ctrl_c_in_a_callers_loop_stops_the_run_and_is_the_callers_own(place: Place) -> None:
    code = """
from pathlib import Path
import supervisor
with supervisor.sweep({strategy!r}, {{"a": range(200)}}, {data!r}, workers=2,
                      run_dir={run_dir!r}, grace_s=30) as run:
    try:
        for row in run.rows():
            Path({looping!r}).touch()
    except KeyboardInterrupt:
        print("interrupted", run.running, flush=True)
print(run.report.status, run.report.combos_done, flush=True)
""".format(
        strategy=place.strategy(POLITE, DONE=30), data=str(place.data),
        run_dir=str(place.root / "run"), looping=str(place.root / "looping"),
    )  # fmt: skip
    run = place.start([sys.executable, "-P", "-c", code])
    run.wait_marks("ready", 2)
    run.wait_for((place.root / "looping").exists, "the caller in its loop")
    run.signal(signal.SIGINT)
    assert run.end() == 0, run.tell()
    assert run.out == "interrupted False\nstopped 30\n", "stopped before it is the caller's"
    run.assert_gone()


def test_a_run_that_gets_no_thread_ends_as_well_as_any(
    inside: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name in ("allstop-keeper", "allstop-import", "allstop-meanwhile"):
            raise RuntimeError("can't start new thread")
        usual(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    sweep = supervisor.sweep(
        holding(inside.root, 3), {"a": range(4)}, inside.data, workers=1,
        run_dir=inside.root / "run", **TIMES,
    )  # fmt: skip
    with sweep as run:
        marked(inside, "ready", 1)
        wait_for((inside.root / "run" / "inputs.json").exists, "what a resume needs")
        report = run.stop()
    assert (report.status, report.combos_done) == ("stopped", 3)
    assert report.memory and report.memory.settled_s is not None
    assert any("no thread" in error for error in report.errors)
    monkeypatch.undo()
    with supervisor.resume(inside.root / "run") as again:
        marked(inside, "ready", 2)
        assert again.stop().combos_done == 3
