"""Messages between front, warden, workers and whoever asks from outside.

A message is a frozen dataclass; on the wire it is one JSON object in one
packet of a ``SOCK_SEQPACKET`` socket, which the kernel delivers whole or not
at all. Nothing is unpickled: a packet that is too long, is not JSON, names no
known message or has a field of the wrong type is a :class:`ProtocolError`.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar, get_type_hints

from supervisor.errors import ProtocolError

MAX_PACKET_BYTES = 64 * 1024
MAX_TEXT = 4_000
MAX_FDS = 8


@dataclass(frozen=True)
class Message:
    """Root of all messages."""

    kind: ClassVar[str] = ""


# -- front → warden --------------------------------------------------------


@dataclass(frozen=True)
class StartRun(Message):
    """Begin the run described in ``run_dir/run.json``.

    Descriptors that travel with it, in this order: the front's pidfd, the
    flag, the board, the bars and, where ``has_function``, a dill of the callable.
    """

    kind: ClassVar[str] = "start_run"
    run_dir: str
    has_function: bool = False


@dataclass(frozen=True)
class RequestStop(Message):
    """End the run at ``level`` (1 drain, 2 stop, 3 kill)."""

    kind: ClassVar[str] = "request_stop"
    level: int
    reason: str = ""


@dataclass(frozen=True)
class AskStatus(Message):
    """Say how the run stands."""

    kind: ClassVar[str] = "ask_status"


@dataclass(frozen=True)
class DumpStacks(Message):
    """Have every worker write where it is to its log."""

    kind: ClassVar[str] = "dump_stacks"


# -- warden → front and outside --------------------------------------------


@dataclass(frozen=True)
class WardenBorn(Message):
    """Who the warden is, before it loads anything.

    Descriptors that travel with it: the warden's own pidfd, then those of
    processes that were spent on a containment that failed, for the front to reap.
    """

    kind: ClassVar[str] = "warden_born"
    containment: str


@dataclass(frozen=True)
class WardenReady(Message):
    """The warden has loaded its libraries and waits for a run."""

    kind: ClassVar[str] = "warden_ready"
    pid: int


@dataclass(frozen=True)
class RunStarted(Message):
    """Workers are being forked; ``ram_baseline_bytes`` was measured just before."""

    kind: ClassVar[str] = "run_started"
    containment: str
    ram_baseline_bytes: int


@dataclass(frozen=True)
class RunRefused(Message):
    """The run cannot start; ``usage`` says whether the user can mend it."""

    kind: ClassVar[str] = "run_refused"
    error: str
    usage: bool


@dataclass(frozen=True)
class WorkerLost(Message):
    """A worker died and was replaced, or not."""

    kind: ClassVar[str] = "worker_lost"
    serial: int
    pid: int
    why: str


@dataclass(frozen=True)
class CombinationFailed(Message):
    """Combination ``index`` was given up."""

    kind: ClassVar[str] = "combination_failed"
    index: int
    error: str


@dataclass(frozen=True)
class Finished(Message):
    """``finished`` combinations are done; sent as it grows, never oftener than needed."""

    kind: ClassVar[str] = "finished"
    finished: int


@dataclass(frozen=True)
class StopBegun(Message):
    """A stop has begun that the front may not have asked for itself."""

    kind: ClassVar[str] = "stop_begun"
    level: int
    reason: str
    requested_by: str


@dataclass(frozen=True)
class RungReached(Message):
    """One rung of the escalation, ``at_s`` seconds after the request."""

    kind: ClassVar[str] = "rung_reached"
    name: str
    at_s: float
    acted_on: int


@dataclass(frozen=True)
class RunEnded(Message):
    """No descendant is left, or ``survivors`` names what is."""

    kind: ClassVar[str] = "run_ended"
    outcome: str  # completed, stopped or failed
    reason: str
    elapsed_s: float
    survivors: list[str] = field(default_factory=list)
    usage: bool = False


@dataclass(frozen=True)
class Status(Message):
    """Answer to :class:`AskStatus`."""

    kind: ClassVar[str] = "status"
    run_id: str
    status: str
    done: int
    total: int
    workers: list[int]


# -- worker ↔ warden -------------------------------------------------------


@dataclass(frozen=True)
class Compute(Message):
    """Warden → worker: compute these combinations."""

    kind: ClassVar[str] = "compute"
    start: int
    stop: int


@dataclass(frozen=True)
class Computed(Message):
    """Worker → warden: everything of the chunk below ``until`` is in the journal."""

    kind: ClassVar[str] = "computed"
    until: int


@dataclass(frozen=True)
class WorkerReady(Message):
    """Worker → warden: ready for a chunk."""

    kind: ClassVar[str] = "worker_ready"


@dataclass(frozen=True)
class WorkerBroken(Message):
    """Worker → warden: cannot work at all; ``usage`` says whether the user can mend it."""

    kind: ClassVar[str] = "worker_broken"
    error: str
    usage: bool


_KINDS: dict[str, type[Message]] = {cls.kind: cls for cls in Message.__subclasses__()}
_HINTS = {cls: get_type_hints(cls) for cls in _KINDS.values()}

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """Turn a message into one packet."""
    packet = json.dumps({"kind": message.kind, **asdict(message)}).encode()
    if len(packet) > MAX_PACKET_BYTES:
        raise ProtocolError(f"{message.kind} message of {len(packet)} bytes is too long")
    return packet


def decode(packet: bytes) -> Message:
    """Turn a packet back into a message.

    Raises
    ------
    ProtocolError
        If it is over-long, malformed or has fields of the wrong type.
    """
    if len(packet) > MAX_PACKET_BYTES:
        raise ProtocolError("over-long packet")
    try:
        body = json.loads(packet)
    except (ValueError, RecursionError):
        raise ProtocolError("packet is not JSON") from None
    kind = body.pop("kind", None) if isinstance(body, dict) else None
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ProtocolError("packet names no known message")
    hints = _HINTS[cls]
    known = {f.name for f in fields(cls)}
    if not body.keys() <= known:
        raise ProtocolError(f"{cls.kind}: unknown field")
    for name, value in body.items():
        if not _fits(value, hints[name]):
            raise ProtocolError(f"{cls.kind}: field {name} has the wrong type")
    try:
        return cls(**body)
    except TypeError:
        raise ProtocolError(f"{cls.kind}: a field is missing") from None


def _fits(value: Any, hint: Any) -> bool:
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    item = hint.__args__[0]  # list[str] or list[int]: the only containers there are
    return isinstance(value, list) and all(_fits(v, item) for v in value)


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """Shorten a text that travels in a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def pair() -> tuple[socket.socket, socket.socket]:
    """Make two connected packet sockets; both ends are close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, fds: list[int] | None = None) -> bool:
    """Send without ever blocking.

    Returns
    -------
    bool
        False when the other side is gone or does not read: then the message
        is lost, which every receiver has to be able to bear.
    """
    try:
        # not socket.send_fds: before Python 3.13 it drops the flags
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([encode(message)], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """Receive one message and its descriptors; (None, []) means the other side is gone.

    Raises
    ------
    ProtocolError
        If it is not a message of ours; descriptors that came with it are closed.
    BlockingIOError, TimeoutError
        If there is none, on a socket that does not wait.
    """
    try:
        # not socket.recv_fds: before Python 3.13 it drops the flags
        packet, rights, flags, _ = sock.recvmsg(
            MAX_PACKET_BYTES + 1, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
        )
    except (ConnectionResetError, BrokenPipeError):
        return None, []
    fds = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not packet:
        _close_all(fds)
        return None, []
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ProtocolError("over-long packet, or too many descriptors")  # noqa: TRY301
        return decode(packet), list(fds)
    except ProtocolError:
        _close_all(fds)
        raise


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
