"""The run's id in the environment of all its processes, by which escapees are found.

Daemons that have outlived both their worker and the warden have no parent that
would tell where they came from; their environment still does. The kernel shows
the environment that a process was *started* with, and workers are forked from a
warden that was started before it knew its run. So the warden is started with room
for an id, and writes the id there in place: every process forked from it shows it
too, whether it has become another program since or not.

A process that has changed its environment is not found. Stronger containments
do not need the cookie.

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
    """The room in this process's own environment. Make it before the variable is changed."""

    def __init__(self) -> None:
        self._address: int | None = None
        if os.environ.get(RUN_ID) == ROOM:
            self._address = _libc.getenv(RUN_ID.encode())

    def show(self, run_id: str) -> None:
        """Belong to a run: this process and all that are forked from it now."""
        os.environ[RUN_ID] = run_id
        self._write(run_id)

    def hide(self) -> None:
        """Belong to no run any more."""
        os.environ.pop(RUN_ID, None)
        self._write("")

    def _write(self, run_id: str) -> None:
        value = run_id.encode()
        if self._address is not None and len(value) <= len(ROOM):
            ctypes.memmove(self._address, value.ljust(len(ROOM), b"\0"), len(ROOM))


class Search:
    """Looks for processes that carry a run's id until it is certain that there are none.

    One look proves little. A process that is dying, or executing another program, shows
    no environment for a moment; and one that forks and ends has handed everything on to
    another, whom the list of processes may not have yet. So who is not known for a
    stranger is looked at again, and :attr:`over` is a proof: everybody on the list was a
    stranger, so nobody lived who carries the id, and nobody else can hand it on.

    Parameters
    ----------
    run_id : str
        The run. It must be dead: a living one's warden and workers carry it too.

    Attributes
    ----------
    certain : bool
        Whether the last look has left nobody in doubt.
    over : bool
        Whether it has proved that nobody is left.
    """

    def __init__(self, run_id: str) -> None:
        self.certain = self.over = False
        self._wanted = f"{RUN_ID}={run_id}".encode()
        # by pid, until the kernel counts anew: then it may give a stranger's pid to anybody
        self._strangers = {os.getpid()}
        self._bare: set[Identity] = set()
        self._newest = 0

    def look(self) -> Iterator[Identity]:
        """Yield those who live now, each as soon as it is found: it may fork again."""
        newest = newest_pid()
        if newest < self._newest:
            self._strangers = {os.getpid()}
        self._newest = newest
        there = {int(name) for name in _listed() if name.isdigit()}
        # the list goes upwards, as new pids do: only one that began anew may have slipped past
        self.certain = self.over = newest_pid() >= newest
        # the newest first: it is the one who may be about to end
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
        """Kill the newest process there is, if it carries the id; return whom.

        For those who fork and end before a look has come to them: this takes less time
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
            # it goes through: the pid was its own all along, and so was what was read
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return Identity.of(pid)
        except OSError:
            return None
        finally:
            os.close(pidfd)

    def _carries(self, who: Identity) -> bool | None:
        """Whether a process carries the id; None: it does not tell yet, or never will.

        In either case it may have forked somebody who is not on our list.
        """
        if state_letter(who.pid) == "Z":
            self._strangers.add(who.pid)  # next time it is known; till it is reaped, nobody else is
            return None
        try:
            if not _ours(who.pid):
                return False
            environment = _environment(who.pid)
        except OSError:
            environment = []  # gone, dying, or not ours to look at
        program = program_of(who.pid)
        # the same process before and after the look: its pid was not reused in between
        if not who.alive:
            return None
        if environment:
            return self._wanted in environment
        if program is Program.NEVER or program is Program.BARE:
            return False
        if program is Program.HIDDEN and who in self._bare:
            return False  # twice: it was not about to become another program
        self._bare.add(who)
        return None


def _listed() -> list[str]:
    return os.listdir("/proc")  # noqa: PTH208 - plain names, all at once


def _ours(pid: int) -> bool:
    return Path(f"/proc/{pid}").stat().st_uid == os.getuid()


def _environment(pid: int) -> list[bytes]:
    """What a process was started with; empty: it shows none."""
    with Path(f"/proc/{pid}/environ").open("rb", buffering=0) as file:
        shown = file.read()
    return shown.split(b"\0") if shown else []
