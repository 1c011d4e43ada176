"""Requests to a front from outside its loop: from other threads, and by signals."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from supervisor.front.signals import STOPPING, SignalQueue
from supervisor.ipc.stopflag import Level, StopFlag
from supervisor.records.plan import ALLOCATION


class Request(NamedTuple):
    """End the run at ``level``, because of ``reason``; ``by``: the origin of the request."""

    level: Level
    reason: str
    by: str


class Inbox:
    """Requests to end a run, and signals; each of them wakes the front's loop.

    Parameters
    ----------
    flag : StopFlag
        The run's stop flag, which a request sets at once.
    """

    def __init__(self, flag: StopFlag) -> None:
        self._flag = flag
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._requests: deque[Request] = deque()
        self._signals: SignalQueue | None = None
        self._stop_signalled = False

    def listen_to(self, signals: SignalQueue | None) -> None:
        """Receive signals, too: only the main thread of a command line has any."""
        self._signals = signals

    @property
    def fds(self) -> list[int]:
        """Readable when something has arrived."""
        return [self._wake, *([self._signals.fileno()] if self._signals else [])]

    def request(self, level: Level, reason: str, by: str) -> None:
        """Ask the run to end. From any thread; returns at once.

        The flag is set here and now: workers see it before the warden does.
        """
        # noted before the flag is set: its effects may reach the loop before we do
        self._requests.append(Request(level, reason, by))
        self._flag.request(min(level, Level.STOP))
        self.nudge()

    def nudge(self) -> None:
        """Have the loop look for news. From any thread."""
        with contextlib.suppress(OSError):  # the loop has ended: there is nothing to wake
            os.eventfd_write(self._wake, 1)

    def signals(self) -> Iterator[signal.Signals]:
        """Yield the signals that have arrived."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._signals:
            yield from self._signals.take()

    def requests(self) -> Iterator[Request]:
        """Yield the requests that have arrived."""
        while self._requests:
            yield self._requests.popleft()

    def request_by_signal(self, number: signal.Signals) -> None:
        """Ask the run to end because of a signal: the second that stops kills, as SIGQUIT does."""
        again = self._stop_signalled and not _is_echo(number)
        self._stop_signalled = True
        kill = number not in STOPPING or again
        self.request(Level.KILL if kill else Level.STOP, number.name, number.name)

    def close(self) -> None:
        """Close the descriptor; requests that arrive from now on are lost."""
        os.close(self._wake)


def _is_echo(number: signal.Signals) -> bool:
    """Whether a second SIGTERM may be a copy of the first, from SLURM and from the batch shell.

    It need not kill: the cluster does when its KillWait is over.
    """
    return number == signal.SIGTERM and ALLOCATION in os.environ
