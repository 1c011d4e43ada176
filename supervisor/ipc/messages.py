"""Messages between front, warden, workers and control-socket clients.

A message is a named tuple (there are many, and a frozen dataclass takes a
millisecond to define); on the wire it is one JSON object in one packet of a
``SOCK_SEQPACKET`` socket, which the kernel delivers whole or not at all.
Nothing is unpickled: a packet that is too long, is not JSON, names no known
message or has a field of the wrong type is a :class:`ProtocolError`.
"""

from __future__ import annotations

import array
import functools
import json
import os
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args, get_type_hints

from supervisor.errors import ProtocolError

MAX_PACKET_BYTES = 64 * 1024
MAX_TEXT = 4_000
MAX_FDS = 8


# -- front → warden --------------------------------------------------------


class StartRun(NamedTuple):
    """Begin the run described in ``run_dir/run.json``.

    Descriptors that travel with it, in this order: the front's pidfd, the
    flag, the progress table, the bars and, where ``has_function``, a dill of the callable.
    """

    run_dir: str
    has_function: bool = False
    retry_failed: bool = False


class StartCommand(NamedTuple):
    """Begin the run described in ``run_dir/run.json``, which supervises a command.

    Descriptors that travel with it, in this order: the flag, the environment (as
    ``/proc/PID/environ`` has it), and one for each of ``streams``: those of the
    standard streams 0, 1 and 2 that are open.
    """

    run_dir: str
    streams: list[int]


class StartGuard(NamedTuple):
    """Finish a run whose work is done elsewhere, should the front die.

    The stop flag's descriptor travels with it.
    """

    run_dir: str


class RequestStop(NamedTuple):
    """End the run at ``level`` (1 drain, 2 stop, 3 kill); ``by``: the origin of the request."""

    level: int
    reason: str = ""
    by: str = ""


class AskStatus(NamedTuple):
    """Ask for the status of the run."""


class Rest(NamedTuple):
    """The run is over, and no other one follows: unload the libraries.

    Only the front's death remains to be watched, see :mod:`supervisor.warden.rest`.
    """

    run_dir: str


class DumpStacks(NamedTuple):
    """Ask every worker to write its stack to its log."""


# -- warden → front and outside --------------------------------------------


class WardenBorn(NamedTuple):
    """The warden introduces itself, before it loads anything.

    Descriptors that travel with it: the warden's own pidfd, then those of
    processes left by a containment that failed, for the front to reap.
    """

    containment: str


class WardenReady(NamedTuple):
    """The warden has loaded its libraries and waits for a run."""

    pid: int


class RunStarted(NamedTuple):
    """Workers are being forked; ``ram_baseline_bytes`` was measured just before."""

    containment: str
    ram_baseline_bytes: int


class RunRefused(NamedTuple):
    """The run cannot start; ``usage`` says whether the user can fix it."""

    error: str
    usage: bool


class WorkerLost(NamedTuple):
    """A worker died and was replaced, or not."""

    serial: int
    pid: int
    why: str


class DeviceReady(NamedTuple):
    """A worker is ready on its GPU, ``start_s`` seconds after its fork."""

    device: str
    start_s: float


class Remark(NamedTuple):
    """Something that the report mentions."""

    text: str


class CombinationFailed(NamedTuple):
    """A combination was recorded as failed."""

    combination: int
    error: str


class CommandEnded(NamedTuple):
    """The command has ended: its exit status, or minus the signal that killed it."""

    status: int


class LeftBehind(NamedTuple):
    """These processes outlived the command, and the time they had to end by themselves."""

    processes: list[str]


class Finished(NamedTuple):
    """``finished`` combinations are done; sent as it grows, never oftener than needed."""

    finished: int


class StopBegun(NamedTuple):
    """A stop has begun, which may have been requested by another process than the front."""

    level: int
    reason: str
    requested_by: str


class RungReached(NamedTuple):
    """One rung of the escalation, ``at_s`` seconds after the request."""

    name: str
    at_s: float
    acted_on: int


class RunEnded(NamedTuple):
    """The run has ended; ``survivors`` names the processes that are left."""

    outcome: str  # completed, stopped or failed
    reason: str
    elapsed_s: float
    survivors: list[str]
    usage: bool = False


class Status(NamedTuple):
    """Answer to :class:`AskStatus`."""

    run_id: str
    status: str
    done: int
    total: int
    workers: list[int]
    elapsed_s: float = 0.0


# -- worker ↔ warden -------------------------------------------------------


class Compute(NamedTuple):
    """Warden → worker: compute these combinations."""

    start: int
    stop: int


class Computed(NamedTuple):
    """Worker → warden: of the chunk from ``start`` on, all below ``until`` is in the journal."""

    start: int
    until: int


class WorkerReady(NamedTuple):
    """Worker → warden: ready for a chunk."""


class DeviceLost(NamedTuple):
    """Worker → warden → front: a GPU is absent, lost or broken; the worker ends.

    ``gone``: for every process, so it is not used again; otherwise for this one alone.
    """

    device: str
    error: str
    gone: bool = True


class DeviceFlagOpened(NamedTuple):
    """Worker → warden: how a stop reaches its kernels, and why not in a stronger way."""

    tier: str
    why: str


class WorkerBroken(NamedTuple):
    """Worker → warden: cannot work at all; ``usage`` says whether the user can fix it."""

    error: str
    usage: bool


Order = StartRun | StartCommand | StartGuard
"""What starts a run: each names the run's directory."""

Message = (
    StartRun
    | StartCommand
    | StartGuard
    | RequestStop
    | AskStatus
    | DumpStacks
    | Rest
    | WardenBorn
    | WardenReady
    | RunStarted
    | RunRefused
    | WorkerLost
    | DeviceReady
    | Remark
    | CombinationFailed
    | CommandEnded
    | LeftBehind
    | Finished
    | StopBegun
    | RungReached
    | RunEnded
    | Status
    | Compute
    | Computed
    | WorkerReady
    | DeviceLost
    | DeviceFlagOpened
    | WorkerBroken
)

_KINDS: dict[str, type[Message]] = {cls.__name__: cls for cls in get_args(Message)}


@functools.cache
def _hints(kind: str) -> dict[str, Any]:
    return get_type_hints(_KINDS[kind])


def encode(message: Message) -> bytes:
    """Turn a message into one packet."""
    kind = type(message).__name__
    packet = json.dumps({"kind": kind, **message._asdict()}).encode()
    if len(packet) > MAX_PACKET_BYTES:
        raise ProtocolError(f"{kind} message of {len(packet)} bytes is too long")
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
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ProtocolError("packet names no known message")
    hints = _hints(kind)
    if not body.keys() <= hints.keys():
        raise ProtocolError(f"{kind}: unknown field")
    for name, value in body.items():
        if not _fits(value, hints[name]):
            raise ProtocolError(f"{kind}: field {name} has the wrong type")
    try:
        return _KINDS[kind](**body)
    except TypeError:
        raise ProtocolError(f"{kind}: a field is missing") from None


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
        False when the other side is gone or does not read: then the message is lost,
        which every receiver must tolerate.
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
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(  # noqa: TRY301
                f"descriptors were lost: too many files are open (this shell allows "
                f"{os.sysconf('SC_OPEN_MAX')}: raise it with ulimit -n 1024)"
            )
        if flags & socket.MSG_TRUNC:
            raise ProtocolError("over-long packet")  # noqa: TRY301
        return decode(packet), list(fds)
    except ProtocolError:
        _close_all(fds)
        raise


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
