"""The input and both outputs of one remote command, read and written at the same time."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from slurm.ssh.deadline import Deadline

LARGEST_OUTPUT_BYTES = 2**28
_PIECE = 32 << 10
_LOOK_AGAIN_S = 0.02


class _Bell:
    """An event that is set when one of two streams has data; paramiko may not clear it."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def set(self) -> None:
        """Ring; called by paramiko."""
        self._rung.set()

    def clear(self) -> None:
        """Do nothing: paramiko calls it when one stream was read, and the other may have data."""

    def hush(self) -> None:
        """Be silent until something comes."""
        self._rung.clear()

    def wait(self, limit_s: float) -> None:
        """Wait until it rings."""
        self._rung.wait(limit_s)


class Conversation:
    """Writes a command's input while it reads its outputs, so that neither side blocks.

    Parameters
    ----------
    channel : paramiko.Channel
        The session.
    stdin : bytes
        The input.

    Attributes
    ----------
    stdout, stderr : bytearray
        The output so far.
    """

    def __init__(self, channel: Any, stdin: bytes) -> None:
        self._channel = channel
        self._unsent = memoryview(stdin)
        self._at_end = False
        self.stdout = bytearray()
        self.stderr = bytearray()

    @property
    def too_much(self) -> bool:
        """Whether the output is larger than that of any command of ours: it is not read on."""
        return len(self.stdout) + len(self.stderr) > LARGEST_OUTPUT_BYTES

    def run(self, deadline: Deadline) -> bool:
        """Return whether the other side closed the session before the deadline."""
        bell = _Bell()
        self._channel.in_buffer.set_event(bell)
        self._channel.in_stderr_buffer.set_event(bell)
        while True:
            bell.hush()
            closed = self._channel.closed  # read first: all that came before is in the buffers
            self._send()
            self._read()
            if closed or self.too_much:
                return True
            if deadline.passed:
                return False
            # nothing rings when there is room to send again
            bell.wait(min(deadline.left_s, _LOOK_AGAIN_S) if self._unsent else deadline.left_s)

    def _send(self) -> None:
        # a program may end without reading its input
        with contextlib.suppress(OSError, EOFError):
            while self._unsent and self._channel.send_ready() and not self._channel.closed:
                sent = self._channel.send(bytes(self._unsent[:_PIECE]))
                self._unsent = self._unsent[sent:]
            if not self._unsent and not self._at_end:
                self._at_end = True
                self._channel.shutdown_write()

    def _read(self) -> None:
        # reading sends a window update, which fails when the connection is gone
        with contextlib.suppress(OSError, EOFError):
            while self._channel.recv_ready() and not self.too_much:
                self.stdout += self._channel.recv(_PIECE)
            while self._channel.recv_stderr_ready() and not self.too_much:
                self.stderr += self._channel.recv_stderr(_PIECE)
