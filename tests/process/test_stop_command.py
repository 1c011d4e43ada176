from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from supervisor.ipc import control_socket, messages
from supervisor.records.plan import MARGIN_VARIABLE
from supervisor.system import process
from supervisor.system.process import Identity
from tests.support.cli import DEAF, POLITE, Place, Started
from tests.support.waiting import SHORT_MARGIN_S, wait_for
from workers.user_function import KEEP_ROWS

DONE = 50

GATED = """
def f(bars, params, stop):
    '''Stays in a combination until the test opens the gate; does not look at the flag.'''
    if params["a"] >= DONE:
        mark("ready")
        while not (HERE / "gate").exists():
            time.sleep(0.001)
    return row(params)
"""


def run_id(run: Started) -> str:
    return json.loads((run.run_dir / "run.json").read_text())["run_id"]


@pytest.mark.parametrize("named", ["nothing", "id", "directory", "all"])
def test_stop_returns_when_everything_is_gone(place: Place, named: str) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    arguments = {
        "nothing": [], "id": [run_id(run)], "directory": [str(run.run_dir)], "all": ["--all"],
    }[named]  # fmt: skip
    stop = place.command("stop", *arguments, "--json")
    assert stop.returncode == 0, stop.stderr
    (said,) = json.loads(stop.stdout)["stopped"]
    assert said["run_id"] == run_id(run)
    assert said["gone"] is True
    assert said["survivors"] == []
    assert run.report["stop"]["requested_by"] == "stop command"  # written before stop returned
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)


def test_stop_speaks_to_people_too(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    stop = place.command("stop")
    assert stop.returncode == 0
    assert "gone after" in stop.stdout
    assert stop.stderr == ""
    assert run.end() == 143
    run.assert_gone()


def test_kept_bars_are_purged_on_request(place: Place) -> None:
    os.utime(place.data, (1e9, 1e9))  # one that was written just now would not be kept
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    cache = place.root / "cache" / "allstop" / "bars"
    wait_for(lambda: list(cache.glob("*.bars")), "the bars to be kept", tell=run.tell)
    stop = place.command("stop", "--purge-cache", "--json")
    assert stop.returncode == 0, stop.stderr
    assert json.loads(stop.stdout)["purged_bytes"] > 0
    assert not list(cache.iterdir())
    assert run.end() == 143
    again = place.command("stop", "--purge-cache")  # with nothing to stop
    assert again.returncode == 0, again.stderr
    assert "caches purged: 0.0 MB" in again.stdout


def test_drain_finishes_the_chunks_in_hand(place: Place) -> None:
    run = place.sweep(GATED, DONE=DONE)
    run.wait_marks("ready", 2)
    began = place.start(place.argv("stop", "--drain", "--json"))
    run.wait_for(lambda: '"draining"' in run.events, "the drain")
    assert run.popen.poll() is None
    assert began.popen.poll() is None  # patient: a chunk may take long
    (place.root / "gate").touch()
    assert began.end() == 0
    assert run.end() == 143, run.tell()
    run.assert_gone()
    assert run.report["status"] == "stopped"
    assert run.report["stop"]["level"] == "drain"
    assert run.report["stop"]["rungs"][0]["name"] == "drain"
    kept = sorted(run.kept())
    assert kept == list(range(len(kept)))  # no chunk was left half done
    assert len(kept) > DONE
    run.assert_nothing_lost()


def test_a_drain_can_be_hurried(place: Place) -> None:
    run = place.sweep(GATED, "--grace", "0.2", "--terminate", "60", DONE=DONE)
    run.wait_marks("ready", 2)
    drain = place.start(place.argv("stop", "--drain", "--json"))
    events = run.run_dir / "events.jsonl"
    run.wait_for(lambda: '"draining"' in events.read_text(), "the drain")
    stop = place.command("stop", "--json")
    assert stop.returncode == 0, stop.stderr
    assert drain.end() == 0
    assert run.end() == 143, run.tell()
    run.assert_gone()
    assert run.report["stop"]["level"] == "stop"


def test_now_kills_without_asking(place: Place) -> None:
    run = place.sweep(DEAF, "--grace", "60", "--terminate", "60", DONE=DONE)
    run.wait_marks("ready", 2)
    stop = place.command("stop", "--now", "--json")
    assert stop.returncode == 0, stop.stderr
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost()
    names = [rung["name"] for rung in run.report["stop"]["rungs"]]
    assert names == ["kill", "verify"]
    assert run.report["stop"]["level"] == "kill"


def test_a_run_whose_front_hangs_is_stopped_too(place: Place) -> None:
    """The warden answers: stop does not depend on the front."""
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    run.signal(signal.SIGSTOP)
    stop = place.command("stop", "--json")
    assert stop.returncode == 0, stop.stderr
    assert len(place.working()) == 2  # front and warden; the workers are gone
    run.popen.send_signal(signal.SIGCONT)
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)


def test_status_of_a_run_that_runs_and_of_one_that_is_over(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    pids = run.wait_marks("ready", 2)
    facts = json.loads(place.command("status", "--json").stdout)
    assert facts["run_id"] == run_id(run)
    assert facts["status"] == "running"
    assert (facts["done"], facts["total"]) == (DONE, 1000)
    assert sorted(facts["workers"]) == sorted(pids)
    said = place.command("status", run_id(run))
    assert said.returncode == 0
    assert "50 of 1,000 combinations" in said.stdout
    run.signal(signal.SIGTERM)
    assert run.end() == 143
    facts = json.loads(place.command("status", str(run.run_dir), "--json").stdout)
    assert (facts["status"], facts["done"], facts["workers"]) == ("stopped", DONE, [])
    run.assert_gone()


def test_stop_without_a_run_and_with_too_many_words(place: Place) -> None:
    for arguments, code in (
        (["stop"], 2),
        (["stop", "no-such-run"], 2),
        (["stop", "--drain", "--now"], 2),
        (["stop", "--all", "some-run"], 2),
        (["status", "no-such-run"], 2),
    ):
        said = place.command(*arguments)
        assert said.returncode == code, (arguments, said)
        assert said.stderr.startswith("allstop: "), said.stderr
        assert said.stderr.count("\n") == 1, said.stderr
        assert said.stdout == ""
    said = place.command("stop", "--all", "--json")
    assert (said.returncode, json.loads(said.stdout)) == (0, {"stopped": []})


def test_stop_of_a_run_that_starts_this_very_moment(place: Place) -> None:
    """As soon as the run can be found, it can be stopped."""
    run = place.sweep(POLITE, DONE=DONE)
    registered = place.root / "state" / "allstop" / "runs"
    run.wait_for(lambda: registered.is_dir() and list(registered.glob("*.json")), "an entry")
    stop = place.command("stop", "--json")
    assert stop.returncode == 0, stop.stderr
    assert run.end() == 143, run.tell()
    run.assert_gone()


def test_nonsense_on_the_control_socket_does_no_harm(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    monkeypatch.setenv("XDG_RUNTIME_DIR", place.env["XDG_RUNTIME_DIR"])
    packets = [
        b"\0" * 10, b"{", b"[]", b'{"kind": "RequestStop"}', b'{"kind": []}', b'{"kind": {}}',
        b'{"kind": "RequestStop", "level": "2"}', b'{"kind": "RunEnded", "outcome": "x"}',
        b'{"kind": "WorkerReady"}', b'{"kind": "Computed", "until": 7}', b"[" * 60_000,
        b"\xff" * 100, b"9" * 60_000, b"x" * 70_000,
    ]  # fmt: skip
    for packet in packets:
        with control_socket.connect(run_id(run)) as line:
            line.send(packet)
    lines = [control_socket.connect(run_id(run)) for _ in range(40)]
    for line in lines:
        if line is not None:
            line.close()
    facts = json.loads(place.command("status", "--json").stdout)
    assert facts["status"] == "running"
    assert run.popen.poll() is None
    # a reason as long as a packet may be: it must not choke on passing it on
    with control_socket.connect(run_id(run)) as line:
        messages.send(line, messages.RequestStop(2, "ä" * 10_000))
        assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)


def test_two_runs_side_by_side_are_told_apart(place: Place) -> None:
    first = place.sweep(POLITE, DONE=DONE)
    first.wait_marks("ready", 2)
    other = place.start(
        [str(place.root / "other") if a == str(first.run_dir) else a for a in first.popen.args]
    )
    wait_for(lambda: len(list(place.root.glob("ready-*"))) >= 4, "four workers", tell=first.tell)
    ambiguous = place.command("stop")
    assert ambiguous.returncode == 2
    assert "2 runs are running" in ambiguous.stderr
    stop = place.command("stop", run_id(first), "--json")
    assert stop.returncode == 0, stop.stderr
    assert first.end() == 143
    assert other.popen.poll() is None
    stop = place.command("stop", "--all", "--json")
    assert stop.returncode == 0
    assert other.end() == 143
    memory = json.loads((place.root / "other" / "report.json").read_text())["memory"]
    assert memory["settled_s"] is not None, memory  # whatever else the machine does meanwhile
    first.assert_gone()


def test_a_suspended_warden_is_woken(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    warden = run.warden
    os.kill(warden, signal.SIGSTOP)
    wait_for(lambda: process.state_letter(warden) == "T", "a suspended warden")
    stop = place.command("stop", "--json")
    assert stop.returncode == 0, stop.stderr
    (said,) = json.loads(stop.stdout)["stopped"]
    assert said["gone"]
    assert ["SIGCONT" in line for line in said["escalated"]] == [True]
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)


@contextmanager
def kept_suspended(warden: Identity) -> Iterator[None]:
    """Suspend it again whenever it is woken; in between it may work for a moment."""
    over = threading.Event()

    def keep_suspended() -> None:
        while warden.send(signal.SIGSTOP) and not over.is_set():
            pass

    thread = threading.Thread(target=keep_suspended)
    thread.start()
    try:
        wait_for(lambda: process.state_letter(warden.pid) == "T", "a suspended warden")
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("front", ["well", "suspended"])
def test_a_warden_that_stays_suspended_is_killed_and_its_workers_with_it(
    place: Place, front: str
) -> None:
    # workers that do not end when asked: in the moment it is awake the warden could see them end
    place.env[MARGIN_VARIABLE] = SHORT_MARGIN_S
    run = place.sweep(GATED, "--grace", "3", "--terminate", "0.1", "--verify", "0.2", DONE=DONE)
    workers = run.wait_marks("ready", 2)
    if front == "suspended":
        run.signal(signal.SIGSTOP)
    warden = Identity.of(run.warden)
    assert warden is not None
    with kept_suspended(warden):
        stop = place.command("stop", "--json")
    assert stop.returncode == 0, stop.stdout
    (said,) = json.loads(stop.stdout)["stopped"]
    assert said["gone"]
    assert not any(process.state_letter(pid) not in (None, "Z") for pid in workers)
    if front == "suspended":
        run.popen.send_signal(signal.SIGCONT)
    assert run.end() == 1, run.tell()
    if front == "suspended" or "did not end the run in time" not in run.report["reason"]:
        # a front that has received the stop waits as long: either may be the first
        assert "SIGKILL" in said["escalated"][-1]
        assert str(warden.pid) in said["escalated"][-1]
    run.assert_gone()
    run.assert_nothing_lost(DONE - 2 * KEEP_ROWS)  # killed: short calls' last rows were pending


def test_a_drain_does_not_wait_for_a_warden_that_hangs(place: Place) -> None:
    place.env[MARGIN_VARIABLE] = SHORT_MARGIN_S
    run = place.sweep(GATED, "--grace", "0.2", "--terminate", "0.1", "--verify", "0.2", DONE=DONE)
    run.wait_marks("ready", 2)
    warden = Identity.of(run.warden)
    assert warden is not None
    with ThreadPoolExecutor(1) as pool:
        drain = pool.submit(place.command, "stop", "--drain", "--json")
        run.wait_for(lambda: '"draining"' in run.events, "the drain")
        with kept_suspended(warden):
            done = drain.result()
    assert done.returncode == 0, done
    (said,) = json.loads(done.stdout)["stopped"]
    assert said["gone"]
    assert "SIGKILL" in said["escalated"][-1]
    assert run.end() == 1, run.tell()
    run.assert_gone()


def test_a_drain_waits_for_a_warden_that_answers_however_long_it_takes(place: Place) -> None:
    times = ["--grace", "0.1", "--terminate", "0.1", "--verify", "2"]  # the last one is for them
    place.env[MARGIN_VARIABLE] = "1.5"
    run = place.sweep(GATED, *times, DONE=DONE)
    run.wait_marks("ready", 2)
    with ThreadPoolExecutor(1) as pool:
        drain = pool.submit(place.command, "stop", "--drain", "--json")
        run.wait_for(lambda: '"draining"' in run.events, "the drain")
        longer = time.monotonic() + 1.5 * (2.2 + 1.5)
        run.wait_for(lambda: time.monotonic() > longer, "longer than a silent one is waited for")
        assert not drain.done()
        (place.root / "gate").touch()
        done = drain.result()
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["stopped"][0]["escalated"] == []
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)


def test_a_warden_with_too_many_callers_is_stopped_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs up on the next one, who must not take that for its death, or its silence."""
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    monkeypatch.setenv("XDG_RUNTIME_DIR", place.env["XDG_RUNTIME_DIR"])
    lines = [control_socket.connect(run_id(run)) for _ in range(control_socket.MAX_CLIENTS)]
    stop = place.command("stop", "--json")
    assert stop.returncode == 0, stop.stdout
    (said,) = json.loads(stop.stdout)["stopped"]
    (line,) = said["escalated"]
    assert "closed the connection: sent it SIGTERM" in line
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)
    for line in lines:
        line.close()


def test_a_run_whose_socket_is_lost_is_stopped_by_its_warden(place: Place) -> None:
    """Something has tidied the runtime directory away."""
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    (path,) = (place.root / "runtime" / "allstop").iterdir()
    path.unlink()
    stop = place.command("stop", "--json")
    assert stop.returncode == 0, stop.stderr
    (said,) = json.loads(stop.stdout)["stopped"]
    assert said["gone"]
    assert "SIGTERM" in said["escalated"][0]
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)
