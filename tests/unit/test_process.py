from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from supervisor.system import process
from supervisor.system.process import Identity
from tests.support.cli import ROOT
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("no_leaks")

TREE = """
import os, signal, subprocess, sys, time
from supervisor.system import process
process.become_subreaper()
subprocess.Popen(["sleep", "1000"])
subprocess.Popen(["setsid", "sleep", "1000"])
if os.fork() == 0:                      # a daemon, as the books have it
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("daemon", os.getpid(), flush=True)
        time.sleep(1000)
    os._exit(0)
while True:
    time.sleep(1000)
"""
COUNT = 3  # two sleeps, one daemon; the one in between is a zombie


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", TREE], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as root:  # fmt: skip
        assert root.stdout.readline().startswith("daemon")
        wait_for(lambda: len(living(root.pid)) == COUNT, "the tree")
        wait_for(lambda: len(sessions(root.pid)) == COUNT, "setsid to have done its work")
        yield root
        process.signal_descendants(root.pid, signal.SIGKILL)
        root.kill()


def living(root: int) -> list[int]:
    return [
        pid
        for pid in process.descendants(root)
        if process.state_letter(pid) not in (None, "Z", "X")
    ]


def sessions(root: int) -> set[int]:
    return {os.getsid(pid) for pid in living(root)}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield child
        child.kill()


def test_descendants_include_those_that_left_the_session(tree: subprocess.Popen[str]) -> None:
    assert len(sessions(tree.pid)) == COUNT  # each sleeps in one of its own
    assert tree.pid in process.descendants(os.getpid())
    assert set(process.descendants(tree.pid)) < set(process.descendants(os.getpid()))


def test_the_kernel_says_whether_a_child_is_left() -> None:
    code = (
        "import os, time; from supervisor.system import process\n"
        "print(process.has_child())\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(1000)\n"
        "print(process.has_child())\n"
        "os.kill(child, 9)\n"
        "os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)\n"
        "print(process.has_child())\n"
        "os.waitpid(child, 0)\n"
        "print(process.has_child())\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True", "True", "False"], done.stderr


def test_only_descendants_are_signalled(
    tree: subprocess.Popen[str], sleeper: subprocess.Popen[bytes]
) -> None:
    assert process.signal_descendants(tree.pid, signal.SIGKILL) == COUNT
    wait_for(lambda: living(tree.pid) == [], "all of them dead")
    assert tree.poll() is None
    assert sleeper.poll() is None
    assert process.signal_descendants(tree.pid, signal.SIGKILL) == 0


def test_signals_come_in_order(tree: subprocess.Popen[str]) -> None:
    for pid in living(tree.pid):
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: {process.state_letter(p) for p in living(tree.pid)} == {"T"}, "all stopped")
    assert process.signal_descendants(tree.pid, signal.SIGTERM, signal.SIGCONT) == COUNT
    wait_for(lambda: len(living(tree.pid)) == 1, "all but the one that ignores SIGTERM dead")


def test_a_process_that_was_ours_and_is_not_any_more_is_left_alone(
    sleeper: subprocess.Popen[bytes],
) -> None:
    """What the list names is checked again once it can no longer be mistaken."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process._signal_if_descendant(other.pid, sleeper.pid, (signal.SIGKILL,)) is False
    assert process._signal_if_descendant(os.getpid(), sleeper.pid, (signal.SIGCONT,)) is True
    assert sleeper.poll() is None
    other.communicate(b"\n")


def test_identity(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    assert identity is not None
    assert identity.alive
    assert identity == Identity.of(sleeper.pid)
    assert identity.send(signal.SIGKILL) is True
    wait_for(lambda: process.state_letter(sleeper.pid) == "Z", "a zombie")
    assert not identity.alive
    assert identity.send(signal.SIGKILL) is False
    sleeper.wait()
    assert not identity.alive
    assert identity.send(signal.SIGKILL) is False
    assert Identity.of(sleeper.pid) is None


def test_a_pid_of_another_start_time_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    assert identity is not None
    earlier = Identity(identity.pid, identity.start_time - 1)
    assert not earlier.alive
    assert earlier.send(signal.SIGKILL) is False
    assert sleeper.poll() is None


RECYCLE = """
import os, signal, sys, time
from pathlib import Path
from supervisor.system.process import Identity

def sleeper():
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    return pid

first = sleeper()
identity = Identity.of(first)
assert identity.alive
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
while Identity.of(os.getpid()).start_time == identity.start_time:
    pass
time.sleep(0.05)  # start times have a grain of 10 ms
Path("/proc/sys/kernel/ns_last_pid").write_text(str(first - 1))
second = sleeper()
print("same pid" if second == first else "another pid", flush=True)
print(identity.alive, identity.send(signal.SIGKILL), Identity.of(second).alive, flush=True)
os.kill(second, signal.SIGKILL)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root for a pid namespace")
def test_a_pid_that_is_used_again_is_not_signalled() -> None:
    """In a pid namespace of its own the next pid can be chosen."""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-P", "-c", RECYCLE],
        capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no pid namespace here: {done.stderr.strip()}")
    assert done.stdout == "same pid\nFalse False True\n", done.stderr


DIES_WITH_PARENT = """
import os, sys, time
from supervisor.system import process
parent = os.getpid()
if os.fork() == 0:
    process.die_with_parent(parent)
    print("ready", os.getpid(), flush=True)
    time.sleep(1000)
sys.stdin.read()
"""


def test_a_child_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", DIES_WITH_PARENT], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as parent:  # fmt: skip
        child = Identity.of(int(parent.stdout.readline().split()[1]))
        assert child is not None
        assert child.alive
        parent.kill()
        parent.wait()
        wait_for(lambda: not child.alive, "the child's death")


def test_who_is_handed_on_before_it_could_ask_ends_by_itself() -> None:
    code = (
        "import os; from supervisor.system import process; "
        "process.die_with_parent(1 + os.getppid())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}; print('still here')"], capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")


def test_names_with_brackets_and_spaces_are_read_right() -> None:
    code = (
        "from supervisor.system import process\n"
        "process.set_title(') R 1 (x')\n"
        "print(process.command_name(__import__('os').getpid()), flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as child:  # fmt: skip
        assert child.stdout.readline() == ") R 1 (x\n"
        assert child.pid in process.children(os.getpid())
        identity = Identity.of(child.pid)
        assert identity is not None
        assert identity.alive
        child.communicate("\n")


def test_what_is_not_there_is_none() -> None:
    unused = 2**22 - 1
    assert Identity.of(unused) is None
    assert process.state_letter(unused) is None
    assert process.command_name(unused) == "?"
    assert process.children(unused) == []
    assert process.descendants(unused) == []
    assert process.signal_descendants(unused, signal.SIGKILL) == 0
