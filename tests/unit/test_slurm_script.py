"""The batch script in a real bash: words arrive, signals are forwarded, the lease is watched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm.batch.job import Job
from slurm.batch.script import Lease, batch_script
from supervisor.errors import ConfigError
from supervisor.system.process import children, descendants
from tests.support.waiting import wait_for

DUMP = """
import json, os, sys
names = json.loads(sys.argv[1])
sys.stdout.buffer.write(repr(([os.fsencode(word) for word in sys.argv[2:]],
    {name: os.environb[name.encode()] for name in names})).encode())
"""

# what a kernel takes as a word, and some that a shell may trip over
WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.binary().map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")),
    st.text("'\"\\$`!*?~#&|;<>(){}[]\n\r\t -=%0a\x01\x7f"),
)
NAMES = st.from_regex(r"V_[A-Za-z0-9_]{0,8}", fullmatch=True)


def run(job: Job, lease: Lease | None = None, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash"], input=batch_script(job, "tok", lease), capture_output=True, timeout=60,
        env=os.environ | variables, start_new_session=True,
    )  # fmt: skip


@settings(max_examples=60)
@given(st.lists(WORDS, max_size=4), st.dictionaries(NAMES, WORDS, max_size=4))
def test_words_and_variables_survive_bash_byte_for_byte(
    words: list[str], environment: dict[str, str]
) -> None:
    command = [sys.executable, "-S", "-c", DUMP, json.dumps(list(environment)), *words]
    script = batch_script(Job(command=command, environment=environment), "tok")
    assert b"\r" not in script  # sbatch would refuse it
    assert script.startswith(b"#!/bin/bash\n")
    done = run(Job(command=command, environment=environment))
    assert done.returncode == 0, done.stderr
    expected = (
        [os.fsencode(word) for word in words],
        {name: os.fsencode(value) for name, value in environment.items()},
    )
    assert done.stdout == repr(expected).encode()
    assert done.stderr == b""


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_status_is_the_command_s(code: int) -> None:
    assert run(Job(command=["sh", "-c", f"exit {code}"])).returncode == code
    assert run(Job(command=["sh", "-c", f"exit {code}"]), Lease("/none", 60)).returncode == code


def test_a_program_that_is_missing_is_127() -> None:
    assert run(Job(command=["/no/such/program"])).returncode == 127
    assert run(Job(command=["-x"])).returncode == 127  # no option of exec's


def test_setup_affects_the_command_alone() -> None:
    job = Job(
        command=["sh", "-c", 'echo "$A $B $HOME"'],
        environment={"HOME": "/elsewhere", "A": "1"},
        setup=["cat > /dev/null <<END", "$(exit 3)", "END", "export B=$A$A"],
    )
    done = run(job, Lease("/none", 60))
    assert done.stdout == b"1 11 /elsewhere\n"
    assert done.returncode == 0


def test_a_variable_that_bash_would_change_is_refused() -> None:
    """Each name that is accepted arrives; bash lists those that it sets itself."""
    said = subprocess.run(["bash", "-c", "compgen -v"], capture_output=True, text=True)
    refused = []
    for name in said.stdout.split():
        try:
            job = Job(command=["/usr/bin/env"], environment={name: "1 x"})
        except ConfigError:
            refused.append(name)
        else:
            assert f"{name}=1 x".encode() in run(job).stdout.split(b"\n"), name
    assert {"UID", "BASH_VERSION", "SECONDS", "PPID", "_"} <= set(refused)
    assert not {"HOME", "PATH", "TERM", "IFS"} & set(refused)


@contextmanager
def started(job: Job, lease: Lease | None = None, **more: str) -> Iterator[subprocess.Popen]:
    """A running script, in a session of its own as SLURM starts it."""
    with subprocess.Popen(
        ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | more, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdin
            process.stdin.write(batch_script(job, "tok", lease))
            process.stdin.close()
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


SLOW_END = """
import signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("ready", flush=True)
while not told:
    time.sleep(0.01)
for _ in range(30):
    time.sleep(0.01)
print("saved", flush=True)
sys.exit(3)
"""


@pytest.mark.parametrize("times", [1, 5])
def test_sigterm_is_forwarded_and_the_end_waited_for(times: int) -> None:
    with started(Job(command=[sys.executable, "-c", SLOW_END])) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        for _ in range(times):
            process.terminate()
        assert process.stdout.readline() == b"saved\n"
        assert process.wait(30) == 3


def test_sigterm_to_the_whole_group_ends_as_the_command_does() -> None:
    with started(Job(command=[sys.executable, "-c", SLOW_END]), Lease("/none", 60)) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == b"saved\n"
        assert process.wait(30) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1])
def test_no_signal_is_ignored_by_the_command(number: int) -> None:
    """By default bash starts background commands with SIGINT ignored."""
    dump = "import signal, sys; print(signal.getsignal(int(sys.argv[1])) == signal.SIG_IGN)"
    done = run(Job(command=[sys.executable, "-c", dump, str(int(number))]))
    assert done.stdout == b"False\n"


def test_a_normal_end_leaves_no_watcher_behind(tmp_path: Path) -> None:
    (tmp_path / "lease").write_text("1")
    with started(Job(command=["sh", "-c", "read x"]), Lease(str(tmp_path / "lease"), 300)) as it:
        assert it.wait(30) == 1  # its stdin is empty: it ends at once
        # far sooner than it would have looked again; its reaper may take a second
        wait_for(lambda: not _group_exists(it.pid), "the group empty", timeout_s=20)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def fakes(directory: Path) -> str:
    """A PATH with a scancel that fails and a sleep that takes no time."""
    for name, body in {"scancel": f"echo x >> {directory}/asked; exit 1", "sleep": ""}.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


DEAF = "trap '' TERM; echo ready; while :; do read -t 9 < <(:) || /bin/sleep 0.1; done"


def test_a_lapsed_lease_ends_a_deaf_command_though_slurm_does_not_answer(tmp_path: Path) -> None:
    job = Job(command=["bash", "-c", DEAF], environment={"PATH": os.environ["PATH"]})
    lease = Lease(str(tmp_path / "none"), 4, grace_s=1)  # until then it is deaf
    with started(job, lease, PATH=fakes(tmp_path), SLURM_JOB_ID="1") as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        assert process.wait(30) == -signal.SIGKILL
        assert process.stderr
        assert b"the lease was not renewed for 4 s" in process.stderr.read()
    assert (tmp_path / "asked").read_text() == "x\n" * 6


def test_sigterm_does_not_end_the_watch(tmp_path: Path) -> None:
    """A stop that was requested and not followed up: the lease still ends the job."""
    path = tmp_path / "lease"
    path.write_text("0")
    job = Job(command=["bash", "-c", DEAF])
    with started(
        job, Lease(str(path), 4, grace_s=1), PATH=fakes(tmp_path), SLURM_JOB_ID="1"
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        wait_for(lambda: len(_deaf_below(process.pid)) >= 2, "the watcher, which is deaf too")
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == -signal.SIGKILL


def _deaf_below(pid: int) -> list[int]:
    """Children that ignore SIGTERM."""
    found = []
    for below in children(pid):
        with suppress(OSError):
            text = Path(f"/proc/{below}/status").read_text()
            ignored = int(text.partition("\nSigIgn:")[2].split()[0], 16)
            if ignored >> (signal.SIGTERM - 1) & 1:
                found.append(below)
    return found


def test_a_lease_that_changes_keeps_the_job_one_that_comes_and_goes_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lease"
    path.write_text("0")
    with started(Job(command=["sleep", "60"]), Lease(str(path), 4, grace_s=1)) as process:
        renewed = 0

        def renew() -> bool:
            nonlocal renewed
            renewed += 1
            fresh = path.with_suffix(".new")
            fresh.write_text(str(renewed))
            os.utime(fresh, (0, 0))  # what is in it counts
            fresh.replace(path)
            return process.poll() is not None

        with pytest.raises(AssertionError):
            wait_for(renew, "ends", timeout_s=7)
        assert descendants(process.pid)

        def flicker() -> bool:
            path.unlink(missing_ok=True)
            path.write_text("same")
            return process.poll() is not None

        wait_for(flicker, "ends itself")
        assert process.returncode == 128 + signal.SIGTERM


def test_a_relative_lease_is_below_home(tmp_path: Path) -> None:
    script = batch_script(Job(command=["true"]), "tok", Lease("a b/'c", 60))
    assert b"lease=\"$HOME\"/'a b/'\"'\"''\"'\"'c'" in script or b'"$HOME"/' in script
    assert subprocess.run(["bash", "-n"], input=script).returncode == 0


@pytest.mark.parametrize(("lease_s", "every_s"), [(2, 1), (5, 1), (10, 2), (300, 30), (86400, 30)])
def test_the_job_looks_several_times_within_a_lease(lease_s: int, every_s: int) -> None:
    assert Lease("x", lease_s).every_s == every_s
