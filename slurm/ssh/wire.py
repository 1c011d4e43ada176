"""The bytes below an SSH connection: how it is reached, and how its silence is noticed."""

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
    """The link does not take a command any more; none was sent.

    Parameters
    ----------
    said : str
        What was seen.
    for_good : bool
        Whether it took the connection, and refuses commands on it.
    """

    def __init__(self, said: str, *, for_good: bool = False) -> None:
        super().__init__(said)
        self.for_good = for_good


class Stream(Protocol):
    """A socket, or a channel of the connection to the host in between."""

    def settimeout(self, seconds: float | None, /) -> None:
        """Set how long the calls below may take."""

    def recv(self, size: int, /) -> bytes:
        """Return what has come; nothing at the end."""

    def send(self, data: bytes, /) -> int:
        """Send some of it; return how much."""

    def close(self) -> None:
        """Give it up."""


class Wire:
    """A stream that gives up on a peer which has fallen silent.

    A link into a black hole looks alive for ever: nothing is refused, nothing ends.
    paramiko looks at its socket ten times a second, so the socket is where silence
    is noticed, whoever waits for whatever above it.

    Parameters
    ----------
    stream : Stream
        What the bytes go through.
    stall_s : float
        How long nothing may get out, in s. Whoever sends is held that long at most.

    Attributes
    ----------
    silence_s : float or None
        How long nothing may come in, in s. Only with a heartbeat that the other
        side has to answer does silence mean anything.
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
        # paramiko asks for it by this name when it stops its thread
        return self.closed

    def settimeout(self, seconds: float | None) -> None:
        """Set how long a call may take."""
        self._stream.settimeout(seconds)

    def recv(self, size: int) -> bytes:
        """Return what has come; raise if nothing has for too long."""
        try:
            data = self._stream.recv(size)
        except TimeoutError:
            self._check_silence()
            raise
        self._heard = self._looked = time.monotonic()
        return data

    def send(self, data: bytes) -> int:
        """Send some of it; raise if nothing has got out for too long."""
        try:
            sent = self._stream.send(data)
        except TimeoutError:
            self._check_stall()
            raise
        self._stalled_since = None
        return sent

    def close(self) -> None:
        """Give it up; wakes whoever waits for it."""
        self.closed = True
        if isinstance(self._stream, socket.socket):
            with contextlib.suppress(OSError):  # it may be gone already
                self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def listen_for(self, silence_s: float) -> None:
        """From now on something has to come at least this often."""
        self._heard = time.monotonic()
        self.silence_s = silence_s

    def _check_silence(self) -> None:
        now = time.monotonic()
        if now - self._looked > _ASLEEP_S:
            self._heard = now  # we were stopped ourselves, and have asked for nothing meanwhile
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
        # not ETIMEDOUT: that would be a TimeoutError, after which paramiko tries again
        self.close()
        return ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))


def bounded(call: Callable[[], T], limit_s: float) -> T:
    """Make a call that knows no time limit; raise TimeoutError if it takes longer than this.

    The thread it is made in may then outlive it: nothing can be done about
    a resolver or an agent that does not answer.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked
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
        Who is called, for the errors.
    host, port : str, int
        Where it is.
    deadline : Deadline
        For all of its addresses together.
    unheard_s : float
        How long the kernel waits for a receipt of what was sent, in s.

    Raises
    ------
    LinkRefusedError
        If there is no such host.
    TransportError
        If it is not reached, or not in time.
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
            # a command is a handful of small packets: none waits for the receipt of another
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
    """A ProxyCommand and our end of its conversation.

    paramiko has one too, which waits a tenth of a second for what has come, spins
    once the command is gone, and leaves pipes and a zombie behind.
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
        """The last line it has written on its error output, if any."""
        # pread: the command writes at the offset that a seek of ours would move
        said = os.pread(self._said.fileno(), 1 << 16, 0).decode(errors="replace").strip()
        return said.splitlines()[-1].strip() if said else ""

    def close(self) -> None:
        """Hang up, and wait for it to be gone."""
        self.stream.close()
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_PROXY_GRACE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._said.close()

    def _signal(self, number: signal.Signals) -> None:
        # poll() reaps: a pid that was waited for may be somebody else's by now
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


def _unreached(where: str, said: str) -> TransportError:
    return TransportError(f"{where}: not reached: {said}", may_have_run=False)
