"""Signals to the front's pid, turned into bytes on a socket.

A handler only enqueues; what a signal means is decided in the front's one
wait. Installed by the command line alone: a program that calls
:func:`supervisor.sweep` keeps its own handlers.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WATCHED = (*STOPPING, signal.SIGUSR1, signal.SIGQUIT)


class SignalQueue:
    """Collects the signals a front listens to, in the order they came.

    A context manager: leaving it restores the previous handlers.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._handlers: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in WATCHED:
            # SIGHUP ignored from outside (nohup) stays ignored
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._handlers[number] = signal.signal(number, _enqueued)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Readable while a signal waits."""
        return self._reader.fileno()

    def take(self) -> Iterator[signal.Signals]:
        """Yield the signals that have come since the last call."""
        with contextlib.suppress(BlockingIOError):
            while received := self._reader.recv(4096):
                for number in received:
                    if number in self._handlers:
                        yield signal.Signals(number)


def _enqueued(number: int, frame: object) -> None:
    """Do nothing: the interpreter has written the signal's number to the wakeup socket."""
