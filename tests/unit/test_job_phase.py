"""Who calls a run just as its warden's part ends and its front's begins."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slurm.watch import JobsView, Phase
from supervisor.front.jobs import see_out
from supervisor.ipc import control_socket, messages
from supervisor.ipc.control_socket import ControlSocket
from supervisor.ipc.stopflag import Level
from supervisor.lifecycle import stop
from supervisor.lifecycle.look import Looker
from supervisor.records import registry, rundir
from supervisor.records.events import EventLog
from supervisor.records.plan import MARGIN_VARIABLE
from supervisor.records.registry import Entry
from supervisor.records.stop_record import StopRecord
from supervisor.system import durable
from supervisor.system.process import Identity
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.usefixtures("own_state", "no_leaks")

RUN = "20240101-000000-abcdef"


@dataclass
class Jobs:
    """Cluster jobs that go on until they are cancelled."""

    view: JobsView = field(default_factory=lambda: JobsView(Phase.WATCHING))

    def quiet(self) -> None: ...

    def wait_for_end(self) -> None: ...


@pytest.fixture
def entry(tmp_path: Path) -> Iterator[Entry]:
    """A run whose warden's part is over, and whose front has cluster jobs to see out."""
    run_dir = rundir.create(tmp_path / "run")
    (run_dir / rundir.LEDGER_FILE).touch()
    durable.write_json(run_dir / rundir.RUN_FILE, {"run_id": RUN, "times": {"grace_s": 60.0}})
    for room, facts in (
        ("front", ["run_requested"]),
        ("warden", ["run_started", "run_ended"]),
    ):
        log = EventLog(run_dir, room)
        for fact in facts:
            log.emit(fact)
        log.close()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as warden:
        front, its = Identity.of(os.getpid()), Identity.of(warden.pid)
        assert front and its
        registry.add(Entry(RUN, run_dir, front, its))
        yield Entry(RUN, run_dir, front, its)
        assert warden.poll() is None, "the warden was ended, though its part was over"
        warden.communicate(b"\n")


@pytest.fixture
def run(entry: Entry) -> Iterator[stop._Run]:
    looker = Looker(entry.run_dir)
    yield stop._Run(entry, looker)
    looker.close()


def seeing_jobs_out(jobs: Jobs, entry: Entry) -> threading.Thread:
    """The front's last part; a stop cancels the jobs, and the report is written."""

    def request(level: Level, _reason: str, _by: str) -> None:
        assert level is Level.STOP
        jobs.view = JobsView(Phase.CANCELLED)

    def nothing(*_: object) -> None: ...

    front: Any = SimpleNamespace(
        plan=SimpleNamespace(run_id=RUN), run_dir=entry.run_dir, asked=StopRecord(),
        inbox=SimpleNamespace(fds=[]), link=SimpleNamespace(usable=True),
        display=SimpleNamespace(show=nothing, say_once=nothing),
        work=SimpleNamespace(jobs=jobs, detach=False),
        progress=nothing, hear_requests=nothing, request=request,
    )  # fmt: skip

    def phase() -> None:
        see_out(front, wait=True)
        durable.write_json(entry.run_dir / rundir.REPORT_FILE, {"jobs": []})

    thread = threading.Thread(target=phase, daemon=True)
    thread.start()
    return thread


def test_a_warden_that_puts_its_socket_away_once_more_does_not_take_the_front_s(
    entry: Entry, run: stop._Run
) -> None:
    wardens, jobs = ControlSocket(RUN, lambda _: None), Jobs()
    wardens.close()
    front = seeing_jobs_out(jobs, entry)
    wait_for(registry.socket_path(RUN).exists, "a front that listens")
    wardens.close()
    line = stop._connect(run)
    assert line is not None
    with line:
        messages.send(line, messages.RequestStop(int(Level.STOP)))
        wait_for(lambda: jobs.view.over, "the stop heard")
    front.join(DEADLINE_S)


def test_the_front_listens_as_soon_as_no_other_process_does(entry: Entry, run: stop._Run) -> None:
    wardens, jobs = ControlSocket(RUN, lambda _: None), Jobs()
    front = seeing_jobs_out(jobs, entry)
    wardens.close()
    line = stop._connect(run)
    assert line is not None
    line.close()
    jobs.view = JobsView(Phase.ENDED)
    front.join(DEADLINE_S)


def test_a_stop_between_the_warden_s_part_and_the_front_s_waits_for_the_front(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, fronts = Jobs(), []
    usual = control_socket.connect

    def connect(run_id: str) -> Any:
        line = usual(run_id)
        if line is None and not fronts:
            fronts.append(seeing_jobs_out(jobs, entry))  # only now
        return line

    monkeypatch.setattr(control_socket, "connect", connect)
    outcome = stop.RunStop.begin(entry, Level.STOP).confirm()
    assert (outcome.gone, outcome.survivors, outcome.escalated) == (True, [], [])
    assert jobs.view.cancelling
    fronts[0].join(DEADLINE_S)


def test_a_warden_whose_part_is_over_is_not_killed(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its front is alive and says nothing: the fixture looks whether the warden lives."""
    monkeypatch.setenv(MARGIN_VARIABLE, "0.1")
    for patience in ("_LISTENS_S", "_JOBS_S"):
        monkeypatch.setattr(stop, patience, 0.1)
    times = {"grace_s": 0.1, "terminate_s": 0.1, "verify_s": 0.1}
    durable.write_json(entry.run_dir / rundir.RUN_FILE, {"run_id": RUN, "times": times})
    outcome = stop.RunStop.begin(entry, Level.STOP).confirm()
    assert (outcome.gone, outcome.escalated) == (True, [])


def test_a_stop_waits_for_who_finishes_in_a_dead_front_s_place(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARGIN_VARIABLE, "0.1")
    durable.write_json(entry.run_dir / rundir.RUN_FILE, {"run_id": RUN, "times": {}})
    with subprocess.Popen(["sleep", "1000"]) as dead:
        front = Identity.of(dead.pid)
        dead.kill()
    assert front
    report = entry.run_dir / rundir.REPORT_FILE
    writes = threading.Timer(0.5, durable.write_json, (report, {"jobs": []}))
    begun = stop.RunStop.begin(entry._replace(front=front), Level.STOP)
    writes.start()
    assert begun.confirm().gone
    assert report.exists()
    writes.join()
