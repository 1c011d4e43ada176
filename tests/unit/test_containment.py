from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.containment import Containment, cgroup, choice, leftovers, pid_namespace
from supervisor.containment.cookie import Search
from supervisor.containment.leftovers import clear_leftovers, end_leftovers
from supervisor.containment.pid_namespace import PidNamespace
from supervisor.containment.unavailable import UnavailableError
from supervisor.records import plan
from supervisor.records.events import EventLog
from supervisor.system.environment import RUN_ID, with_room
from supervisor.system.process import Identity, pid_of
from tests.support.processes import carriers
from tests.support.waiting import wait_for

PATIENCE_S = 60.0
"""The tests ask whether processes are found; how soon depends on the machine's load."""

CARRIER = """
import os, sys
from supervisor.containment.cookie import Cookie
cookie = Cookie()
ours, alive = os.pipe()
for line in sys.stdin:
    if line.strip():
        cookie.show(line.strip())
    else:
        cookie.hide()
    child = os.fork()
    if child == 0:
        os.close(alive)
        os.read(ours, 1)
        os._exit(0)
    print(child, flush=True)
"""
"""Shows each id it reads, and forks a child that runs on without executing another program."""


@contextmanager
def carrier() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", CARRIER], env=with_room(dict(os.environ)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as popen:  # fmt: skip
        yield popen
        popen.communicate()


def show(popen: subprocess.Popen[str], run_id: str) -> int:
    assert popen.stdin and popen.stdout
    popen.stdin.write(run_id + "\n")
    popen.stdin.flush()
    return int(popen.stdout.readline())


# -- the cookie ----------------------------------------------------------------


def test_a_process_is_found_by_the_run_it_was_told_after_its_start() -> None:
    run_id = f"20240229-120000-{os.getpid():06x}"
    assert carriers(run_id) == []
    with carrier() as popen:
        child = show(popen, run_id)
        assert set(carriers(run_id)) == {Identity.of(popen.pid), Identity.of(child)}
        assert carriers(run_id[:-1]) == []
        assert carriers(run_id + "0") == []
        show(popen, "")
        assert set(carriers(run_id)) == {Identity.of(child)}  # it was forked before
    assert carriers(run_id) == []


def test_a_program_started_below_carries_the_run_too() -> None:
    run_id = f"20240229-120001-{os.getpid():06x}"
    env = dict(os.environ) | {RUN_ID: run_id}
    with subprocess.Popen(["sleep", "1000"], env=env) as popen:
        assert carriers(run_id) == [Identity.of(popen.pid)]
        popen.kill()
        popen.wait()
        assert carriers(run_id) == []


def test_a_process_that_dies_slowly_is_waited_for() -> None:
    """It loses its environment, and with it the cookie, long before it is dead."""
    run_id = f"20240229-120002-{os.getpid():06x}"
    code = "held = bytearray(b'1') * (400 << 20); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=dict(os.environ) | {RUN_ID: run_id},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as popen:  # fmt: skip
        assert popen.stdout and popen.stdout.readline() == "\n"
        ended = end_leftovers(run_id, None, PATIENCE_S)
        assert (len(ended.killed), ended.survivors) == (1, [])


RELAY = """
import os, sys, time
os.setsid()
print(os.getpid(), flush=True)
end = time.monotonic() + 120.0  # so that one that is missed ends, too
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
"""
"""Forks and exits, again and again: a process that is looked at has passed the id on already."""

EXECUTES = """
import os, resource, sys
os.setsid()
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
sys.stdout.write(f"{os.getpid()}\\n")
sys.stdout.flush()
os.execv("/bin/sh", ["sh", "-c", 'exec sh -c "$0" "$0"', 'exec sh -c "$0" "$0"'])
"""
"""Executes another program, again and again: half of the time it shows no environment."""


@pytest.mark.parametrize("code", [RELAY, EXECUTES], ids=["forks", "executes"])
def test_a_process_that_keeps_changing_does_not_escape(code: str) -> None:
    """All of them hold the same end of a pipe; it is closed when the last of them is dead."""
    run_id = f"20240229-120003-{os.getpid():06x}"
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", code], env=dict(os.environ) | {RUN_ID: run_id},
            stdout=subprocess.PIPE, text=True,
        ) as popen:  # fmt: skip
            assert popen.stdout and popen.stdout.readline()
            ended = end_leftovers(run_id, None, PATIENCE_S)
            left = select.poll()
            left.register(popen.stdout, 0)
            assert left.poll(0), f"a process lives on: {ended}"
            assert ended.survivors == []


def test_a_process_that_is_not_caught_is_named() -> None:
    """Without a look that found no process, the result does not say that all are gone."""
    run_id = f"20240229-120004-{os.getpid():06x}"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", RELAY], env=dict(os.environ) | {RUN_ID: run_id},
        stdout=subprocess.PIPE, text=True,
    ) as popen:  # fmt: skip
        assert popen.stdout and popen.stdout.readline()
        ended = end_leftovers(run_id, None, 0.0)
        left = select.poll()
        left.register(popen.stdout, 0)
        assert left.poll(0) or ended.survivors, "it lives, and is not reported"
        assert end_leftovers(run_id, None, PATIENCE_S).survivors == []


def test_the_newest_process_is_struck_only_if_it_carries_the_run() -> None:
    run_id = f"20240229-120005-{os.getpid():06x}"
    search = Search(run_id)

    def struck(env: dict[str, str]) -> tuple[Identity | None, int]:
        """What a strike right after a process's birth has killed, and the process's exit status."""
        with subprocess.Popen(
            [sys.executable, "-S", "-c", "print(flush=True); input()"], env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as popen:  # fmt: skip
            assert popen.stdout and popen.stdout.readline()
            victim = search.strike()
            popen.communicate("\n")
            return victim, popen.returncode

    # others may be born in between on a busy machine
    wait_for(lambda: struck(dict(os.environ) | {RUN_ID: run_id})[1] == -signal.SIGKILL, "a hit")
    assert struck(dict(os.environ) | {RUN_ID: run_id + "0"}) == (None, 0)
    assert struck(dict(os.environ)) == (None, 0)


def test_the_searching_process_is_left_out() -> None:
    code = (
        "import os; from supervisor.containment.cookie import Search;"
        f"print(list(Search(os.environ['{RUN_ID}']).look()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ) | {RUN_ID: "a-run"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr


def test_an_id_too_long_for_the_room_is_not_written_over_what_follows() -> None:
    code = (
        "import os, sys; from supervisor.containment.cookie import *; c = Cookie();"
        "before = open('/proc/self/environ', 'rb').read(); c.show('x' * 65);"
        "print(before == open('/proc/self/environ', 'rb').read(), len(os.environ[RUN_ID]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=with_room(dict(os.environ)),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "True 65\n", done.stderr


# -- the choice ----------------------------------------------------------------


def test_the_settings_list_the_same_strengths() -> None:
    assert ("auto", *choice.STRENGTHS) == plan.CONTAINMENTS


def refuse(spent: int | None) -> object:
    def refusing(*_: object) -> object:
        raise UnavailableError("refused", "allow it", spent=spent)

    return refusing


def test_auto_falls_back_to_what_works_and_passes_failed_attempts_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pid_namespace, "enter", refuse(77))
    monkeypatch.setattr(cgroup, "available", refuse(None))
    told: list[tuple[str, list[int]]] = []
    taken = choice.contain("auto", lambda held, spent: told.append((held.name, list(spent))))
    assert taken.name == "subreaper"
    assert told == [("subreaper", [77])]
    assert taken.passed_over == (
        ("pid-namespace", "refused", "allow it"),
        ("cgroup", "refused", "allow it"),
    )


@pytest.mark.parametrize("wanted", ["pid-namespace", "cgroup"])
def test_a_requested_strength_is_not_replaced(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid_namespace, "enter", refuse(None))
    monkeypatch.setattr(cgroup, "available", refuse(None))
    with pytest.raises(UnavailableError, match="refused") as caught:
        choice.contain(wanted, never)
    assert caught.value.fix == "allow it"


def never(held: Containment, spent: list[int]) -> None:
    raise AssertionError(held, spent)


def test_an_unknown_strength_is_refused() -> None:
    with pytest.raises(UnavailableError, match="bucket"):
        choice.contain("bucket", never)


def test_all_of_a_namespace_is_signalled_by_its_first_process_only() -> None:
    """Anywhere else ``kill(-1)`` would kill every process of the user."""
    with pytest.raises(RuntimeError, match="first process"):
        PidNamespace(-1).signal_all(0)


# -- what is left ----------------------------------------------------------------


def run_with_cgroup(run_dir: Path, run_id: str, *paths: Path) -> Path:
    run_dir.mkdir()
    (run_dir / "run.json").write_text(json.dumps({"run_id": run_id}))
    log = EventLog(run_dir, "warden")
    for path in paths:
        log.emit("cgroup_made", path=str(path))
    log.close()
    return run_dir


def lookalike(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (path / "cgroup.kill").write_text("")
    return path


def test_a_directory_that_is_no_cgroup_is_left_alone(tmp_path: Path) -> None:
    path = lookalike(tmp_path / "allstop-x")
    assert clear_leftovers(run_with_cgroup(tmp_path / "run", "x", path)) == []
    assert (path / "cgroup.kill").read_text() == ""


def test_a_cgroup_of_another_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "hierarchies", lambda: [("/", str(tmp_path))])
    others = [lookalike(tmp_path / name) for name in ("allstop-y", "allstop-x2", "user.slice")]
    sneaky = tmp_path / "none" / ".." / "allstop-x"
    lookalike(tmp_path / "allstop-x")
    run_dir = run_with_cgroup(tmp_path / "run", "x", *others, sneaky, Path("allstop-x"))
    assert clear_leftovers(run_dir) == []
    assert all((path / "cgroup.kill").read_text() == "" for path in others)


def test_a_run_without_a_cgroup_has_nothing_to_clear(tmp_path: Path) -> None:
    assert clear_leftovers(run_with_cgroup(tmp_path / "run", "x")) == []
    assert clear_leftovers(tmp_path / "nowhere") == []
    (tmp_path / "run" / "run.json").write_text("[]")
    assert clear_leftovers(tmp_path / "run") == []


def own_or_skip() -> Path:
    try:
        cgroup.available()
    except UnavailableError as error:
        pytest.skip(f"no cgroup here: {error.why}")
    return cgroup.own_cgroup()


def test_a_cgroup_with_processes_in_it_is_killed_and_removed(tmp_path: Path) -> None:
    path = own_or_skip() / f"allstop-test-{os.getpid()}"
    path.mkdir()
    try:
        with subprocess.Popen(["sleep", "1000"]) as popen:
            who = Identity.of(popen.pid)
            (path / "cgroup.procs").write_text(str(popen.pid))
            run_dir = run_with_cgroup(tmp_path / "run", f"test-{os.getpid()}", path)
            assert clear_leftovers(run_dir) == [who]
            assert popen.wait() == -9
        assert not path.exists()
    finally:
        if path.exists():
            path.rmdir()


def test_trying_a_cgroup_out_leaves_none() -> None:
    home = own_or_skip()
    assert not (home / f"allstop-trial-{os.getpid()}").exists()  # other tests may be trying, too


# -- pids ----------------------------------------------------------------------


def test_the_pid_of_a_pidfd() -> None:
    with subprocess.Popen(["sleep", "1000"]) as popen:
        pidfd = os.pidfd_open(popen.pid)
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        try:
            assert pid_of(pidfd) == pid_of(pidfd, proc) == popen.pid
            popen.kill()
            popen.wait()
            assert pid_of(pidfd) == 0
        finally:
            os.close(pidfd)
            os.close(proc)
