"""The line to a run's scribe, which writes its facts (:mod:`supervisor.records.scribe`).

A packet is the time at which it was sent (20 digits, ns of ``CLOCK_MONOTONIC``), a blank, and

=====  ==========================================================
``o``  path: open this file for what follows; create it if needed
``n``  path: the same, for an existing file only
``w``  bytes: append them
``a``  path, a zero byte, bytes: append them to that file, and sync it
``p``  nothing: touch the file, to see whether its disk answers
=====  ==========================================================

The answer to all that has arrived is a packet with two counts: orders done so far, and how many
of them failed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 0.1
"""How long a sender waits for the disk, once: until it answers again nothing waits for it."""

PROGRAM = Path(__file__).with_name("scribe.py")
_ANSWER_BYTES = 64
_BUFFER_BYTES = 2**20


class ScribeLine:
    """A sender's end. Thread-safe; no call takes longer than its patience.

    Parameters
    ----------
    sock : socket.socket
        Packet socket to the scribe; this object owns it from now on.

    Attributes
    ----------
    lost : bool
        The scribe is dead: whoever has something to write writes it itself.
    failed : int
        Orders that the disk refused.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._sock = sock
        self._sent = self._done = self.failed = 0
        self.lost = self._late = self._closed = False
        self._waits_since = 0.0
        self._unanswered: deque[bytes] = deque()
        self._turn = threading.Lock()

    def fileno(self) -> int:
        """Return the socket's descriptor; at its EOF all that was sent is written."""
        return self._sock.fileno()

    @property
    def late(self) -> bool:
        """Whether the disk does not answer: a wait was in vain, and not all is answered since."""
        if self._late and not (self.lost or self._closed):
            with self._one_at_a_time():
                self._await(0.0)
        return self._late

    def open(self, path: Path, *, create: bool = True) -> bool:
        """Have what follows go to this file; does not wait."""
        return self._order((b"o" if create else b"n") + os.fsencode(path), wait=False)

    def write(self, data: bytes, *, wait: bool = True) -> bool:
        """Append to the file; False: the scribe has not taken it, or is dead.

        Returns when it is written, or when the disk has not answered for a while; at once if it
        is not to ``wait``.
        """
        return self._order(b"w" + data, wait=wait)

    def append_durably(self, path: Path, data: bytes, patience_s: float) -> bool:
        """Append to another file; whether that is on the disk, within a time in s.

        What is not in time is written later, if the disk answers again.
        """
        if self.lost or self._closed:
            return False
        with self._one_at_a_time():
            failed = self.failed
            if not self._send(b"a" + os.fsencode(path) + b"\0" + data):
                return False
            self._await(0.0 if self._late else patience_s)
            return self._done >= self._sent and self.failed == failed

    def unwritten(self) -> list[bytes]:
        """Take what a scribe that is dead may not have written."""
        taken = [order[1:] for order in self._unanswered if order[:1] == b"w"]
        self._unanswered.clear()
        return taken

    def answers(self, patience_s: float) -> bool:
        """Whether all that was sent is written, and the disk answers, within a time in s."""
        if self.lost or self._closed:
            return not self._late
        with self._one_at_a_time():
            if self._done >= self._sent or not self._late:
                self._send(b"p")
            self._await(patience_s)
            return not self._late

    @property
    def silent_s(self) -> float:
        """How long nothing has been answered of what was sent, in s; 0: all is."""
        return time.monotonic() - self._waits_since if self._done < self._sent else 0.0

    def hang_up(self) -> None:
        """Send nothing any more; the answers can still be read.

        Copies of the socket in other processes hang up with it.
        """
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this process's copy of the socket."""
        self._closed = True
        self._sock.close()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        # never without bound: Ctrl+C in a notebook may have left it taken
        taken = self._turn.acquire(timeout=2 * PATIENCE_S)
        try:
            yield
        finally:
            if taken:
                self._turn.release()

    def _order(self, order: bytes, *, wait: bool = True) -> bool:
        if self.lost or self._closed:
            return False
        with self._one_at_a_time():
            return self._send(order) and self._await(PATIENCE_S if wait and not self._late else 0.0)

    def _send(self, order: bytes) -> bool:
        try:
            self._sock.send(b"%020d " % time.monotonic_ns() + order)
        except BlockingIOError:
            return False  # the disk has not answered for so long that no more is queued
        except OSError as error:
            self.lost = error.errno != errno.EMSGSIZE
            if self.lost:
                self._unanswered.append(order)
            return False
        if self._done >= self._sent:
            self._waits_since = time.monotonic()
        self._sent += 1
        self._unanswered.append(order)
        return True

    def _await(self, patience_s: float) -> bool:
        """Take in the answers; wait for the last one for a bounded time. False: it is dead."""
        deadline = time.monotonic() + patience_s
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        while lives := self._hear():
            left = deadline - time.monotonic()
            self._late = self._done < self._sent and (self._late or (left <= 0 < patience_s))
            if self._done >= self._sent or left <= 0:
                break
            waiting.poll(max(1.0, 1000 * left))
        return lives

    def _hear(self) -> bool:
        """Read the answers that have arrived; False: the scribe is dead."""
        while True:
            try:
                answer = self._sock.recv(_ANSWER_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                answer = b""
            if not answer:
                self.lost = True
                return False
            done, _, failed = answer.partition(b" ")
            self._done, self.failed = int(done), int(failed)
            self._waits_since = time.monotonic()
            while len(self._unanswered) > self._sent - self._done:
                self._unanswered.popleft()


def await_written(fd: int) -> None:
    """Wait until a scribe has written everything; for a process that nothing waits for.

    Parameters
    ----------
    fd : int
        The socket of a :class:`ScribeLine` that has hung up; it is closed.
    """
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    with contextlib.suppress(OSError):
        while waiting.poll() and os.read(fd, _ANSWER_BYTES):
            pass
    os.close(fd)
