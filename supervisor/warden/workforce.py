"""Who does a run's work, and what it may ask of the run: the two sides of one seam.

The run (:mod:`supervisor.warden.run`) knows when to begin, when to end and how to
see it through; a workforce (:mod:`supervisor.warden.sweep`,
:mod:`supervisor.warden.command`) knows what the work is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from supervisor.containment import Containment
from supervisor.ipc import messages
from supervisor.ipc.stopflag import StopFlag
from supervisor.records.events import EventLog
from supervisor.warden.escalation import State


class Run(Protocol):
    """A run as its workforce sees it."""

    run_dir: Path
    flag: StopFlag
    events: EventLog
    containment: Containment

    @property
    def state(self) -> State:
        """Where the run is on its way out; work begins only while it is running."""
        ...

    def watch(self, fd: int | socket.socket, call: Callable[[], object]) -> None:
        """Have something called whenever a descriptor is readable."""
        ...

    def forget(self, fd: int | socket.socket) -> None:
        """Watch a descriptor no more; harmless when repeated."""
        ...

    def post(self, message: messages.Message) -> None:
        """Tell the front; never blocks."""
        ...

    def heed_flag(self) -> None:
        """Begin the stop that the flag asks for, should it reach us before the request does."""
        ...

    def check_done(self) -> None:
        """End the run if the work is done."""
        ...

    def fail(self, why: str, *, usage: bool = False) -> None:
        """End the run as failed; ``usage``: the user can mend it."""
        ...

    def leave(self) -> None:
        """In a forked child: drop every line of the run's, so that EOF means what it says."""
        ...


class Workforce(Protocol):
    """Those who do the work of one run: forked by it, told to end by it, and reaped by it."""

    def prepare(self) -> None:
        """Load what is needed; nobody is forked yet, and memory's baseline is still to come."""
        ...

    def start(self) -> None:
        """Fork whoever works."""
        ...

    @property
    def size(self) -> int:
        """How many processes of ours are at work."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether all the work is done."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand: where a drain ends."""
        ...

    @property
    def report_due(self) -> float | None:
        """``time.monotonic()`` instant at which the front wants to hear of progress, or None."""
        ...

    def report(self, *, force: bool = False) -> None:
        """Tell the front of progress, if there is any and it is due."""
        ...

    def ask_to_end(self) -> int:
        """The stop flag was just set: wake who does not look at it; return how many were told."""
        ...

    def outlived(self) -> None:
        """The work is done, the grace is over, and something lives: SIGTERM is about to follow."""
        ...

    def reaped(self, pid: int, status: int) -> None:
        """A child, ours or an orphan handed to us, has ended with this wait status."""
        ...

    def standing(self) -> messages.Status:
        """How far the work is; the run fills in its id and status."""
        ...

    def dump(self) -> None:
        """Have everybody write down where they are."""
        ...

    def close(self) -> None:
        """Let go of everything; nobody of ours lives any more, or can be ended."""
        ...
