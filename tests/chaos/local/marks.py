"""Finding a round's processes by marks that they cannot shed: see ``workload``."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

from supervisor.system.environment import RUN_ID
from supervisor.system.process import Identity, command_name, state_letter
from tests.chaos.local.workload import FIFO, MARK
from tests.support.cli import Place
from tests.support.processes import COOKIE


class Found(NamedTuple):
    """A living process of a round's.

    Attributes
    ----------
    command : str
        Its arguments.
    bare : bool
        Whether its environment lacks what ``reap`` looks for.
    """

    who: Identity
    command: str
    bare: bool

    def __str__(self) -> str:
        return (
            f"pid {self.who.pid} ({command_name(self.who.pid)}, state "
            f"{state_letter(self.who.pid)}, {self.command}{', bare' * self.bare})"
        )


class Marks:
    """The marks of one round: made before any process is started."""

    def __init__(self, place: Place) -> None:
        self._token = place.token.encode()
        self._mark = str(place.root / MARK).encode()
        (place.root / MARK).write_bytes(bytes(4096))
        os.mkfifo(place.root / FIFO)
        self._since = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) - 2
        self._fifo = os.open(place.root / FIFO, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fifo)

    def held(self) -> bool:
        """Whether a process has the FIFO's other end: the kernel knows, no list is needed."""
        try:
            return os.read(self._fifo, 1) != b""
        except BlockingIOError:
            return True

    def found(self) -> list[Found]:
        """Living processes that bear a mark."""
        entries = Path("/proc").glob("[0-9]*")
        looks = (self._look(entry) for entry in entries if int(entry.name) != os.getpid())
        return [found for found in looks if found]

    def ours(self, pid: int) -> Identity | None:
        """A process that bears a mark, safe to be signalled."""
        found = self._look(Path(f"/proc/{pid}"))
        return found.who if found else None

    def _look(self, entry: Path) -> Found | None:
        who = Identity.of(int(entry.name))
        if who is None or who.start_time < self._since:
            return None  # it is older than the round
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes().split(b"\0")
            bears = (
                f"{COOKIE}=".encode() + self._token in environment
                or self._token in command
                or self._mark in (entry / "maps").read_bytes()
            )
            # looked at twice: the pid was not reused in between
            if bears and who.alive:
                bare = not any(word.startswith(f"{RUN_ID}=".encode()) for word in environment)
                return Found(who, command.replace(b"\0", b" ").decode(errors="replace"), bare)
        return None
