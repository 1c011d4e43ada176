"""The cookie: the run's id in the environment of all its processes, to find escapees.

A daemon that has outlived both its worker and the warden has no parent that shows
where it came from, but its environment still does. The kernel shows the environment
that a process was *started* with, and workers are forked from a warden that was
started before it knew its run. So the warden is started with room for an id in its
environment, and writes the id there in place: every process forked from it shows the
id, whether it has executed another program since or not.

A process that has changed its environment is not found. Stronger containments do not
need the cookie.

References
----------
proc(5), ``/proc/[pid]/environ``.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from supervisor.system.environment import ROOM, RUN_ID
from supervisor.system.process import Identity, Program, newest_pid, program_of, state_letter

_libc = ctypes.CDLL(None)
_libc.getenv.restype = ctypes.c_void_p
_libc.getenv.argtypes = [ctypes.c_char_p]


class Cookie:
    """The room for an id in this process's environment. Make it before the variable changes."""

    def __init__(self) -> None:
        self._address: int | None = None
        if os.environ.get(RUN_ID) == ROOM:
            self._address = _libc.getenv(RUN_ID.encode())

    def show(self, run_id: str) -> None:
        """Show a run's id, in this process and in all that are forked from it from now on."""
        os.environ[RUN_ID] = run_id
        self._write(run_id)

    def hide(self) -> None:
        """Show no run's id any more."""
        os.environ.pop(RUN_ID, None)
        self._write("")

    def _write(self, run_id: str) -> None:
        value = run_id.encode()
        if self._address is not None and len(value) <= len(ROOM):
            ctypes.memmove(self._address, value.ljust(len(ROOM), b"\0"), len(ROOM))


class Search:
    """Searches for processes that carry a run's id until it is certain that there are none.

    One look proves little. A process that is dying, or executing another program, shows
    no environment for a moment, and one that forks and ends has passed the id on to a
    child that the list of processes may not show yet. So every process that is not known
    to be a stranger is looked at again, and :attr:`over` is a proof: every process on the
    list was a stranger, so no process carried the id, and no other can pass it on.

    Parameters
    ----------
    run_id : str
        The run. It must be dead: a living one's warden and workers carry it too.

    Attributes
    ----------
    certain : bool
        Whether the last look could tell for each process whether it carries the id.
    over : bool
        Whether it has proved that no process carries it.
    """

    def __init__(self, run_id: str) -> None:
        self.certain = self.over = False
        self._wanted = f"{RUN_ID}={run_id}".encode()
        # by pid, until the kernel's numbering wraps: then a stranger's pid may be reused
        self._strangers = {os.getpid()}
        self._bare: set[Identity] = set()
        self._newest = 0

    def look(self) -> Iterator[Identity]:
        """Yield the carriers that live now, each as soon as it is found: it may fork again."""
        newest = newest_pid()
        if newest < self._newest:
            self._strangers = {os.getpid()}
        self._newest = newest
        there = {int(name) for name in _listed() if name.isdigit()}
        # the list goes upwards, as new pids do: only one born after a wrap may have been missed
        self.certain = self.over = newest_pid() >= newest
        # the newest first: it is the one that may be about to end
        for pid in sorted(there - self._strangers, reverse=True):
            who = Identity.of(pid)
            carries = None if who is None else self._carries(who)
            if carries is False:
                self._strangers.add(pid)
            else:
                self.over = False
                self.certain = self.certain and carries is not None
            if who is not None and carries:
                yield who

    def strike(self) -> Identity | None:
        """Kill the newest process of the machine if it carries the id; return its identity.

        For processes that fork and end before a look reaches them: this takes less time
        after their birth than they take to fork.
        """
        pid = newest_pid()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None  # a thread, or gone
        try:
            if self._wanted not in _environment(pid) or not _ours(pid):
                return None
            # if this succeeds, the pid was not reused meanwhile, and the environment was its own
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return Identity.of(pid)
        except OSError:
            return None
        finally:
            os.close(pidfd)

    def _carries(self, who: Identity) -> bool | None:
        """Whether a process carries the id; None: not known yet, or never.

        In both cases it may have forked a child that is not on the list.
        """
        if state_letter(who.pid) == "Z":
            # a stranger from the next look on: its pid is not reused before it is reaped
            self._strangers.add(who.pid)
            return None
        try:
            if not _ours(who.pid):
                return False
            environment = _environment(who.pid)
        except OSError:
            environment = []  # gone, dying, or not readable for us
        program = program_of(who.pid)
        # alive before and after the look: its pid was not reused in between
        if not who.alive:
            return None
        if environment:
            return self._wanted in environment
        if program is Program.NEVER or program is Program.BARE:
            return False
        if program is Program.HIDDEN and who in self._bare:
            return False  # seen twice: it was not executing another program
        self._bare.add(who)
        return None


def _listed() -> list[str]:
    return os.listdir("/proc")  # noqa: PTH208 - plain names, all at once


def _ours(pid: int) -> bool:
    return Path(f"/proc/{pid}").stat().st_uid == os.getuid()


def _environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty: it shows none."""
    with Path(f"/proc/{pid}/environ").open("rb", buffering=0) as file:
        shown = file.read()
    return shown.split(b"\0") if shown else []
