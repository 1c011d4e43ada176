"""The program that writes the facts of a run, so that neither front nor warden waits for a disk.

A process that writes to a file system that is frozen, or whose server is gone, cannot be
interrupted, and not even SIGKILL ends it. A stop must wait for neither. So front and warden
send what is to be written to this process, which has nothing else to do, and which no process
waits for without bound.

``python -I -S scribe.py PIDFD FRONT WARDEN``: a pidfd of the front, and a packet socket to each
of the two. It ends when both have hung up and all is written. Run by its path, with almost
nothing imported; the other end is :mod:`supervisor.records.scribe_line`, which documents the
packets.
"""

import contextlib
import os
import select
import signal
import stat
import sys

_PACKET_BYTES = 2**20
_SAFELY = os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Line:
    """One of the two senders, and the file that its packets go to."""

    def __init__(self, sock: int) -> None:
        self.sock, self.file = sock, -1
        self.done = self.failed = 0
        self.torn = False
        os.set_blocking(sock, False)

    def packets(self) -> list[tuple[bytes, "Line", bytes]] | None:
        """Return what has arrived, each with its time; None: the sender has hung up."""
        found: list[tuple[bytes, Line, bytes]] = []
        while True:
            try:
                packet = os.read(self.sock, _PACKET_BYTES)
            except BlockingIOError:
                return found
            except OSError:
                packet = b""  # it died before it had read every answer
            if not packet:
                return found or None
            sent_at, _, order = packet.partition(b" ")
            found.append((sent_at, self, order))

    def obey(self, order: bytes) -> None:
        """Do what a packet asks for."""
        kind, data = order[:1], order[1:]
        try:
            if kind in (b"o", b"n"):
                self._open(data, os.O_CREAT if kind == b"o" else 0)
            elif kind == b"w":
                self._write(data)
            elif kind == b"a":
                path, _, data = data.partition(b"\0")
                _append_durably(path, data)
            else:
                os.utime(self.file)
        except OSError:
            self.failed += 1
        self.done += 1

    def answer(self) -> None:
        """Say how much is done: once for all that had arrived, or answers would fill the line."""
        with contextlib.suppress(OSError):  # it is dead
            os.write(self.sock, b"%d %d" % (self.done, self.failed))

    def _write(self, data: bytes) -> None:
        data = b"\n" * self.torn + data
        self.torn = True  # a disk that is full takes half a line: the next one must not join it
        while data:
            data = data[os.write(self.file, data) :]
        self.torn = False

    def _open(self, path: bytes, create: int) -> None:
        self.close()
        fd = os.open(path, os.O_RDWR | _SAFELY | create, 0o600)
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            os.close(fd)  # a pipe in its place would take the facts away
            raise OSError
        self.file, self.torn = fd, False
        if facts.st_size and os.pread(fd, 1, facts.st_size - 1) != b"\n":
            os.write(fd, b"\n")  # a power loss has torn the last line

    def close(self) -> None:
        """Close the file."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _append_durably(path: bytes, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | _SAFELY)
    try:
        if os.write(fd, data) != len(data):
            raise OSError  # the disk is full: readers skip half a line
        os.fsync(fd)
    finally:
        os.close(fd)


def main() -> None:
    """Write until both senders have hung up."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a cluster sends it to every process of a job
    with (
        contextlib.suppress(OSError),  # only ps and top miss it
        open("/proc/self/comm", "w") as name,  # noqa: PTH123 - pathlib is not imported
    ):
        name.write("allstop-scribe")
    front, *socks = map(int, sys.argv[1:])
    lines = {sock: Line(sock) for sock in socks}
    first = socks[0]
    waiting = select.poll()
    for fd in (front, *socks):
        waiting.register(fd, select.POLLIN)
    while lines:
        ready = {fd for fd, _ in waiting.poll()}
        ended = {first} & lines.keys() if front in ready else set()
        orders = []
        for sock in list(lines):  # all of them: those that have waited longest come first
            arrived = lines[sock].packets()
            if arrived is None:
                ended.add(sock)
            else:
                orders += arrived
        for _, line, order in sorted(orders, key=lambda one: one[0]):
            line.obey(order)
        for line in {line for _, line, _ in orders}:
            line.answer()
        for sock in ended if not orders else ():  # what it sent last is read first
            waiting.unregister(sock)
            lines.pop(sock).close()
            os.close(sock)
        if front in ready and first not in lines:
            waiting.unregister(front)
            front = -1
    os._exit(0)  # an orderly end of the interpreter would only take longer


if __name__ == "__main__":
    main()
