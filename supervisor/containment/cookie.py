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

import contextlib
import ctypes
import os
from pathlib import Path

from supervisor.process import Identity

VARIABLE = "FULLSTOP_RUN_ID"
_ROOM_BYTES = 64
_EMPTY = "-" * _ROOM_BYTES

_libc = ctypes.CDLL(None)
_libc.getenv.restype = ctypes.c_void_p
_libc.getenv.argtypes = [ctypes.c_char_p]


def with_room(environment: dict[str, str]) -> dict[str, str]:
    """Add room for a run's id to the environment that a warden is started with."""
    return environment | {VARIABLE: _EMPTY}


class Cookie:
    """The room in this process's own environment. Make it before the variable is changed."""

    def __init__(self) -> None:
        self._address: int | None = None
        if os.environ.get(VARIABLE) == _EMPTY:
            self._address = _libc.getenv(VARIABLE.encode())

    def show(self, run_id: str) -> None:
        """Belong to a run: this process and all that are forked from it now."""
        os.environ[VARIABLE] = run_id
        self._write(run_id)

    def hide(self) -> None:
        """Belong to no run any more."""
        os.environ.pop(VARIABLE, None)
        self._write("")

    def _write(self, run_id: str) -> None:
        value = run_id.encode()
        if self._address is not None and len(value) <= _ROOM_BYTES:
            ctypes.memmove(self._address, value.ljust(_ROOM_BYTES, b"\0"), _ROOM_BYTES)


def escapees(run_id: str) -> list[Identity]:
    """Living processes of this user's that carry a run's id; this process is left out.

    The run must be dead: a living one's warden and workers carry it too.
    """
    wanted = f"{VARIABLE}={run_id}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone, or not ours to look at
            who = Identity.of(pid)
            with (entry / "environ").open("rb") as file:
                facts = os.fstat(file.fileno())
                carries = wanted in file.read().split(b"\0")
            # the same process before and after the look: its pid was not reused in between
            if carries and facts.st_uid == os.getuid() and who and who.alive:
                found.append(who)
    return found
