from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.system import process
from supervisor.system.environment import child_environment
from supervisor.system.process import Identity
from tests.support.cli import DEAF, POLITE, Place, Started
from tests.support.processes import main_children
from tests.support.waiting import wait_for

DONE = 50
TIMES = ["--grace", "0.3", "--terminate", "0.2"]
"""For those who do not end when asked. Who does is given the time to, or it loses rows."""
LONGER = ["--grace", "3", "--terminate", "0.2"]
"""For some of either kind."""

DAEMON = """
import subprocess

def f(bars, params, stop):
    if params["a"] < DONE:
        return row(params)
    if first("daemon"):
        subprocess.Popen(["setsid", "sleep", "1000"])
    mark("ready")
    stop.wait()
"""


def everyone(run: Started) -> None:
    """Note front, warden, workers and all below them."""
    run.look()
    run.seen.update(
        i for i in map(Identity.of, process.descendants(run.popen.pid)) if i is not None
    )


def assert_struck_off(place: Place) -> None:
    """Neither an entry nor a socket is left."""
    assert list((place.root / "state" / "allstop" / "runs").iterdir()) == []
    assert list((place.root / "runtime" / "allstop").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "times"),
    [(POLITE, []), (DEAF, TIMES), (DAEMON, LONGER)],
    ids=["polite", "deaf", "daemon"],
)
def test_when_the_front_is_killed_the_warden_ends_the_run(
    place: Place, body: str, times: list[str]
) -> None:
    run = place.sweep(body, *times, DONE=DONE)
    run.wait_marks("ready", 2)
    everyone(run)
    run.kill_front()
    report = run.wait_report()
    run.assert_gone()
    assert (report["status"], report["exit_code"]) == ("stopped", 143)
    assert "front" in report["reason"]
    assert report["stop"]["requested_by"] == "warden"
    assert report["stop"]["survivors"] == []
    assert report["combos_total"] == 1000
    run.assert_nothing_lost()
    if body is not DEAF:
        assert report["combos_done"] == DONE
    assert_struck_off(place)


def test_a_front_whose_line_another_process_holds_open_is_missed(
    place: Place,
) -> None:
    """EOF never comes while a child of the front's has its end of the line; the pidfd tells."""
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    sockets = []
    for fd in Path(f"/proc/{run.popen.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it opens and closes files all the time
            if str(fd.readlink()).startswith("socket:"):
                sockets.append(int(fd.name))
    pidfd = os.pidfd_open(run.popen.pid)
    held = [_steal(pidfd, fd) for fd in sockets]
    try:
        run.kill_front()
        run.wait_report()
        run.assert_gone()
        run.assert_nothing_lost(DONE)
    finally:
        for fd in [pidfd, *(fd for fd in held if fd is not None)]:
            os.close(fd)


def _steal(pidfd: int, fd: int) -> int | None:
    """pidfd_getfd(2)."""
    import ctypes
    import errno

    libc = ctypes.CDLL(None, use_errno=True)
    copy = libc.syscall(438, pidfd, fd, 0)
    if copy < 0 and ctypes.get_errno() == errno.EPERM:
        pytest.skip("ptrace of the front is not allowed here")
    return copy if copy >= 0 else None


BREAKS = """
import sys
from pathlib import Path
import supervisor.errors
from supervisor.front.run import Front

def broken(front):
    raise RuntimeError("broken")

run = supervisor.sweep(
    {strategy!r}, {{"a": range(1000)}}, {data!r}, workers=2, run_dir={run_dir!r}, grace_s=30
)
while len(list(Path({marks!r}).glob("ready-*"))) < 2:
    pass
Front.hear_requests = broken
try:
    run.wait()
except supervisor.errors.InternalError:
    print("broken", flush=True)
sys.stdin.read()
"""


def test_a_front_that_breaks_but_lives_on_hangs_up(place: Place) -> None:
    """Only the line tells: the process is alive, so its pidfd stays silent."""
    code = BREAKS.format(
        strategy=place.strategy(POLITE, DONE=DONE), data=str(place.data),
        run_dir=str(place.root / "run"), marks=str(place.root),
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], cwd=place.work, env=place.env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as caller:  # fmt: skip
        run = Started(place, caller)
        assert caller.stdout.readline() == "broken\n"
        wait_for((run.run_dir / "report.json").exists, "a report")
        facts = [json.loads(line) for line in run.events.splitlines()]
        workers = [fact["pid"] for fact in facts if fact["event"] == "warden.worker_started"]
        assert len(workers) == 2
        wait_for(lambda: not any(map(process.state_letter, workers)), "the workers' end")
        assert caller.poll() is None
        assert run.report["status"] == "stopped"
        run.assert_nothing_lost(DONE)
        caller.communicate("")
    run.assert_gone()  # the finisher ends a moment after it has written the report


@pytest.mark.parametrize("instant_s", [0.0, 0.3, 0.6])
def test_kill_9_of_the_front_at_any_instant(place: Place, instant_s: float) -> None:
    body = """
    def f(bars, params, stop):
        time.sleep(0.0002)
        return row(params)
    """
    run = place.sweep(body, *TIMES, n=100_000)
    run.wait_for(lambda: main_children(run.popen.pid), "a warden")
    time.sleep(instant_s)
    everyone(run)
    run.kill_front()
    run.assert_gone()
    if run.kept():
        run.wait_report()
        run.assert_nothing_lost(1)


def test_kill_9_of_front_during_its_own_stop(place: Place) -> None:
    run = place.sweep(DEAF, "--grace", "0.6", "--terminate", "0.2", DONE=DONE)
    run.wait_marks("ready", 2)
    everyone(run)
    run.signal(signal.SIGINT)
    events = run.run_dir / "events.jsonl"
    run.wait_for(lambda: '"flagged"' in events.read_text(), "the flag")
    run.kill_front()
    report = run.wait_report()
    run.assert_gone()
    run.assert_nothing_lost()
    assert report["status"] == "stopped"


def test_kill_9_of_the_front_while_it_writes_the_results(place: Place) -> None:
    """The warden has sent its last message by then; results and report are written all the same."""
    body = "def f(bars, params, stop):\n    return row(params)\n"
    n = 200_000  # whose results take a while to write
    run = place.sweep(body, *TIMES, n=n)
    run.look_below()
    run.wait_for(lambda: '"front.finishing"' in run.events, "the front's last part")
    run.popen.send_signal(signal.SIGKILL)
    assert run.end() == 128 + signal.SIGKILL
    report = run.wait_report()
    run.assert_gone()
    assert report["status"] == "completed"
    run.assert_nothing_lost(n)
    assert_struck_off(place)


def test_where_nothing_was_begun_there_is_nothing_to_finish(tmp_path: Path) -> None:
    """A front that was killed while it took a mistake's directory away."""
    command = [sys.executable, "-P", "-m", "supervisor.lifecycle.finish", str(tmp_path)]
    said = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", [POLITE, DEAF], ids=["polite", "deaf"])
def test_when_the_warden_is_killed_the_workers_die_and_the_front_says_so(
    place: Place, body: str
) -> None:
    run = place.sweep(body, *TIMES, DONE=DONE)
    run.wait_marks("ready", 2)
    everyone(run)
    warden = run.warden
    os.kill(warden, signal.SIGKILL)
    assert run.end() == 1, run.tell()
    run.assert_gone()
    assert run.report["status"] == "failed"
    assert run.report["exit_code"] == 1
    assert str(warden) in run.report["reason"]
    assert_struck_off(place)
    assert "Traceback" not in run.err
    run.assert_nothing_lost()


def test_when_front_and_warden_are_killed_at_once_the_workers_die(place: Place) -> None:
    run = place.sweep(DEAF, *TIMES, DONE=DONE)
    run.wait_marks("ready", 2)
    everyone(run)
    warden = run.warden
    for pid in (run.popen.pid, warden):  # no process can react in between
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: process.state_letter(warden) == "T", "a stopped warden")
    os.kill(warden, signal.SIGKILL)
    os.kill(run.popen.pid, signal.SIGKILL)
    run.popen.wait()
    run.assert_gone()
    kept = run.kept()
    assert kept
    status = place.command("status", str(run.run_dir), "--json")
    assert status.returncode == 0, status.stderr
    assert '"status": "dead"' in status.stdout
    assert f'"done": {len(kept)}' in status.stdout


def test_killing_any_one_of_ours_at_random_instants_leaves_nothing(place: Place) -> None:
    body = """
    def f(bars, params, stop):
        mark("alive")
        time.sleep(0.0005)
        return row(params)
    """
    generator = random.Random(7)
    for _ in range(2):
        run = place.sweep(body, *TIMES, n=100_000)
        run.wait_marks("alive", 2)
        everyone(run)
        run.wait_for(run.kept, "rows")
        everybody = [run.popen.pid, run.warden, *process.children(run.warden)]
        victims = generator.sample([who for who in map(Identity.of, everybody) if who], 3)
        for who in victims:
            who.send(signal.SIGKILL)  # with the warden its workers may be gone already
        run.popen.send_signal(signal.SIGTERM)
        run.end()
        run.assert_gone()
        # a worker that dies between a row's writing and its counting leaves it to be written twice
        assert place.command("report", str(run.run_dir)).returncode == 0
        assert sorted(row["a"] for row in run.results()) == sorted(run.kept())
        for mark in place.root.glob("alive-*"):
            mark.unlink()
        run.run_dir.rename(place.root / f"was-{run.popen.pid}")


def test_sigterm_to_the_warden_stops_the_run(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    everyone(run)
    os.kill(run.warden, signal.SIGTERM)
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)
    assert run.report["stop"]["requested_by"] == "signal"
