"""The interface between a run and its workforce.

The run (:mod:`supervisor.warden.run`) decides when to begin and when to end, and performs
the escalation; a workforce (:mod:`supervisor.warden.sweep`,
:mod:`supervisor.warden.command`) starts the processes that do the work.
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
        """State of the run; work begins only while it is running."""
        ...

    def watch(self, fd: int | socket.socket, call: Callable[[], object]) -> None:
        """Call a function whenever a descriptor is readable."""
        ...

    def forget(self, fd: int | socket.socket) -> None:
        """Stop watching a descriptor; harmless when repeated."""
        ...

    def post(self, message: messages.Message) -> None:
        """Send a message to the front; never blocks."""
        ...

    def heed_flag(self) -> None:
        """Begin the stop that the flag requests, should it arrive before the message does."""
        ...

    def check_done(self) -> None:
        """End the run if the work is done."""
        ...

    def fail(self, why: str, *, usage: bool = False) -> None:
        """End the run as failed; ``usage``: the user can fix it."""
        ...

    def leave(self) -> None:
        """In a forked child: close the run's files and sockets: EOF shows a peer's death."""
        ...


class Workforce(Protocol):
    """The processes that do the work of one run, which forks, stops and reaps them."""

    def prepare(self) -> None:
        """Load what is needed; before the first fork and the measurement of the baseline."""
        ...

    def start(self) -> None:
        """Fork the processes that do the work."""
        ...

    @property
    def size(self) -> int:
        """Number of its processes that are alive."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether all work is done."""
        ...

    @property
    def idle(self) -> bool:
        """Whether no work is in progress: then a drain ends."""
        ...

    @property
    def report_due(self) -> float | None:
        """``time.monotonic()`` instant at which the next progress message is due, or None."""
        ...

    def report(self, *, force: bool = False) -> None:
        """Send progress to the front, if there is any and it is due."""
        ...

    def ask_to_end(self) -> int:
        """The stop flag was just set: notify processes that do not poll it; return how many."""
        ...

    def outlived(self) -> None:
        """The grace period is over and processes are alive: SIGTERM is about to follow."""
        ...

    def reaped(self, pid: int, status: int) -> None:
        """A child, its own or an adopted orphan, has ended with this wait status."""
        ...

    def status(self) -> messages.Status:
        """Progress of the work; the run fills in its id and status."""
        ...

    def dump(self) -> None:
        """Ask every process to write its stack to its log."""
        ...

    def close(self) -> None:
        """Release everything; its processes are dead, or cannot be ended."""
        ...
