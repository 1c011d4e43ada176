from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from supervisor.ipc.stopflag import Level
from supervisor.records.plan import MARGIN_VARIABLE
from supervisor.system import process
from tests.support.cli import DEAF, POLITE, Place, Started
from tests.support.inside import kept_wardens, sweep_inside
from tests.support.waiting import SHORT_MARGIN_S, wait_for

DONE = 20
GRACE_S, TERMINATE_S = 0.4, 0.3


def times(grace_s: float, terminate_s: float, verify_s: float = 10.0) -> dict[str, float]:
    return {"grace_s": grace_s, "terminate_s": terminate_s, "verify_s": verify_s}


TIMES = times(GRACE_S, TERMINATE_S)
SLACK_S = 20.0  # a busy machine; which rungs there were tells the rest

IGNORES_TERM = """
def f(bars, params, stop):
    if params["a"] < DONE:
        return row(params)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    mark("ready")
    while True:
        time.sleep(60)
"""


def events(run: Started) -> str:
    path = run.run_dir / "events.jsonl"
    return path.read_text() if path.exists() else ""


def rungs(run: Started) -> dict[str, dict[str, float]]:
    return {rung["name"]: rung for rung in run.report["stop"]["rungs"]}


def test_deaf_kernels_end_at_grace(inside: Place) -> None:
    """SIGTERM's default action needs no handler of Python's: it ends a compiled loop."""
    run = sweep_inside(inside, DEAF, times=times(GRACE_S, 30), DONE=DONE)
    run.wait_marks("ready", 2)
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost()
    seen = rungs(run)
    assert list(seen) == ["flag", "terminate", "verify"]
    assert GRACE_S <= seen["terminate"]["at_s"] <= GRACE_S + SLACK_S
    assert seen["terminate"]["acted_on"] == 2
    assert GRACE_S <= run.report["stop"]["elapsed_s"] <= GRACE_S + SLACK_S


def test_those_that_ignore_sigterm_end_at_grace_and_terminate(inside: Place) -> None:
    run = sweep_inside(inside, IGNORES_TERM, times=TIMES, DONE=DONE)
    run.wait_marks("ready", 2)
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost()
    seen = rungs(run)
    assert list(seen) == ["flag", "terminate", "kill", "verify"]
    assert GRACE_S + TERMINATE_S <= seen["kill"]["at_s"] <= GRACE_S + TERMINATE_S + SLACK_S
    assert seen["kill"]["acted_on"] == 2
    assert run.report["stop"]["survivors"] == []
    assert run.report["memory"]["settled_s"] is not None


def test_a_polite_worker_is_not_signalled(inside: Place) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] < DONE:
            return row(params)
        signal.signal(signal.SIGTERM, lambda *_: mark("termed"))
        mark("ready")
        stop.wait()
    """
    grace_s = 30.0
    run = sweep_inside(inside, body, times=times(grace_s, TERMINATE_S), DONE=DONE)
    run.wait_marks("ready", 2)
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    assert not list(inside.root.glob("termed-*"))
    assert run.report["stop"]["elapsed_s"] < grace_s


@pytest.mark.parametrize("body", [POLITE, DEAF], ids=["polite", "deaf"])
def test_stopped_workers_end(inside: Place, body: str) -> None:
    """SIGTERM to a stopped process waits for SIGCONT, which we send."""
    run = sweep_inside(inside, body, times=times(GRACE_S, 30), DONE=DONE)
    for pid in run.wait_marks("ready", 2):
        os.kill(pid, signal.SIGSTOP)
        run.wait_for(lambda pid=pid: process.state_letter(pid) == "T", "a stopped worker")
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost()
    assert run.report["stop"]["elapsed_s"] <= GRACE_S + SLACK_S
    assert "terminate" in rungs(run)
    assert "kill" not in rungs(run)


def test_a_stopped_warden_ends_the_run_all_the_same(inside: Place) -> None:
    run = sweep_inside(inside, POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    os.kill(run.warden, signal.SIGSTOP)
    run.wait_for(lambda: process.state_letter(run.warden) == "T", "a stopped warden")
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)


def test_a_warden_stopped_in_the_middle_of_the_stop_is_given_up_on(
    inside: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARGIN_VARIABLE, SHORT_MARGIN_S)
    # it must not have ended them before it is stopped itself: they have so long
    run = sweep_inside(inside, DEAF, times=times(4, 0.1, 0.4), DONE=DONE)
    run.wait_marks("ready", 2)
    warden = run.warden
    run.look_below()
    run.run._front.request(Level.STOP)  # stop() would wait
    run.wait_for(lambda: '"state": "flagged"' in run.events, "the flag")
    os.kill(warden, signal.SIGSTOP)
    began = time.monotonic()
    assert run.end() == 1, run.tell()
    assert time.monotonic() - began < 4 + SLACK_S
    run.assert_gone()
    run.assert_nothing_lost()
    assert run.report["status"] == "failed"
    assert str(warden) in run.report["reason"]


GRANDCHILDREN = """
import subprocess

def escape(how):
    if how == "setsid":
        subprocess.Popen(["setsid", "sleep", "1000"])
    elif how == "double-fork":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.chdir("/")
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                mark("daemon")
                time.sleep(1000)
            os._exit(0)
        os.wait()
    elif how == "stopped":
        pid = subprocess.Popen(["sleep", "1000"]).pid
        os.kill(pid, signal.SIGSTOP)
    elif how == "bare":  # no environment by which it could be found
        subprocess.Popen(["setsid", "sleep", "1000"], env={})

def f(bars, params, stop):
    if params["a"] < DONE:
        return row(params)
    if first("escaped"):
        for how in HOW:
            escape(how)
    mark("ready")
    if LEAVES:
        os._exit(0)
    stop.wait()
"""
WAYS = ["setsid", "double-fork", "stopped", "bare"]


def test_grandchildren_that_tried_to_get_away_are_gone(inside: Place) -> None:
    # counted below: by then the workers are gone, and of these who ends when told to
    enough = times(3, 2)
    run = sweep_inside(inside, GRANDCHILDREN, times=enough, DONE=DONE, HOW=WAYS, LEAVES=False)
    run.wait_marks("ready", 2)
    run.wait_marks("daemon", 1)
    run.wait_for(lambda: len(process.descendants(run.warden)) == 2 + len(WAYS), "all of them")
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)
    assert rungs(run)["terminate"]["acted_on"] == len(WAYS)
    assert rungs(run)["kill"]["acted_on"] == 1  # the daemon, which ignores SIGTERM
    assert run.report["stop"]["survivors"] == []


def test_grandchildren_of_a_worker_that_is_gone_are_gone_too(inside: Place) -> None:
    """Daemons whose worker has died belong to the warden: it is a subreaper."""
    body = GRANDCHILDREN.replace("if LEAVES:", "if LEAVES and first('left'):")
    run = sweep_inside(inside, body, times=TIMES, DONE=DONE, HOW=WAYS, LEAVES=True)
    run.wait_marks("daemon", 1)
    run.wait_for(lambda: "exited with status" in run.events, "a lost worker")
    run.look_below()
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    assert run.report["stop"]["survivors"] == []


def test_daemons_do_not_outlive_a_run_that_ends_by_itself(inside: Place) -> None:
    body = GRANDCHILDREN.replace("stop.wait()", "return row(params)")
    run = sweep_inside(inside, body, times=TIMES, n=40, DONE=DONE, HOW=WAYS, LEAVES=False)
    assert run.end() == 0, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(40)
    assert run.report["status"] == "completed"
    assert run.report["stop"] is None


def test_nothing_foreign_is_touched(inside: Place) -> None:
    """A process that only looks like ours: same name, same environment, not our child."""
    env = inside.env | {"ALLSTOP_RUN_ID": "another run", "ALLSTOP_TEST": "bystander"}
    bystander = subprocess.Popen(["sleep", "1000"], env=env)
    try:
        run = sweep_inside(inside, DEAF, times=times(0, 0), DONE=DONE)
        run.wait_marks("ready", 2)
        assert run.stop() == 143, run.tell()
        run.assert_gone()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


RUNNER = """
def f(bars, params, stop):
    '''Leaves a process behind that is never the same one for long.'''
    if params["a"] < DONE:
        return row(params)
    mark("ready")
    if first("ran"):
        until = time.monotonic() + 6.0
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while time.monotonic() < until:
                if os.fork():
                    os._exit(0)
            os._exit(0)
    stop.wait()
"""


def test_one_that_forks_faster_than_it_can_be_killed_does_not_hang_the_stop(inside: Place) -> None:
    """The stop ends in bounded time: with the runner caught, or named as a survivor."""
    # grace for the other worker, which has rows to write while the runner has a processor
    run = sweep_inside(inside, RUNNER, times=times(2, 0.1, 0.5), DONE=DONE)
    run.wait_marks("ready", 2)
    began = time.monotonic()
    code = run.stop()
    assert time.monotonic() - began < 2 + SLACK_S
    survivors = run.report["stop"]["survivors"]
    assert (code == 3) == bool(survivors), run.tell()
    assert code in (3, 143), run.tell()
    wait_for(
        lambda: len(inside.working()) <= len(kept_wardens()), "the runner's end"
    )  # it gives up by itself
    run.assert_nothing_lost(DONE)


FORK_BOMB = """
def f(bars, params, stop):
    if params["a"] < DONE:
        return row(params)
    if first("bomb"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(6):
            os.fork()
    mark("ready")
    while True:
        time.sleep(60)
"""


def test_a_small_fork_bomb_is_gone(inside: Place) -> None:
    run = sweep_inside(inside, FORK_BOMB, times=TIMES, DONE=DONE)
    run.wait_marks("ready", 65)
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost()
    assert run.report["stop"]["survivors"] == []
