"""The byte stream below an SSH connection: TCP or a ProxyCommand, and a watch for silence."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Protocol, TypeVar

from slurm.errors import LinkRefusedError, TransportError
from slurm.ssh.deadline import Deadline

T = TypeVar("T")

_NEVER_THERE = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_PROXY_GRACE_S = 1.0
_ASLEEP_S = 2.0  # paramiko looks every tenth of a second


class LinkLostError(Exception):
    """The connection takes no command any more; none was sent.

    Parameters
    ----------
    said : str
        What was observed.
    for_good : bool
        Whether a new connection would be no better: the server refuses sessions.
    """

    def __init__(self, said: str, *, for_good: bool = False) -> None:
        super().__init__(said)
        self.for_good = for_good


class Stream(Protocol):
    """A socket, or a channel of the connection to the host before."""

    def settimeout(self, seconds: float | None, /) -> None:
        """Set how long the calls below may take."""

    def recv(self, size: int, /) -> bytes:
        """Return received bytes; none at the end."""

    def send(self, data: bytes, /) -> int:
        """Send some of the bytes; return how many."""

    def close(self) -> None:
        """Close it."""


class Wire:
    """A stream that closes itself when its peer has been silent for too long.

    A connection whose packets are dropped looks alive for ever: nothing is refused and
    nothing ends. paramiko reads its socket ten times a second, so silence is noticed here,
    whichever call waits above.

    Parameters
    ----------
    stream : Stream
        The stream below.
    stall_s : float
        For how long nothing may get out, in s; a sender is blocked that long at most.

    Attributes
    ----------
    silence_s : float or None
        For how long nothing may come in, in s. It has a meaning only with a heartbeat that
        the other side has to answer. None: no limit.
    """

    def __init__(self, stream: Stream, *, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._stalled_since: float | None = None
        self._heard = self._looked = time.monotonic()
        self.silence_s: float | None = None
        self.closed = False

    @property
    def _closed(self) -> bool:
        # paramiko reads this name when it stops its thread
        return self.closed

    def settimeout(self, seconds: float | None) -> None:
        """Set how long a call may take."""
        self._stream.settimeout(seconds)

    def recv(self, size: int) -> bytes:
        """Return received bytes; raise if none has come for too long."""
        try:
            data = self._stream.recv(size)
        except TimeoutError:
            self._check_silence()
            raise
        self._heard = self._looked = time.monotonic()
        return data

    def send(self, data: bytes) -> int:
        """Send some of the bytes; raise if none has got out for too long."""
        try:
            sent = self._stream.send(data)
        except TimeoutError:
            self._check_stall()
            raise
        self._stalled_since = None
        return sent

    def close(self) -> None:
        """Close it; a call that waits for it returns."""
        self.closed = True
        if isinstance(self._stream, socket.socket):
            with contextlib.suppress(OSError):  # it may be closed already
                self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def limit_silence(self, silence_s: float) -> None:
        """Require that something comes at least this often from now on."""
        self._heard = time.monotonic()
        self.silence_s = silence_s

    def _check_silence(self) -> None:
        now = time.monotonic()
        if now - self._looked > _ASLEEP_S:
            self._heard = now  # this process was stopped, and has not read meanwhile
        self._looked = now
        if self.silence_s is not None and now - self._heard > self.silence_s:
            raise self._given_up()

    def _check_stall(self) -> None:
        now = time.monotonic()
        if self._stalled_since is None:
            self._stalled_since = now
        if now - self._stalled_since > self._stall_s:
            raise self._given_up()

    def _given_up(self) -> OSError:
        # not ETIMEDOUT: that would be a TimeoutError, after which paramiko reads again
        self.close()
        return ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))


def bounded(call: Callable[[], T], limit_s: float) -> T:
    """Make a call that has no time limit of its own; raise TimeoutError if it takes too long.

    Then the thread that makes the call lives on: a resolver or an agent that does not
    answer cannot be interrupted.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            answers.put((None, error))

    threading.Thread(target=ask, name="slurm-ssh-ask", daemon=True).start()
    try:
        value, error = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # without an error there is a value


def dial(
    where: str, host: str, port: int, deadline: Deadline, *, unheard_s: float
) -> socket.socket:
    """Connect over TCP.

    Parameters
    ----------
    where : str
        The host's alias, for error messages.
    host, port : str, int
        Name or address, and port.
    deadline : Deadline
        For all of its addresses together.
    unheard_s : float
        How long the kernel waits for an acknowledgement of what was sent, in s.

    Raises
    ------
    LinkRefusedError
        If there is no such host.
    TransportError
        If it cannot be reached, or not in time.
    """

    def resolve() -> list[tuple[int, tuple[object, ...]]]:
        return [(i[0], i[4]) for i in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

    try:
        addresses = bounded(resolve, deadline.left_s)
    except TimeoutError:
        raise _unreached(where, f"the name {host} was not resolved in time") from None
    except UnicodeError:
        raise LinkRefusedError(f"{where}: {host!r} is not a host name") from None
    except socket.gaierror as error:
        if error.errno in _NEVER_THERE:
            raise LinkRefusedError(f"{where}: there is no host {host}") from None
        raise _unreached(where, f"the name {host} is not resolved: {error.strerror}") from None
    said = "it has no address"
    for left, (family, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(max(0.01, deadline.left_s / left))
            line.connect(address)
            # a command is a handful of small packets: none should wait for an acknowledgement
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unheard_s * 1000))
        except TimeoutError:
            said = "no answer"
            line.close()
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            line.close()
        except BaseException:
            line.close()
            raise
        else:
            return line
    raise _unreached(where, f"{host} port {port}: {said}")


class ProxyProcess:
    """A ProxyCommand and our end of its input and output.

    paramiko has one, too, which adds a tenth of a second to each read, spins once the
    command has exited, and leaves pipes and a zombie behind.
    """

    def __init__(self, where: str, command: str) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.stream, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._said,
                start_new_session=True,
            )
        except OSError as error:
            self.stream.close()
            self._said.close()
            raise LinkRefusedError(f"{where}: /bin/sh: {error.strerror}") from None
        finally:
            theirs.close()

    def complaint(self) -> str:
        """The last line of its error output, or nothing."""
        # pread: a seek would move the offset at which the command writes
        said = os.pread(self._said.fileno(), 1 << 16, 0).decode(errors="replace").strip()
        return said.splitlines()[-1].strip() if said else ""

    def close(self) -> None:
        """Close the stream, end the command, and wait until it is gone."""
        self.stream.close()
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_PROXY_GRACE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._said.close()

    def _signal(self, number: signal.Signals) -> None:
        # poll() reaps: after that the pid may belong to another process
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def _unreached(where: str, said: str) -> TransportError:
    return TransportError(f"{where}: not reached: {said}", may_have_run=False)
