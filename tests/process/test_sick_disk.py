"""A stop waits for no disk: frozen, unreadable, with pipes in its files' places, without locks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.system.process import state_letter
from tests.support.cli import POLITE, Place, Started
from tests.support.frozen import FrozenDisk, frozen_disk
from tests.support.processes import exists, is_helper
from tests.support.waiting import wait_for

DONE = 10

KEEPS = """
def f(bars, params, stop):
    '''Its rows take long enough to be written one by one; then it has nothing to write.'''
    if params["a"] < DONE:
        time.sleep(0.006)
        return row(params)
    mark("ready")
    stop.wait()
    return None
"""

WRITES = """
def f(bars, params, stop):
    '''Always has a row to write.'''
    mark("ready")
    time.sleep(0.02)
    return row(params)
"""


@pytest.fixture
def disk(place: Place) -> Iterator[FrozenDisk]:
    """The file system that the runs of this test have their directory on."""
    with frozen_disk(place.root / "run", place.root / "image") as disk:
        yield disk


def frozen(place: Place, disk: FrozenDisk, *options: str) -> Started:
    """Start a run with two workers that compute, and freeze its disk."""
    run = place.sweep(KEEPS, *options, DONE=DONE)
    run.wait_marks("ready", 2)
    run.wait_for(lambda: sum(run.kept().values()) == DONE, "the rows")
    run.look_below()
    disk.freeze()
    return run


def assert_ended(run: Started, *, rungs: list[str]) -> None:
    """All but the process that writes is gone, in order, and the front has said what is left."""
    wait_for(
        lambda: not [who for who in run.seen if exists(who) and not is_helper(who.pid)],
        "the end of front, warden and workers",
        tell=run.tell_end,
    )
    said = json.loads(run.out.splitlines()[-1])
    assert said["status"] == "stopped"
    assert said["stop"]["survivors"] == []
    assert [rung["name"] for rung in said["stop"]["rungs"]] == rungs
    assert any("does not answer" in line for line in said["errors"])


def assert_written_later(run: Started, disk: FrozenDisk, code: int) -> None:
    """Once the disk answers, results and report are written, as if it had all the time."""
    assert not (run.run_dir / "report.json").exists()
    disk.thaw()
    report = run.wait_report()
    run.assert_gone()
    assert (report["status"], report["exit_code"]) == ("stopped", code)
    run.assert_nothing_lost(DONE)
    assert list((run.place.root / "state" / "allstop" / "runs").iterdir()) == []


def test_ctrl_c_while_the_disk_is_frozen(place: Place, disk: FrozenDisk) -> None:
    run = frozen(place, disk)
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell_end()
    assert_ended(run, rungs=["flag", "verify"])
    assert_written_later(run, disk, 130)


@pytest.mark.parametrize("what", ["sweep", "command"])
def test_ctrl_c_where_the_disk_was_frozen_before_the_start(
    place: Place, disk: FrozenDisk, what: str
) -> None:
    new = str(disk.mount / "new")
    disk.freeze()
    if what == "sweep":
        run = place.sweep(KEEPS, "--run-dir", new, DONE=DONE)
    else:
        run = place.start(place.argv("run", "--run-dir", new, "--", "true"))
    wait_for(lambda: "os.utime" in commands_below(run.popen.pid), "it tries whether it can write")
    run.popen.send_signal(signal.SIGINT)
    assert run.popen.wait(15) in (-signal.SIGINT, 128 + signal.SIGINT)
    disk.thaw()
    wait_for(lambda: not place.alive(), "who tried is gone, too")
    assert not os.path.lexists(new)


def test_ctrl_c_where_the_disk_is_frozen_when_a_resume_begins(
    place: Place, disk: FrozenDisk
) -> None:
    ended = place.sweep(KEEPS, DONE=DONE)
    ended.wait_marks("ready", 2)
    ended.popen.send_signal(signal.SIGINT)
    ended.popen.wait(15)
    ended.assert_gone()
    disk.freeze()
    again = place.start(place.argv("resume", str(ended.run_dir)))
    wait_for(lambda: "os.utime" in commands_below(again.popen.pid), "it tries whether it can write")
    again.popen.send_signal(signal.SIGINT)
    assert again.popen.wait(15) in (-signal.SIGINT, 128 + signal.SIGINT)
    disk.thaw()
    wait_for(lambda: not place.alive(), "who tried is gone, too")
    ended.assert_nothing_lost(DONE)


def commands_below(pid: int) -> str:
    """Return the command lines of a process's children."""
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return found.stdout


@pytest.mark.parametrize("named", ["nothing", "directory"])
def test_stop_from_elsewhere_while_the_disk_is_frozen(
    place: Place, disk: FrozenDisk, named: str
) -> None:
    run = frozen(place, disk)
    stop = place.command("stop", *([str(run.run_dir)] if named == "directory" else []), "--json")
    assert stop.returncode == 0, stop.stderr
    (said,) = json.loads(stop.stdout)["stopped"]
    assert (said["gone"], said["survivors"], said["escalated"]) == (True, [], [])
    assert run.end() == 143, run.tell_end()
    assert_ended(run, rungs=["flag", "verify"])
    assert_written_later(run, disk, 143)


def test_the_front_is_killed_while_the_disk_is_frozen(place: Place, disk: FrozenDisk) -> None:
    run = frozen(place, disk)
    warden = run.warden
    run.kill_front()
    wait_for(
        lambda: (
            not [
                who
                for who in run.seen
                if exists(who) and not is_helper(who.pid) and who.pid != warden
            ]
        ),
        "the end of the workers",
        tell=run.tell_end,
    )
    assert_written_later(run, disk, 143)


def test_a_worker_that_waits_for_the_disk_is_named_and_keeps_nobody(
    place: Place, disk: FrozenDisk
) -> None:
    times = ["--grace", "0.2", "--terminate", "0.2", "--verify", "0.5"]
    run = place.sweep(WRITES, *times, n=10**6)
    workers = run.wait_marks("ready", 2)
    run.look_below()
    disk.freeze()
    wait_for(lambda: {state_letter(pid) for pid in workers} == {"D"}, "both to wait for the disk")
    run.signal(signal.SIGINT)
    assert run.end() == 3, run.tell_end()
    said = json.loads(run.out.splitlines()[-1])
    assert {name.partition(" (")[0] for name in said["stop"]["survivors"]} == {
        f"pid {pid}" for pid in workers
    }
    assert all(name.endswith("state D") for name in said["stop"]["survivors"])
    disk.thaw()
    assert run.wait_report()["exit_code"] == 3
    assert place.command("reap").returncode == 0
    run.assert_gone()


@pytest.mark.parametrize("name", ["events.jsonl", "run.json", "report.json"])
def test_a_pipe_in_a_files_place_keeps_no_stop(place: Place, name: str) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    run.look_below()
    (run.run_dir / name).unlink(missing_ok=True)
    os.mkfifo(run.run_dir / name)
    stop = place.command("stop", str(run.run_dir), "--json")
    assert "Traceback" not in stop.stderr
    assert stop.returncode == 0, stop.stderr
    assert run.end() == 143, run.tell_end()
    assert "Traceback" not in run.err
    (run.run_dir / name).unlink()
    wait_for(lambda: not place.alive(), "everything gone")


UNTIL_GO = """
def f(bars, params, stop):
    '''Stays after the first DONE combinations, until it may go on.'''
    if params["a"] < DONE or marked("go"):
        return row(params)
    mark("ready")
    stop.wait()
    return None
"""


@pytest.mark.parametrize("command", ["status", "report", "resume"])
@pytest.mark.parametrize(
    "name", ["events.jsonl", "run.json", "report.json", "journal/worker-0000.bin", ".lock"]
)
def test_a_pipe_in_a_files_place_is_one_line(place: Place, name: str, command: str) -> None:
    run = place.sweep(UNTIL_GO, DONE=DONE)
    run.wait_marks("ready", 2)
    run.stop()
    (place.root / "go-1").touch()
    (run.run_dir / name).unlink()
    os.mkfifo(run.run_dir / name)
    argv = [*place.argv(command, str(run.run_dir))]
    said = subprocess.run(
        argv, cwd=place.work, env=place.env, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in said.stderr
    if said.returncode:
        assert len(said.stderr.splitlines()) == 1, said.stderr


def test_a_directory_that_cannot_be_read_keeps_no_stop(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    run.look_below()
    argv = place.argv("stop", str(run.run_dir))
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root reads everything, and setpriv is not here to forbid it")
        rights = "-dac_override,-dac_read_search"
        argv = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *argv]
    run.run_dir.chmod(0)
    try:
        stop = subprocess.run(
            argv, cwd=place.work, env=place.env, capture_output=True, text=True, timeout=60
        )
        run.end()
    finally:
        run.run_dir.chmod(0o700)
    assert "Traceback" not in stop.stderr
    assert stop.returncode == 0, stop.stderr
    assert "cannot be read: Permission denied" in stop.stdout
    wait_for(lambda: not place.alive(), "everything gone")


NO_LOCKS = "int flock(int fd, int op) { (void)fd; (void)op; errno = ENOSYS; return -1; }"


def test_results_are_written_where_there_are_no_locks(place: Place, tmp_path: Path) -> None:
    """As on Lustre that is mounted without ``flock``."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to take the locks away with")
    (tmp_path / "shim.c").write_text(f"#include <errno.h>\n{NO_LOCKS}\n")
    shim = tmp_path / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c"], check=True)
    place.env["LD_PRELOAD"] = str(shim)
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    busy = place.command("resume", str(run.run_dir))
    assert busy.returncode == 2
    assert run.stop() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)
    assert not list(run.run_dir.glob(".lock.*"))


def test_a_directory_that_was_exchanged_while_the_run_ran_is_named(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    moved = run.run_dir.rename(place.root / "moved")
    run.run_dir.mkdir()
    run.signal(signal.SIGTERM)
    run.end()
    said = json.loads(run.out.splitlines()[-1])
    assert any("was moved, replaced or deleted" in error for error in said["errors"]), said
    assert not (run.run_dir / "results.parquet").exists()
    shutil.rmtree(run.run_dir)
    written = place.command("report", str(moved), "--json")
    assert written.returncode == 0, written.stderr
    assert json.loads(written.stdout)["combos_done"] == DONE


def test_a_run_whose_directory_can_no_longer_be_entered_ends_as_it_should(place: Place) -> None:
    argv = place.run_argv(POLITE, json=False, DONE=DONE)
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root reads everything, and setpriv is not here to forbid it")
        rights = "-dac_override,-dac_read_search"
        argv = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *argv]
    run = place.start(argv)
    run.wait_marks("ready", 2)
    run.run_dir.chmod(0)
    try:
        run.signal(signal.SIGTERM)
        code = run.end()
    finally:
        run.run_dir.chmod(0o700)
    assert code == 143, run.tell()
    assert "Traceback" not in run.err
    assert "report.json could not be written" in run.out
    assert place.command("report", str(run.run_dir)).returncode == 0
