"""Copies of a run's directory don't meet: neither each other nor the original."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from tests.support.cli import Place, Started, kept_in, rows_of

WAITS = """
def f(bars, params, stop):
    '''Finishes the first DONE combinations, then waits until it is released.'''
    if params["a"] >= DONE:
        mark("ready")
        while not (HERE / "released").exists():
            if stop.wait(0.01):
                return None
    return row(params)
"""
N = 12


def run_id_of(run_dir: Path) -> str:
    return str(json.loads((run_dir / "run.json").read_text())["run_id"])


def copied(run_dir: Path, name: str) -> Path:
    return Path(shutil.copytree(run_dir, run_dir.with_name(name), symlinks=True))


def begun(place: Place) -> Started:
    run = place.sweep(WAITS, DONE=3, n=N, workers=1)
    run.wait_marks("ready", 1)
    run.wait_for((run.run_dir / "inputs.json").exists, "what a resume needs")
    return run


def resumed(place: Place, run_dir: Path, ready: int) -> Started:
    again = place.start(place.argv("resume", str(run_dir), "--json"))
    again.wait_for(lambda: len(list(place.root.glob("ready-*"))) >= ready, "workers at work")
    return again


def report_of(run_dir: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads((run_dir / "report.json").read_text())
    return report


def assert_whole(*run_dirs: Path) -> None:
    for run_dir in run_dirs:
        report = report_of(run_dir)
        assert (report["status"], report["combos_done"]) == ("completed", N), report
        assert sorted(row["a"] for row in rows_of(run_dir)) == list(range(N))
        assert report["run_id"] == run_id_of(run_dir)


def test_a_copy_of_a_living_run_leaves_it_alone(place: Place) -> None:
    run = begun(place)
    copy = copied(run.run_dir, "copy")
    again = resumed(place, copy, ready=2)
    assert run_id_of(copy) != run_id_of(run.run_dir)
    assert run.popen.poll() is None, run.tell()
    status = json.loads(place.command("status", str(copy), "--json").stdout)
    assert status["run_id"] == run_id_of(copy)
    (place.root / "released").touch()
    assert again.popen.wait() == 0, again.tell_end()
    assert run.popen.wait() == 0, run.tell()
    assert_whole(run.run_dir, copy)
    assert sum(kept_in(copy).values()) == N, "the rows of the original were not computed again"
    (line,) = report_of(copy)["errors"]  # type: ignore[misc]
    assert f"is a copy of that of run {run_id_of(run.run_dir)}" in line


def test_two_copies_of_a_dead_run_are_resumed_at_once(place: Place) -> None:
    run = begun(place)
    first, second = copied(run.run_dir, "first"), copied(run.run_dir, "second")
    run.signal(signal.SIGINT)
    run.popen.wait()
    for mark in place.root.glob("ready-*"):
        mark.unlink()
    one = resumed(place, first, ready=1)
    other = resumed(place, second, ready=2)
    assert one.popen.poll() is None, one.tell_end()
    assert len({run_id_of(path) for path in (run.run_dir, first, second)}) == 3
    stopped = place.command("stop", str(first), "--json")
    assert stopped.returncode == 0, stopped.stderr
    assert one.popen.wait() == 128 + signal.SIGTERM or report_of(first)["status"] == "stopped"
    assert other.popen.poll() is None, other.tell_end()
    (place.root / "released").touch()
    assert other.popen.wait() == 0, other.tell_end()
    assert place.command("resume", str(first)).returncode == 0
    assert place.command("resume", str(run.run_dir)).returncode == 0
    assert_whole(run.run_dir, first, second)


def test_a_report_of_a_copy_is_not_the_original_s(place: Place) -> None:
    run = begun(place)
    copy = copied(run.run_dir, "copy")
    said = place.command("report", str(copy), "--json")
    assert json.loads(said.stdout)["status"] == "failed", said  # it has no end
    assert run.popen.poll() is None
    assert not (run.run_dir / "report.json").exists()
    with_entry = place.command("status", str(run.run_dir), "--json")
    assert json.loads(with_entry.stdout)["status"] == "running"
    (place.root / "released").touch()
    assert run.popen.wait() == 0, run.tell()
    assert_whole(run.run_dir)
