"""Workloads that do their worst: every stop ends in bounded time, and what is left is named."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import RunNotFoundError
from supervisor.lifecycle.reap import reap as reap_dead_runs
from supervisor.records import registry
from supervisor.system import process
from tests.support.cli import POLITE, Place
from tests.support.inside import sweep_inside
from tests.support.waiting import wait_for

FREEZER = Path("/sys/fs/cgroup/freezer")
QUICK = ("--grace", "0.3", "--terminate", "0.2", "--verify", "1")
BOUND_S = 40.0
"""Of a stop, on a machine however busy; an unbounded one would be caught by it all the same."""


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup whose processes no signal reaches while it is frozen, SIGKILL included."""
    home = FREEZER / f"allstop-test-{os.getpid()}"
    try:
        home.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer cgroup (v1) of our own: {error.strerror}")
    try:
        yield home
    finally:
        (home / "freezer.state").write_text("THAWED")
        wait_for(lambda: not (home / "cgroup.procs").read_text(), "the thawed to be gone")
        home.rmdir()


FROZEN = """
def f(bars, params, stop):
    if params["a"] < 20:
        return row(params)
    if first("cold"):
        with open(PROCS, "w") as file:
            file.write("0")
        mark("frozen")
    else:
        mark("ready")
    while not stop.wait(1):
        pass
"""


@pytest.mark.parametrize("strength", ["pid-namespace", "subreaper"])
def test_what_cannot_be_killed_is_named(place: Place, freezer: Path, strength: str) -> None:
    run = place.sweep(
        FROZEN, "--containment", strength, *QUICK, PROCS=str(freezer / "cgroup.procs")
    )
    (frozen,) = run.wait_marks("frozen", 1)
    run.wait_marks("ready", 1)
    (freezer / "freezer.state").write_text("FROZEN")
    wait_for(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n", "frozen")
    begun = time.monotonic()
    run.signal(signal.SIGINT)
    assert run.end() == 3, run.tell()
    assert time.monotonic() - begun < BOUND_S
    stop = run.report["stop"]
    assert [rung["name"] for rung in stop["rungs"]] == ["flag", "terminate", "kill", "verify"]
    assert any(f"pid {frozen} " in survivor for survivor in stop["survivors"]), stop
    run.assert_nothing_lost(at_least=1)
    assert process.state_letter(frozen) is not None
    (freezer / "freezer.state").write_text("THAWED")
    run.assert_gone()


def test_what_could_not_be_killed_is_left_to_reap(place: Place, freezer: Path) -> None:
    run = place.sweep(
        FROZEN, "--containment", "subreaper", *QUICK, PROCS=str(freezer / "cgroup.procs")
    )
    (frozen,) = run.wait_marks("frozen", 1)
    run.wait_marks("ready", 1)
    (freezer / "freezer.state").write_text("FROZEN")
    wait_for(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n", "frozen")
    run.signal(signal.SIGINT)
    assert run.end() == 3, run.tell()
    (entry,) = (place.root / "state" / "allstop" / "runs").iterdir()
    # the run itself starts a process that tries once more; the frozen one stays
    wait_for(lambda: [who.pid for who in place.alive()] == [frozen], "the end of who tries")
    assert place.command("stop").returncode == 2
    said = place.command("stop", entry.stem)
    assert (said.returncode, "no running run" in said.stderr) == (2, True)
    status = json.loads(place.command("status", entry.stem, "--json").stdout)
    assert status["status"] == "stopped"
    found = json.loads(place.command("doctor", "--json").stdout)
    (finding,) = [one for one in found if one["name"] == "dead runs"]
    assert entry.stem in finding["what"]
    said = place.command("reap", "--json")
    assert said.returncode == 3, said
    (reaped,) = json.loads(said.stdout)["reaped"]
    assert [f"pid {frozen} " in survivor for survivor in reaped["survivors"]] == [True]
    assert reaped["status"] == "stopped"
    assert entry.exists()
    (freezer / "freezer.state").write_text("THAWED")
    run.assert_gone()
    said = place.command("reap", "--json")
    assert said.returncode == 0, said
    assert not entry.exists()
    assert run.report["exit_code"] == 3  # it says how the run ended


def test_a_run_over_is_over_though_its_front_lives_on(inside: Place, freezer: Path) -> None:
    """Survivors keep its entry: for ``stop`` it is not running, and ``reap`` finds it."""
    times = {"grace_s": 0.2, "terminate_s": 0.1, "verify_s": 0.5}
    procs = str(freezer / "cgroup.procs")
    run = sweep_inside(inside, FROZEN, times=times, PROCS=procs)
    run.wait_marks("frozen", 1)
    run.wait_marks("ready", 1)
    (freezer / "freezer.state").write_text("FROZEN")
    wait_for(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n", "frozen")
    assert run.stop() == 3
    (entry,) = registry.entries()
    assert entry.over
    assert entry.front.alive
    assert not entry.alive
    with pytest.raises(RunNotFoundError, match="no run is running"):
        registry.find_running(None)
    (freezer / "freezer.state").write_text("THAWED")
    run.assert_gone()
    wait_for(lambda: list(reap_dead_runs()) or not list(registry.entries()), "a reap")
    assert list(registry.entries()) == []


def test_a_zombie_factory_is_cleared_away(place: Place) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] < 20:
            return row(params)
        for _ in range(150):
            if os.fork() == 0:
                if os.fork() == 0:
                    os._exit(0)
                os._exit(0)
        mark("ready")
        while not stop.wait(1):
            pass
    """
    run = place.sweep(body, *QUICK)
    run.wait_marks("ready", 2)

    def zombies() -> int:
        run.look_below()
        return sum(process.state_letter(who.pid) == "Z" for who in run.seen)

    run.wait_for(lambda: zombies() > 100, "zombies")  # it did happen
    begun = time.monotonic()
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert time.monotonic() - begun < BOUND_S
    run.assert_gone()
    run.assert_nothing_lost(at_least=1)


def test_a_worker_that_cannot_end_in_order_is_no_second_warden(place: Place) -> None:
    """What it has printed cannot be flushed any more; that must not lead it into our code."""
    body = """
    def f(bars, params, stop):
        print("not flushed yet")
        if params["a"] == 20:
            os.closerange(0, 4096)
        return row(params)
    """
    place.env.pop("PYTHONUNBUFFERED", None)
    run = place.sweep(body, *QUICK, n=100)
    assert run.end() == 0, run.tell()
    assert [row["a"] for row in run.results() if row["error"]] == [20]
    run.assert_gone()


@pytest.mark.parametrize("then", ["goes on", "comes back"])
def test_a_worker_that_closes_all_its_descriptors(place: Place, then: str) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] != 20 or not first("closed"):
            return row(params)
        mark("ready")
        os.closerange(0, 4096)
        if THEN == "goes on":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(60)
        return row(params)
    """
    n, most = 1000, 600  # but for the chunk of the one that has closed them
    run = place.sweep(body, *QUICK, n=n, THEN=then)
    run.wait_marks("ready", 1)
    if then == "goes on":
        # the other worker does all the rest; the run waits for one that cannot be heard any more
        run.wait_for(lambda: len(run.kept()) >= most, "what the other worker computes")
        run.signal(signal.SIGINT)
        assert run.end() == 130, run.tell()
    else:
        assert run.end() == 0, run.tell()
        assert sorted(run.kept()) == list(range(n))
    run.assert_gone()
    run.assert_nothing_lost(at_least=most)


def test_hundreds_of_workers_are_gone_at_once(place: Place) -> None:
    n = 500
    # so many combinations that each gets some, however many a chunk has
    run = place.sweep(POLITE, *QUICK, "--grace", "10", n=1_000_000, workers=n, DONE=50)
    run.wait_marks("ready", n)
    begun = time.monotonic()
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert time.monotonic() - begun < BOUND_S
    assert run.report["stop"]["survivors"] == []
    run.assert_gone()
    run.assert_nothing_lost(at_least=50)


def test_a_tree_of_stopped_processes_that_stops_itself_again(place: Place) -> None:
    """SIGCONT wakes them for a moment at most: SIGKILL ends suspended processes too."""
    body = """
    def f(bars, params, stop):
        if params["a"] < 20:
            return row(params)
        for _ in range(5):
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.setsid()
                while True:
                    os.kill(os.getpid(), signal.SIGSTOP)
        mark("ready")
        while True:
            os.kill(os.getpid(), signal.SIGSTOP)
    """
    run = place.sweep(body, *QUICK)
    run.wait_marks("ready", 2)
    begun = time.monotonic()
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert time.monotonic() - begun < BOUND_S
    run.assert_gone()
    run.assert_nothing_lost(at_least=1)


def test_the_lowest_limit_on_descriptors_fails_in_one_line(place: Place) -> None:
    """Where workers cannot be had any more the run fails, keeps what it has, and ends."""
    import resource

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    run = place.start(place.run_argv(POLITE, *QUICK, n=1000, workers=200, DONE=50), preexec_fn=few)
    code = run.end()
    assert code in (1, 2), run.tell()
    assert "Traceback" not in run.err
    run.assert_gone()
    with contextlib.suppress(AssertionError):
        assert "descriptor" in run.report["reason"] or "open files" in run.report["reason"]
