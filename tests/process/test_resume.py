from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import supervisor
from supervisor.errors import ConfigError, RunBusyError
from supervisor.records import registry
from supervisor.records.claim import Claim, claim_directory
from supervisor.records.events import latest
from supervisor.rows.journal import journal_paths
from supervisor.system import process
from supervisor.system.process import Identity
from tests.support.cli import POLITE, Place, Started, rows_of
from tests.support.inside import Inside
from tests.support.processes import is_helper
from tests.support.waiting import DEADLINE_S, wait_for

DONE = 50
TIMES = ["--grace", "0.3", "--terminate", "0.2"]

STEADY = """
import random
import numpy as np
ALLOWED = HERE / "allowed"

def f(bars, params, stop):
    '''Goes no further than a test allows that wants to find the run at work.'''
    time.sleep(0.001)
    while ALLOWED.exists() and params["a"] >= int(ALLOWED.read_text() or 0):
        if stop.wait(0.001):
            return None
    return {"sharpe": params["a"] ** 0.5 * bars.close[-1], "trades": params["a"] % 7,
            "noise": random.random() + np.random.normal() + stop.rng.random()}
"""
SEED = ["--seed", "9"]


def resume(place: Place, *options: str) -> Started:
    return place.start(place.argv("resume", str(place.root / "run"), "--json", *options))


def finished(run: Started) -> dict[str, Any]:
    """Wait for the end of a command that must succeed; return its report."""
    assert run.end() == 0, run.tell()
    return json.loads(run.out.splitlines()[-1])


def results_bytes(place: Place) -> bytes:
    return (place.root / "run" / "results.parquet").read_bytes()


def test_a_strategy_edited_within_a_second_is_computed_as_it_is(place: Place) -> None:
    """Python's own cache of bytecode knows a file by its size and the second."""
    place.env.pop("PYTHONDONTWRITEBYTECODE", None)
    file = Path(place.strategy('def f(bars, params, stop): return {"sharpe": 1.0}')[:-2])
    seen = []
    for number in ("1.0", "2.0"):
        file.write_text(file.read_text().replace("1.0", number))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        run_dir = place.root / number
        ended = place.command(
            "run", "--strategy", f"{file}:f", "--data", str(place.data), "--grid", "a=0:1",
            "--run-dir", str(run_dir),
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        seen += [row["sharpe"] for row in rows_of(run_dir)]
    assert seen == [1.0, 1.0, 2.0, 2.0]


def test_status_counts_earlier_attempts_and_combinations_given_up(
    place: Place,
) -> None:
    """From the front by SIGUSR1, and from the warden by ``status``."""
    body = """
    def f(bars, params, stop):
        if params["a"] in (3, 33):
            os._exit(1)
        if params["a"] == BLOCKED:
            mark(f"at-{BLOCKED}")
            stop.wait()
            return None
        return row(params)
    """
    first = place.sweep(body, n=100, workers=1, BLOCKED=30)
    first.wait_marks("at-30", 1)
    first.signal(signal.SIGINT)
    assert first.end() == 130
    assert first.report["combos_done"] == 30
    place.strategy(body, BLOCKED=40)
    again = place.start(place.argv("resume", str(place.root / "run"), "--changed-code"))
    again.wait_marks("at-40", 1)
    said = place.command("status", str(place.root / "run"), "--json")
    assert json.loads(said.stdout)["done"] == 40
    again.signal(signal.SIGUSR1)
    again.wait_for(lambda: "40 of 100 combinations" in again.err, "the status line")
    assert "1 failed" in again.err, "in this attempt"
    again.signal(signal.SIGINT)
    assert again.end() == 130
    assert (again.report["combos_done"], again.report["combos_failed"]) == (40, 2)


def put_aside(place: Place) -> None:
    shutil.move(place.root / "run", place.root / "uninterrupted")


def allow(place: Place, n: int | None) -> None:
    """Let STEADY go as far as that; None: to the end."""
    allowed = place.root / "allowed"
    if n is None:
        allowed.unlink(missing_ok=True)
    else:
        (place.root / "allowed.new").write_text(str(n))
        (place.root / "allowed.new").rename(allowed)


def killed(run: Started, victims: list[int]) -> None:
    """SIGKILL processes of a run, so that none can act on another's death, and see it end."""
    run.look_below()
    found = [Identity.of(pid) for pid in victims]
    assert all(found), "a process ended before it was killed"
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for who in filter(None, found):
            who.send(number)
    run.end()
    run.assert_gone()


def refused(place: Place, *words: str) -> None:
    """A resume must fail with one line that has these words, and leave the run as it was."""
    before = (place.root / "run" / "run.json").read_bytes()
    said = place.command("resume", str(place.root / "run"))
    assert said.returncode == 2, said
    assert said.stderr.count("\n") == 1, said.stderr
    assert said.stdout == ""
    for word in words:
        assert word in said.stderr
    assert (place.root / "run" / "run.json").read_bytes() == before


# --- bit for bit -------------------------------------------------------------------------------


def kill_and_resume(place: Place, run: Started, resumes: int, step: int, seed: int) -> Started:
    """Kill a process as often as asked, each time some rows later; return the last attempt."""
    chance = random.Random(seed)
    for _ in range(resumes):
        enough = sum(run.kept().values()) + chance.randrange(1, step)
        allow(place, enough + 64)  # they hold back some, and we may be late
        run.wait_for(lambda run=run, enough=enough: sum(run.kept().values()) >= enough, "rows")
        front, warden = run.popen.pid, run.warden
        workers = process.children(warden)
        victims = [[front], [warden], [front, warden], [chance.choice(workers), front, warden]]
        killed(run, chance.choice(victims))
        run = resume(place)
    allow(place, None)
    return run


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_was_killed_again_and_again_equals_one_that_was_not(
    place: Place, seed: int
) -> None:
    finished(place.sweep(STEADY, *SEED, n=600))
    whole = results_bytes(place)
    put_aside(place)
    allow(place, 0)
    run = kill_and_resume(place, place.sweep(STEADY, *SEED, *TIMES, n=600), 3, 150, seed)
    report = finished(run)
    assert results_bytes(place) == whole
    assert report["status"] == "completed"
    assert (report["combos_done"], report["combos_total"]) == (600, 600)
    assert report["resumed"] == 3
    assert report["stop"] is None  # it is the last attempt's report
    assert max(run.kept().values()) == 1, "a combination was computed twice"


def test_a_built_in_strategy_too(place: Place) -> None:
    del place.env["NUMBA_CACHE_DIR"]
    n = 200_000
    lines = ["time,close"]
    close = 100.0
    chance = random.Random(3)
    for minute in range(n):
        close += chance.randrange(-5, 6) / 100
        lines.append(f"{1_700_000_000 + 60 * minute},{close:.2f}")
    place.data.write_text("\n".join(lines))
    argv = place.argv(
        "run", "--data", str(place.data), "--strategy", "sma_cross", "--grid", "fast=5:150",
        "--grid", "slow=20:600", "--workers", "2", "--json",
    )  # fmt: skip
    finished(place.start([*argv, "--run-dir", str(place.root / "run")]))
    whole = results_bytes(place)
    put_aside(place)
    run = place.start([*argv, "--run-dir", str(place.root / "run")])
    report = finished(kill_and_resume(place, run, 1, 3_000, 5))
    assert report["resumed"] == 1
    assert results_bytes(place) == whole


def test_a_torn_journal_is_cut_and_its_rows_computed_again(place: Place) -> None:
    finished(place.sweep(STEADY, *SEED, n=200))
    whole = results_bytes(place)
    put_aside(place)
    allow(place, 150)
    run = place.sweep(STEADY, *SEED, *TIMES, n=200)
    run.wait_for(
        lambda: len(run.kept()) > 50 and len(journal_paths(run.run_dir / "journal")) == 2,
        "rows, and both journals",
    )
    killed(run, [run.popen.pid, run.warden])
    allow(place, None)
    first, *_, last = journal_paths(run.run_dir / "journal")
    os.truncate(first, first.stat().st_size - 5)
    with last.open("ab") as file:
        file.write(b"\x07" * 40)
    finished(resume(place))
    assert results_bytes(place) == whole


def test_nothing_is_computed_twice_by_a_resume_after_a_stop(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    assert run.stop() == 143
    earlier = (run.run_dir / "report.json").read_text()
    (place.root / "strategy.py").write_text(
        (place.root / "strategy.py").read_text().replace(f"DONE = {DONE}", "DONE = 1000")
    )
    run = resume(place, "--changed-code", "--workers", "1", "--grace", "1.5")
    report = finished(run)
    assert report["combos_done"] == 1000
    assert set(run.kept().values()) == {1}
    assert (run.run_dir / "report-1.json").read_text() == earlier
    asked = json.loads((run.run_dir / "run.json").read_text())
    assert (asked["workers"], asked["times"]["grace_s"]) == (1, 1.5)
    assert asked["times"]["terminate_s"] == 1.0
    run.assert_nothing_lost(1000)


# --- where it is not possible ------------------------------------------------------------------


def dead_run(place: Place) -> Started:
    """A run of which front and warden were killed, with all on disk that resuming needs."""
    run = place.sweep(POLITE, *TIMES, DONE=DONE)
    run.wait_marks("ready", 2)
    run.wait_for((run.run_dir / "inputs.json").exists, "the data's digest")
    killed(run, [run.popen.pid, run.warden])
    return run


def test_data_and_code_must_be_the_same(place: Place) -> None:
    run = dead_run(place)
    kept = run.kept()
    data, code = place.data.read_text(), (place.root / "strategy.py").read_text()
    place.data.write_text(data.replace("1.15", "1.16", 1))
    refused(place, "bars.csv", "has changed")
    place.data.unlink()
    refused(place, "bars.csv", "no longer exists")
    place.data.write_text(data)
    (place.root / "strategy.py").write_text(code + "\n")
    refused(place, "strategy.py", "has changed", "--changed-code")
    (place.root / "strategy.py").unlink()
    refused(place, "strategy.py", "no longer exists")
    assert run.kept() == kept
    said = place.command("resume", "no-such-run")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)


def test_data_that_was_not_fingerprinted_in_time(place: Place) -> None:
    """The run died at once: size and time of the file must do, and the report says so."""
    run = dead_run(place)
    (run.run_dir / "inputs.json").unlink()
    facts = place.data.stat()
    os.utime(place.data, ns=(0, facts.st_mtime_ns + 1))
    refused(place, "cannot be verified")
    os.utime(place.data, ns=(0, facts.st_mtime_ns))
    again = resume(place)
    again.wait_marks("ready", 4)
    assert again.stop() == 143, again.tell()
    assert "could not be verified" in " ".join(again.report["errors"])


def test_a_run_that_runs_is_left_alone(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    refused(place, "still running", "allstop stop")
    assert run.stop() == 143
    assert run.report["resumed"] == 0


def test_a_run_that_is_complete_says_so(place: Place) -> None:
    report = finished(place.sweep(STEADY, n=5))
    said = place.command("resume", str(place.root / "run"))
    assert (said.returncode, said.stderr) == (0, "")
    assert "complete" in said.stdout
    assert finished(resume(place)) == report


def test_run_resume_begins_carries_on_or_names_what_differs(place: Place) -> None:
    argv = place.run_argv(POLITE, "--resume", DONE=DONE)
    run = place.start(argv)
    run.wait_marks("ready", 2)
    assert run.stop() == 143
    for change, words in (
        (("a=0:999", "a=0:1000"), "its grid has other values of a"),
        (("a=0:999", "b=0:999"), "its grid is over a, not b"),
        ((str(place.data), str(place.root / "other.csv")), "its data"),
    ):
        (place.root / "other.csv").write_text(place.data.read_text().replace("1.15", "1.16"))
        other = [change[1] if word == change[0] else word for word in argv]
        said = subprocess.run(
            other,
            cwd=place.work,
            env=place.env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert said.returncode == 2, said
        assert words in said.stderr
        assert said.stderr.count("\n") == 1
    (place.root / "other.csv").write_text(place.data.read_text())  # the same data elsewhere will do
    again = place.start(
        [str(place.root / "other.csv") if w == str(place.data) else w for w in argv]
    )
    again.wait_marks("ready", 4)
    assert again.stop() == 143
    assert (again.report["resumed"], again.report["combos_done"]) == (1, DONE)


def test_a_run_is_carried_on_from_anywhere(place: Place) -> None:
    """Data and module were named relative to where the run was asked for."""
    spec = place.strategy(POLITE, DONE=DONE)
    (place.root / "strategy.py").rename(place.work / "mine.py")
    assert spec.endswith(":f")
    place.data.rename(place.work / "bars.csv")
    run = place.start(
        place.argv(
            "run", "--data", "bars.csv", "--strategy", "mine:f", "--grid", "a=0:999", "--workers",
            "2", "--run-dir", str(place.root / "run"), "--json",
        )
    )  # fmt: skip
    run.wait_for(lambda: len(list(place.work.glob("ready-*"))) == 2, "two workers")
    assert run.stop() == 143
    place.work = place.root / "state"  # where the next commands are given
    again = resume(place)
    again.wait_for(
        lambda: len(list((place.root / "work").glob("ready-*"))) == 4, "two more workers"
    )
    assert again.stop() == 143, again.tell()
    assert again.report["combos_done"] == DONE


# --- failed combinations -----------------------------------------------------------------------

FAILS = """
def f(bars, params, stop):
    if params["a"] % 10 == 3 and not (HERE / "fixed").exists():
        raise ValueError(f"not fixed: {params['a']}")
    if params["a"] >= DONE:
        mark("ready")
        stop.wait()
    return row(params)
"""


def test_what_failed_stays_failed_unless_it_is_to_be_tried_again(place: Place) -> None:
    report = finished(place.sweep(FAILS, n=40, DONE=1000))
    assert (report["combos_failed"], report["combos_done"]) == (4, 40)
    (place.root / "fixed").touch()
    assert finished(resume(place))["combos_failed"] == 4
    run = resume(place, "--retry-failed")
    report = finished(run)
    assert (report["combos_failed"], report["combos_done"]) == (0, 40)
    assert all(row.get("error") is None for row in run.results())
    run.assert_nothing_lost(40)


# --- from Python -------------------------------------------------------------------------------

CALLER = """
import os, sys, threading
import pandas as pd
from supervisor import sweep

scale = 3.0

class Scaled:
    def __init__(self, by):
        self.by = by

def f(bars, params, stop):
    if params["a"] >= {done} and not os.path.exists({fixed!r}):
        open({marks!r} + f"/ready-{{os.getpid()}}", "w").close()
        stop.wait()
        return None
    return {{"sharpe": Scaled(scale).by * params["a"], "last": bars.close[-1]}}

index = pd.date_range("2024-01-01", periods=50, freq="h")
frame = pd.DataFrame({{"close": [1.0 + i / 7 for i in range(50)]}}, index=index)
with sweep(f, {{"a": range(200)}}, frame, workers=2, run_dir={run_dir!r}) as run:
    run.wait()
"""


def test_a_notebooks_closure_and_dataframe_are_carried_on_from_the_command_line(
    place: Place,
) -> None:
    fixed = place.root / "fixed"
    code = CALLER.format(
        done=DONE, fixed=str(fixed), marks=str(place.root), run_dir=str(place.root / "run")
    )
    run = place.start([sys.executable, "-P", "-c", code])
    run.wait_marks("ready", 2)
    run.wait_for((run.run_dir / "inputs.json").exists, "what resuming needs")
    killed(run, [run.popen.pid, run.warden])
    fixed.touch()
    again = resume(place)
    report = finished(again)
    assert report["combos_done"] == 200
    for row in again.results():
        assert row["sharpe"] == 3.0 * row["a"]
        assert row["last"] == 1.0 + 49 / 7
    (place.root / "run" / "report.json").unlink()
    kept = (place.root / "run" / "bars.bin").read_bytes()
    (place.root / "run" / "bars.bin").write_bytes(kept[:-8] + b"\0" * 8)
    refused(place, "has changed")
    (place.root / "run" / "function.dill").unlink()
    refused(place, "callable", "start a new run")


def test_resume_in_python(inside: Place) -> None:
    strategy = inside.strategy(POLITE, DONE=DONE)
    # so many that one worker cannot have been handed all that is left
    first = supervisor.sweep(
        strategy, {"a": range(1000)}, inside.data, workers=2, run_dir=inside.root / "run"
    )
    run = Inside(inside, first)
    run.wait_marks("ready", 2)
    with pytest.raises(RunBusyError, match="still running"):
        supervisor.resume(first.run_id)
    first.stop()
    with pytest.raises(ConfigError, match="no run"):
        supervisor.resume("nothing")
    second = supervisor.resume(inside.root / "run", workers=1, grace_s=0.5)
    again = Inside(inside, second)
    again.wait_marks("ready", 3)
    report = second.stop()
    assert (report.resumed, report.combos_done) == (1, DONE)
    assert second.run_id == first.run_id
    assert sorted(row["a"] for row in second.rows()) == list(range(DONE))
    again.assert_gone()


def test_a_run_that_is_found_is_not_taken_for_what_it_was_before_it_was_resumed(
    inside: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``stop`` finds it in the registry and asks its facts whether it is over."""
    seen: list[str] = []
    usual = registry.add

    def add(entry: registry.Entry) -> None:
        seen.append(latest(entry.run_dir, "front.run_requested", "warden.run_ended"))
        usual(entry)

    monkeypatch.setattr(registry, "add", add)
    strategy = inside.strategy(POLITE, DONE=1)
    first = supervisor.sweep(
        strategy, {"a": range(9)}, inside.data, workers=1, run_dir=inside.root / "run"
    )
    run = Inside(inside, first)
    run.wait_marks("ready", 1)
    first.stop()
    second = supervisor.resume(inside.root / "run")
    Inside(inside, second).wait_marks("ready", 2)
    second.stop()
    assert seen == ["front.run_requested"] * 2
    Inside(inside, second).assert_gone()


def test_a_claim_is_not_kept_alive_by_a_forked_copy(tmp_path: Path) -> None:
    """A program that sweeps and forks: its child must not hold the run after its death."""
    claim = claim_directory(tmp_path)
    with pytest.raises(RunBusyError):
        claim_directory(tmp_path)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        theirs.send(b"forked")
        theirs.recv(1)  # until the test has seen what it wanted to see
        os._exit(0)
    theirs.close()
    ours.recv(6)
    claim.release()
    try:
        claim_directory(tmp_path).release()
    finally:
        ours.close()
        os.waitpid(pid, 0)


# --- checkpoints -------------------------------------------------------------------------------

STEPS = """
def f(bars, params, stop):
    '''Ten steps, the state kept after each; dies once in the seventh, hangs once in the ninth.'''
    import numpy as np
    step, total = stop.load_checkpoint((0, np.zeros(2)))
    if step:
        mark(f"from-{params['a']}-{step}")
    while step < 10:
        if params["a"] == 3 and step == 6 and first("crash"):
            os._exit(9)
        if params["a"] == 5 and step == 8 and first("hold"):
            mark("ready")
            stop.wait()
            return None
        total = total + np.array([params["a"], step])
        step += 1
        stop.checkpoint((step, total))
    return {"sharpe": float(total[0]), "twice": float(total[1])}
"""


def test_a_checkpoint_is_given_back_after_a_crash_and_after_a_resume(place: Place) -> None:
    run = place.sweep(STEPS, *TIMES, n=6)
    run.wait_marks("ready", 1)
    run.wait_for(lambda: len(run.kept()) == 5, "the others")
    assert len(list(place.root.glob("from-3-6-*"))) == 1, "resumed after the crash"
    checkpoints = run.run_dir / "checkpoints"
    # a state goes after its row is safe, so a moment later
    run.wait_for(
        lambda: [path.name for path in checkpoints.iterdir()] == ["5.ckpt"], "only what has no row"
    )
    killed(run, [run.popen.pid, run.warden])
    again = resume(place)
    report = finished(again)
    assert report["combos_done"] == 6
    assert len(list(place.root.glob("from-5-8-*"))) == 1, "resumed after the resume"
    assert not checkpoints.exists()
    for row in again.results():
        assert (row["sharpe"], row["twice"]) == (10.0 * row["a"], 45.0)


def test_a_damaged_checkpoint_is_ignored_and_the_log_says_so(place: Place) -> None:
    run = place.sweep(STEPS, *TIMES, n=6)
    run.wait_marks("ready", 1)
    run.wait_for(lambda: len(run.kept()) == 5, "the others")
    killed(run, [run.popen.pid, run.warden])
    path = run.run_dir / "checkpoints" / "5.ckpt"
    path.write_bytes(path.read_bytes()[:-3])
    again = resume(place)
    finished(again)
    assert not list(place.root.glob("from-5-*"))
    logs = "".join(log.read_text() for log in (run.run_dir / "logs").glob("worker-*.log"))
    assert "5.ckpt is damaged: ignored" in logs
    assert sorted(row["twice"] for row in again.results()) == [45.0] * 6


def test_wait_for_the_process_that_finishes_a_dead_run(
    inside: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warden has someone write the results when the front dies: a resume waits for it."""
    run = inside.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    run.look_below()
    finisher = run.warden  # which becomes it
    run.kill_front()
    wait_for(lambda: holds_a_lock(finisher), "who finishes the run")
    os.kill(finisher, signal.SIGSTOP)
    wait_for(lambda: process.state_letter(finisher) == "T", "its suspension")
    assert holds_a_lock(finisher)
    refusals = []

    class Watched(Claim):
        def __init__(self, run_dir: Path) -> None:
            try:
                super().__init__(run_dir)
            except RunBusyError:
                if not refusals:
                    os.kill(finisher, signal.SIGCONT)
                refusals.append(run_dir)
                raise

    monkeypatch.setattr("supervisor.records.claim.Claim", Watched)
    again = Inside(inside, supervisor.resume(run.run_dir))
    assert refusals
    assert (run.run_dir / "report-1.json").exists(), "written before it was resumed"
    again.wait_for(lambda: again.events.count('"warden.run_started"') == 2, "its beginning")
    assert again.stop() == 143, again.tell()
    assert again.report["resumed"] == 1
    assert again.report["combos_done"] == DONE
    kept = {again.warden, *(who.pid for who in run.seen if is_helper(who.pid))}
    again.seen |= {who for who in run.seen if who.pid not in kept}
    again.assert_gone()


SLOW_TO_END = """
def f(bars, params, stop):
    '''The first time it does not hear the stop, so that the run takes its grace to end.'''
    if params["a"] < DONE or (HERE / "again").exists():
        return row(params)
    mark("ready")
    while True:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("command", ["resume", "run --resume", "report"])
def test_a_command_waits_for_a_run_whose_front_was_just_killed(place: Place, command: str) -> None:
    options = ["--grace", "1", "--terminate", "0.2"]
    run = place.sweep(SLOW_TO_END, *options, DONE=DONE, n=2 * DONE)
    run.wait_marks("ready", 1)  # one worker may have been given all that is left
    again = place.run_argv(SLOW_TO_END, *options, "--resume", DONE=DONE, n=2 * DONE)
    argv = again if "run" in command else place.argv(command, str(run.run_dir), "--json")
    run.kill_front()
    (place.root / "again").touch()
    said = subprocess.run(
        argv, cwd=place.work, env=place.env, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert said.returncode == 0, said.stderr
    assert "its front was killed" in said.stderr
    report = json.loads(said.stdout.splitlines()[-1])
    if command == "report":
        assert (report["status"], report["stop"]["requested_by"]) == ("stopped", "warden")
    else:
        assert (report["status"], report["resumed"]) == ("completed", 1)
        assert report["combos_done"] == 2 * DONE
    run.assert_gone()


def holds_a_lock(pid: int) -> bool:
    """Whether a process holds a file lock: the first that a finisher has is its claim."""
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(lock[1] == "FLOCK" and int(lock[4]) == pid for lock in locks)
