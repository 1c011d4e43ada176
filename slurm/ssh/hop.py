"""One host on the way: reached, its key checked, logged in."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paramiko

from slurm.errors import LinkRefusedError, TransportError
from slurm.ssh.config import HostSettings
from slurm.ssh.deadline import Deadline
from slurm.ssh.login import KeyRing, Login, Prompt
from slurm.ssh.trust import HostTrust
from slurm.ssh.wire import ProxyProcess, Stream, Wire, dial

# paramiko's thread logs its tracebacks, and Python prints records that have no handler
_LOG = logging.getLogger("slurm.ssh.paramiko")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False

_END_S = 0.05


class Credentials(NamedTuple):
    """What is needed to log in, on every host of the way.

    Attributes
    ----------
    keys : KeyRing
        Keys that were unlocked before.
    prompt : callable or None
        Asks the user for a passphrase or a password.
    known_hosts : Path or None
        File with the host keys, instead of the configured ones.
    """

    keys: KeyRing
    prompt: Prompt | None
    known_hosts: Path | None


class _Part(Deadline):
    """A part of a call's time; while it is paused, so is the whole."""

    def __init__(self, seconds: float, whole: Deadline) -> None:
        super().__init__(min(seconds, whole.left_s))
        self._whole = whole

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        with super().paused(), self._whole.paused():
            yield


def hop(
    settings: HostSettings,
    through: Any,
    credentials: Credentials,
    *,
    limit_s: float,
    unheard_s: float,
    deadline: Deadline,
    holds: contextlib.ExitStack,
) -> Any:
    """Connect to one host and log in there; return paramiko's transport.

    Parameters
    ----------
    settings : HostSettings
        The host.
    through : paramiko.Transport or None
        The connection to the host before it.
    credentials : Credentials
        By which it is logged in.
    limit_s : float
        For each step, in s.
    unheard_s : float
        How long the kernel waits for an acknowledgement of what was sent, in s.
    deadline : Deadline
        For all hosts together.
    holds : ExitStack
        Is given what has to be closed with the connection.

    Raises
    ------
    LinkRefusedError, TransportError
        If the host refuses us, or is not reached in time.
    """
    where = f"ssh {settings.alias}"
    step = Deadline(min(limit_s, deadline.left_s))
    stream, complaint = _reach(where, settings, through, step, unheard_s, holds)
    wire = Wire(stream, stall_s=limit_s)
    holds.callback(wire.close)
    transport = paramiko.Transport(wire)
    holds.callback(_end, transport)
    transport.set_log_channel(_LOG.name)
    transport.banner_timeout = transport.handshake_timeout = step.left_s
    transport.clear_to_send_timeout = limit_s
    trust = HostTrust(settings, credentials.known_hosts, behind=through is not None)
    trust.prefer_known(transport)
    try:
        transport.start_client(timeout=step.left_s)
        key = transport.get_remote_server_key()
    except (paramiko.SSHException, EOFError, OSError) as error:
        in_time = not step.passed
        raise _no_handshake(where, settings, error, complaint(), in_time=in_time) from None
    trust.check(key)
    typing = _Part(limit_s, deadline)
    Login(
        transport,
        settings,
        keys=credentials.keys,
        prompt=credentials.prompt,
        deadline=typing,
    ).log_in()
    return transport


def _reach(
    where: str,
    settings: HostSettings,
    through: Any,
    deadline: Deadline,
    unheard_s: float,
    holds: contextlib.ExitStack,
) -> tuple[Stream, Callable[[], str]]:
    """Return a stream to a host, and a function that says why it does not work."""
    if through is not None:
        try:
            channel = through.open_channel(
                "direct-tcpip",
                (settings.hostname, settings.port),
                ("127.0.0.1", 0),
                timeout=deadline.left_s,
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise TransportError(
                f"{where}: not reached through the host before it: {error}",
                may_have_run=False,
            ) from None
        return channel, str
    if settings.proxy_command:
        process = ProxyProcess(where, settings.proxy_command)
        holds.callback(process.close)
        return process.stream, process.complaint
    return dial(where, settings.hostname, settings.port, deadline, unheard_s=unheard_s), str


def _end(transport: Any) -> None:
    """Close a connection, and leave no thread that would delay the end of the process."""
    transport.close()
    if transport.is_alive():
        transport.join(_END_S)
    # after a failed handshake paramiko leaves its timer running
    transport.packetizer.complete_handshake()


def _no_handshake(
    where: str, settings: HostSettings, error: Exception, complaint: str, *, in_time: bool
) -> LinkRefusedError | TransportError:
    if isinstance(error, paramiko.IncompatiblePeer):
        return LinkRefusedError(f"{where}: no common encryption: {error}")
    who = f"{settings.hostname} port {settings.port}"
    if complaint:
        return TransportError(f"{where}: its ProxyCommand failed: {complaint}", may_have_run=False)
    # paramiko's own time limit raises EOFError, too
    if in_time and (isinstance(error, EOFError) or "Errno" in str(error)):
        said = "closed the connection before the login"
    else:
        said = "accepted the connection, but no SSH server answered in time"
    return TransportError(f"{where}: {who} {said}", may_have_run=False)
