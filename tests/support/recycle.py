"""Gives the pid of a dead process to a stranger, at every instant at which that could happen.

``python -P -m tests.support.recycle CASE [without]``, as the first process of a PID
namespace, where the next pid can be chosen. What is tested runs again and again. Each
time, just before another one of its system calls, its victim dies, is reaped, and a
stranger gets the victim's pid, with a child. What happens between two system
calls is visible to no process, so these are all the instants there are. Both strangers must
live on.

The first process is the keeper: strangers are its children, unrelated to the process under test.
``without`` takes the guard away: then strangers must die, or the test would prove nothing.

Prints a JSON object: how many instants were tried, and at which of them a stranger died.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from supervisor.containment.leftovers import end_leftovers
from supervisor.ipc.stopflag import Level
from supervisor.lifecycle import reap, stop
from supervisor.records import registry, rundir
from supervisor.records.registry import Entry
from supervisor.system import durable, environment, process
from supervisor.system.process import Identity, signal_descendants

RUN_ID = "20200102-030405-abcdef"
WITHOUT = sys.argv[2:] == ["without"]
_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KERNEL = {"posix", "io", "_io", "_signal", "signal", "select", "_socket"}
"""Modules whose functions make system calls."""


# --- the keeper and the strangers -----------------------------------------------------------


class Keeper:
    """The first process as the one knows it that was forked from it for the test."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        tested = os.fork()
        if tested:
            self._line.close()
            os._exit(_keep(theirs, tested))
        theirs.close()

    def _ask(self, *words: object) -> bytes:
        self._line.send(" ".join(map(str, words)).encode())
        return self._line.recv(64)

    def fork_as(self, pid: int) -> None:
        """Have a stranger, with a child, under a pid that is free."""
        got = int(self._ask("fork", pid))
        if got != pid:
            raise RuntimeError(f"asked for pid {pid}, got {got}")

    def lose(self) -> None:
        """End the stranger, not its child."""
        self._ask("lose")

    def both_live(self) -> bool:
        """Whether the stranger and its child can do anything still; ends them."""
        return self._ask("end") == b"True"


class _Strangers:
    """A process and its child that answer, if they can."""

    def __init__(self, pid: int) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        self.pid = fork_as(pid)
        if self.pid == 0:
            mine = 0 if os.fork() else 1
            for line in (pairs[0][0], pairs[1][0], pairs[1 - mine][1]):
                line.close()
            while pairs[mine][1].recv(1):
                pairs[mine][1].send(str(os.getpid()).encode())
            os._exit(0)
        self._lines = [ours for ours, _ in pairs]
        for _, theirs in pairs:
            theirs.close()
        self.child = int(self._answers()[1])

    def _answers(self) -> list[bytes]:
        """What each says; nothing, if it was killed: then it executes not one instruction more."""
        said = []
        for line in self._lines:
            with contextlib.suppress(BrokenPipeError):
                line.send(b"?")
            with contextlib.suppress(ConnectionResetError):
                said.append(line.recv(16))
        return said

    def lose(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def end(self, *, lost: bool) -> bool:
        live = self._answers()
        if not lost:
            self.lose()
        os.kill(self.child, signal.SIGKILL)  # an orphan now, and so the keeper's
        os.waitpid(self.child, 0)
        for line in self._lines:
            line.close()
        return len(live) == 2 and all(live)


def _keep(line: socket.socket, tested: int) -> int:
    """Do as the test says until it ends; return its status."""
    strangers: _Strangers | None = None
    lost = False
    while order := line.recv(64).decode().split():
        if order[0] == "fork":
            strangers, lost = _Strangers(int(order[1])), False
            line.send(str(strangers.pid).encode())
        elif order[0] == "lose" and strangers:
            strangers.lose()
            lost = True
            line.send(b"-")
        elif strangers:
            line.send(str(strangers.end(lost=lost)).encode())
    return os.waitstatus_to_exitcode(os.waitpid(tested, 0)[1])


def fork_as(pid: int) -> int:
    """Fork; the child has this pid, which must be free."""
    _LAST_PID.write_text(str(pid - 1))
    return os.fork()


# --- every instant --------------------------------------------------------------------------


@contextmanager
def before_call(number: int, happens: Callable[[], None]) -> Iterator[list[int]]:
    """Have something happen just before the body's system call of this number.

    Yields a list of one: how many calls there have been.
    """
    count = [0]

    def profile(_: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or called.__name__ in ("getpid", "getuid", "fspath"):
            return
        home = getattr(called, "__module__", None) or type(called.__self__).__module__
        if home not in _KERNEL:
            return
        count[0] += 1
        if count[0] == number:
            sys.setprofile(None)
            happens()
            sys.setprofile(profile)

    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(None)


def at_every_instant(
    keeper: Keeper,
    make: Callable[[], int],
    act: Callable[[Any], object],
    arrange: Callable[[Identity], Any] = lambda victim: victim,
) -> dict[str, Any]:
    """Recycle a victim's pid before the first, the second … system call of ``act``.

    Parameters
    ----------
    keeper : Keeper
        Has the strangers.
    make : callable
        Makes a victim, a child of this process, and returns its pid.
    act : callable
        What is tested.
    arrange : callable
        Given the victim's identity; makes of it what ``act`` is given.
    """
    died: list[int] = []
    number = 0
    while not (died and WITHOUT):
        number += 1
        victim = make()
        identity = Identity.of(victim)
        assert identity is not None

        def recycle(victim: int = victim) -> None:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            keeper.fork_as(victim)

        _outlive(identity)
        matter = arrange(identity)
        with before_call(number, recycle) as count:
            act(matter)
        if count[0] < number:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            number -= 1
            break
        if not keeper.both_live():
            died.append(number)
    return {"instants": number, "died": died}


def _outlive(identity: Identity) -> None:
    """Wait until no new process can have the start time of this one: it is in ticks."""
    while time.clock_gettime(time.CLOCK_BOOTTIME) < (identity.start_time + 2) / _TICKS_PER_S:
        time.sleep(0.1 / _TICKS_PER_S)


# --- victims --------------------------------------------------------------------------------


def child() -> int:
    """A child of this process that waits for its end."""
    pid = os.fork()
    while pid == 0:
        signal.pause()
    return pid


def marked() -> int:
    """A child with the run's id in its environment, as whatever the run has left has it."""
    sleeper = subprocess.Popen(
        ["sleep", "1000"], env={**os.environ, environment.RUN_ID: RUN_ID}, start_new_session=True
    )
    sleeper.returncode = 0  # it is waited for by pid
    return sleeper.pid


# --- what is tested -------------------------------------------------------------------------


def send(keeper: Keeper) -> dict[str, Any]:
    """A signal to a process that is known."""
    return at_every_instant(keeper, child, lambda victim: victim.send(signal.SIGTERM))


def descendants(keeper: Keeper) -> dict[str, Any]:
    """Signals to all below."""
    return at_every_instant(
        keeper, child, lambda _: signal_descendants(os.getpid(), signal.SIGTERM, signal.SIGCONT)
    )


def ancestors(keeper: Keeper) -> dict[str, Any]:
    """A stranger's parent dies, and a child of ours gets its pid: that makes us no ancestor."""
    died: list[int] = []
    number = 0
    while not (died and WITHOUT):
        number += 1
        parent = _free_pid()
        keeper.fork_as(parent)
        (stranger,) = process.children(parent)

        def recycle(parent: int = parent) -> None:
            keeper.lose()
            if fork_as(parent) == 0:
                while True:
                    signal.pause()

        with before_call(number, recycle) as count:
            mistaken = process._signal_if_descendant(os.getpid(), stranger, (0,))
        ours = count[0] >= number
        if ours:
            os.kill(parent, signal.SIGKILL)
            os.waitpid(parent, 0)
        if mistaken:
            died.append(number)
        keeper.both_live()
        if not ours:
            number -= 1
            break
    return {"instants": number, "died": died}


def _free_pid() -> int:
    """A pid that no process has had for a while, with more of them behind it."""
    return (int(_LAST_PID.read_text()) + 100) % 20_000 + 1_000


def leftovers(keeper: Keeper) -> dict[str, Any]:
    """The end of what a dead run has left, found by its cookie."""
    return at_every_instant(keeper, marked, lambda _: end_leftovers(RUN_ID, None))


def _entry(run_dir: Path, **who: Identity) -> Entry:
    me = Identity(os.getpid(), 0)  # no process
    entry = Entry(RUN_ID, run_dir, who.get("front", me), who.get("warden", me))
    durable.write_json(run_dir / rundir.RUN_FILE, {"run_id": RUN_ID})
    registry.add(entry)
    return entry


def reaped(keeper: Keeper) -> dict[str, Any]:
    """A dead run is reaped while what it has left dies."""
    run_dir = Path(tempfile.mkdtemp())
    return at_every_instant(keeper, marked, reap.reap_run, lambda _: _entry(run_dir))


def stopped(keeper: Keeper) -> dict[str, Any]:
    """A run is stopped whose warden and front, which the registry names, die."""
    run_dir = Path(tempfile.mkdtemp())
    return at_every_instant(
        keeper,
        child,
        lambda entry: stop.RunStop.begin(entry, Level.STOP).confirm(),
        lambda victim: _entry(run_dir, front=victim, warden=victim),
    )


def unchecked() -> Any:
    """Take the guards away: the process that has the pid is taken for the one that had it."""
    patches = contextlib.ExitStack()
    alive = property(lambda self: process.state_letter(self.pid) not in (None, "Z", "X"))
    patches.enter_context(mock.patch.object(Identity, "alive", alive))
    patches.enter_context(mock.patch.object(process, "_descends_from", lambda *_: True))
    if sys.argv[1] == "ancestors":
        once = process._ancestors
        patches.enter_context(
            mock.patch.object(process, "_descends_from", lambda *line: once(*line) is not None)
        )
    return patches


CASES = {case.__name__: case for case in (send, descendants, ancestors, leftovers, reaped, stopped)}


def main() -> None:
    case = CASES[sys.argv[1]]
    home = tempfile.mkdtemp()
    os.environ |= {"XDG_STATE_HOME": home, "XDG_RUNTIME_DIR": home}
    keeper = Keeper()
    with unchecked() if WITHOUT else contextlib.nullcontext():
        print(json.dumps(case(keeper)), flush=True)


if __name__ == "__main__":
    main()
