from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from supervisor.records.claim import claim_directory
from supervisor.system import process
from supervisor.system.process import Identity
from tests.support.cli import POLITE, Place, Started
from tests.support.waiting import wait_for
from workers.user_function import KEEP_ROWS

DONE = 50
LEAST = DONE - 2 * KEEP_ROWS
"""A SIGKILL may cost each worker the rows it has not written yet, where calls are short."""

TIMES = ["--grace", "0.3", "--terminate", "0.2"]

DAEMON = """
import subprocess

def f(bars, params, stop):
    if params["a"] < DONE:
        return row(params)
    if first("daemon"):
        child = subprocess.Popen(["setsid", "--fork", "sleep", "1000"])
        child.wait()
    mark("ready")
    stop.wait()
"""


def die(run: Started) -> None:
    """Kill front and warden at once, so that no process is left to finish the run."""
    run.look_below()
    warden = Identity.of(run.warden)
    assert warden is not None
    for pid in (run.popen.pid, warden.pid):
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: process.state_letter(warden.pid) == "T", "a suspended warden")
    os.kill(warden.pid, signal.SIGKILL)
    os.kill(run.popen.pid, signal.SIGKILL)
    run.popen.wait()
    wait_for(lambda: not warden.alive, "the warden's end")  # killed is not dead yet


def dead_run(place: Place, body: str = POLITE) -> Started:
    weak = ["--containment", "subreaper"] if body is DAEMON else []  # from others none escapes
    run = place.sweep(body, *TIMES, *weak, DONE=DONE)
    run.wait_marks("ready", 2)
    die(run)
    return run


def escaped(run: Started) -> Identity:
    """The daemon that has outlived the workers, which die with the warden."""
    found: list[Identity] = []

    def alone() -> bool:
        found[:] = run.place.alive()
        return [process.command_name(who.pid) for who in found] == ["sleep"]  # not setsid still

    wait_for(alone, "the workers' end", tell=run.tell)
    return found[0]


def reaped(place: Place, code: int = 0) -> list[dict[str, Any]]:
    said = place.command("reap", "--json")
    assert said.returncode == code, said
    assert said.stderr == ""
    return json.loads(said.stdout)["reaped"]


def entries(place: Place) -> list[Path]:
    return sorted((place.root / "state" / "allstop" / "runs").iterdir())


def sockets(place: Place) -> list[Path]:
    return list((place.root / "runtime" / "allstop").iterdir())


def test_reap_ends_what_is_left_and_writes_what_was_finished(place: Place) -> None:
    run = dead_run(place, DAEMON)
    daemon = escaped(run)
    assert (len(entries(place)), len(sockets(place))) == (1, 1)
    (done,) = reaped(place)
    assert done["processes_killed"] == [f"pid {daemon.pid} (sleep)"]
    assert (done["status"], done["combos_done"]) == ("failed", len(run.kept()))
    assert (done["survivors"], done["error"]) == ([], "")
    run.assert_gone()
    run.assert_nothing_lost(LEAST)
    assert "killed" in run.report["reason"]
    assert entries(place) == sockets(place) == []
    assert reaped(place) == []


def test_what_an_earlier_attempt_left_is_ended_by_the_resume(place: Place) -> None:
    run = dead_run(place, DAEMON)
    daemon = escaped(run)
    again = place.start(place.argv("resume", str(run.run_dir), "--json"))
    again.wait_marks("ready", 4)
    assert not daemon.alive
    assert again.stop() == 143
    assert f"pid {daemon.pid} (sleep)" in " ".join(again.report["errors"])
    run.assert_gone()


def test_a_report_of_a_dead_run_leaves_its_processes_to_reap(place: Place) -> None:
    run = dead_run(place, DAEMON)
    daemon = escaped(run)
    assert place.command("report", str(run.run_dir)).returncode == 0
    assert place.alive() == [daemon]
    assert len(reaped(place)[0]["processes_killed"]) == 1
    run.assert_gone()


def test_reap_speaks_to_people_and_names_the_next_step(place: Place) -> None:
    said = place.command("reap")
    assert (said.returncode, said.stdout) == (0, "nothing to clean up\n")
    run = dead_run(place)
    run_id = json.loads((run.run_dir / "run.json").read_text())["run_id"]
    said = place.command("doctor", "--json")
    (finding,) = [f for f in json.loads(said.stdout) if f["name"] == "dead runs"]
    assert finding["status"] == "warning"
    assert run_id in finding["what"]
    assert "allstop reap" in finding["fix"]
    said = place.command("reap")
    assert said.returncode == 0
    assert said.stdout.startswith(
        f"{run_id}: failed, {len(run.kept())} combinations in its results"
    )
    assert f"allstop resume {run.run_dir}" in said.stdout
    run.assert_gone()


def test_reap_leaves_living_runs_alone(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    assert reaped(place) == []
    assert run.popen.poll() is None
    assert run.stop() == 143
    assert run.report["stop"]["survivors"] == []


def test_reap_strikes_off_what_cannot_be_finished(place: Place) -> None:
    """The directory is gone, or holds another run; an entry is damaged; a socket is alone."""
    gone = dead_run(place)
    gone.run_dir.rename(place.root / "elsewhere")
    for mark in place.root.glob("ready-*"):
        mark.unlink()
    recycled = dead_run(place)
    asked = json.loads((recycled.run_dir / "run.json").read_text())
    (recycled.run_dir / "run.json").write_text(json.dumps(asked | {"run_id": "another"}))
    registry = place.root / "state" / "allstop" / "runs"
    (registry / "damaged.json").write_text("{")
    runtime = place.root / "runtime" / "allstop"
    sockets(place)[0].rename(runtime / "lone.sock")
    done = {entry["run_id"]: " ".join(entry["notes"]) for entry in reaped(place)}
    assert sum("does not hold this run any more" in note for note in done.values()) == 2
    assert "could not be read" in done["damaged"]
    assert "left over" in done["lone"]
    assert entries(place) == sockets(place) == []
    assert not (recycled.run_dir / "report.json").exists(), "it is another run's directory"
    recycled.assert_gone()


def test_an_entry_from_before_a_reboot_matches_no_process(place: Place) -> None:
    """Pid and start time of a living process, but of an earlier boot."""
    run = dead_run(place)
    (path,) = entries(place)
    entry = json.loads(path.read_text())
    me = Identity.of(os.getpid())
    assert me is not None
    alike = {"pid": me.pid, "start_time": me.start_time}
    path.write_text(json.dumps(entry | {"warden": alike | {"boot": "an-earlier-one"}}))
    (done,) = reaped(place)
    assert done["combos_done"] == len(run.kept()) >= LEAST
    run.assert_gone()


def test_the_next_run_finishes_dead_ones(place: Place) -> None:
    run = dead_run(place)
    run.run_dir.rename(place.root / "dead")
    (path,) = entries(place)
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"run_dir": str(place.root / "dead")}))
    body = "def f(bars, params, stop):\n    return row(params)\n"
    assert place.sweep(body, n=5).end() == 0
    written = place.root / "dead" / "report.json"
    wait_for(written.exists, "the dead run's report")
    assert json.loads(written.read_text())["combos_done"] >= LEAST
    wait_for(lambda: not place.alive(), "the end of who wrote it")
    assert entries(place) == []


def test_a_run_that_is_being_finished_or_carried_on_is_left_to_who_does_it(place: Place) -> None:

    run = dead_run(place)
    with claim_directory(run.run_dir):
        assert reaped(place) == []
        assert not (run.run_dir / "report.json").exists()
    assert len(reaped(place)) == 1
    run.assert_gone()


def test_an_entry_that_a_killed_front_was_writing_is_removed(
    place: Place,
) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    runs = place.root / "state" / "allstop" / "runs"
    runs.mkdir(parents=True, mode=0o700)
    (runs / f".20260101-000000-abcdef.json.{dead.pid}.tmp").touch()
    said = place.command("reap")
    assert said.returncode == 0, said
    assert list(runs.iterdir()) == []
