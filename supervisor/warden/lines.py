"""The warden's lifeline to the front it serves, and the descriptors that come with a run."""

from __future__ import annotations

import os
import socket
from collections import deque
from dataclasses import dataclass

from supervisor.errors import ProtocolError
from supervisor.ipc import messages
from supervisor.records.scribe_line import ScribeLine

_SEND_AGAIN_S = 0.1


class Outbox:
    """A queue of messages to a reader that may be slow, stopped or gone; never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[messages.Message] = deque()

    def post(self, message: messages.Message) -> None:
        """Send now, or later if the reader does not read; only the newest count is kept."""
        if isinstance(message, messages.Finished):
            self._queue = deque(m for m in self._queue if not isinstance(m, messages.Finished))
        self._queue.append(message)
        self.flush()

    def flush(self) -> bool:
        """Send as much as possible; True when the queue is empty."""
        while self._queue:
            if not messages.send(self._sock, self._queue[0]):
                return False
            self._queue.popleft()
        return True

    def patience(self, timeout: float | None) -> float | None:
        """Shorten a wait, in s, while messages are queued, so that sending is tried again."""
        if self.flush():
            return timeout
        return _SEND_AGAIN_S if timeout is None else min(timeout, _SEND_AGAIN_S)


@dataclass(frozen=True)
class Front:
    """The process that the warden serves: its lifeline, and a pidfd that shows its death.

    ``scribe``: the line to the process that writes facts for both of them; None: there is none.
    """

    sock: socket.socket
    pidfd: int
    outbox: Outbox
    scribe: ScribeLine | None = None

    def post(self, message: messages.Message) -> None:
        """Send a message; never blocks."""
        self.outbox.post(message)


@dataclass
class Descriptors:
    """Descriptors that come with :class:`~supervisor.ipc.messages.StartRun`."""

    flag: int
    table: int
    bars: int
    function: int | None = None

    @classmethod
    def of(cls, message: messages.StartRun, fds: list[int]) -> Descriptors:
        """Name the descriptors in the order they travel in."""
        if len(fds) != 3 + message.has_function:
            for fd in fds:
                os.close(fd)
            raise ProtocolError(f"StartRun came with {len(fds)} descriptors")
        return cls(*fds)
