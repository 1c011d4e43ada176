"""One SSH connection, hosts in between included, and the sessions on it."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko

from slurm.errors import LinkRefusedError, TransportError
from slurm.ssh.config import HostSettings
from slurm.ssh.deadline import Deadline
from slurm.ssh.host_keys import KnownHosts, Verdict, fingerprint, names_of
from slurm.ssh.login import KeyRing, Login, Prompt
from slurm.ssh.wire import LinkLostError, ProxyProcess, Stream, Wire, dial

# paramiko's thread logs its tracebacks, and Python prints what nobody has a handler for
_LOG = logging.getLogger("slurm.ssh.paramiko")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False

_SESSIONS = 10  # sshd's MaxSessions by default
_LOOK_AGAIN_S = 0.05
_REFUSED_FOR_S = 1.0  # sshd frees the place of a session a moment after its end
_SUSPECT_LIMIT_S = 3.0
_MISSED_BEATS = 3
_RSA_NAMES = ("rsa-sha2-512", "rsa-sha2-256")
_CHANNEL_REQUEST = 98  # RFC 4254, section 9


class Link:
    """A connection to the last of several hosts, each reached through the one before it.

    Parameters
    ----------
    hosts : sequence of HostSettings
        The way there.
    keys : KeyRing
        Keys opened before.
    prompt : callable or None
        Asks a person for what is needed.
    known_hosts : Path or None
        File with the host keys, instead of the ones that are configured.
    keepalive_s : float
        How often the other side has to show that it lives, in s; 0: never.
    connect_timeout_s : float
        For each step of the connection, in s.
    deadline : Deadline
        For all of it.
    """

    def __init__(
        self,
        hosts: Sequence[HostSettings],
        *,
        keys: KeyRing,
        prompt: Prompt | None,
        known_hosts: Path | None,
        keepalive_s: float,
        connect_timeout_s: float,
        deadline: Deadline,
    ) -> None:
        self._name = f"ssh {hosts[-1].alias}"
        self._keys = keys
        self._prompt = prompt
        self._known_hosts = known_hosts
        self._keepalive_s = keepalive_s
        self._limit_s = connect_timeout_s
        self._signals: dict[int, int] = {}
        self._places = threading.Condition()
        self._taken = 0
        self._retired = False
        self.suspect = False
        with contextlib.ExitStack() as holds:
            transport: Any = None
            for settings in hosts:
                limit_s = settings.connect_timeout_s or connect_timeout_s
                transport = self._hop(settings, transport, limit_s, deadline, holds)
            self._transport = transport
            if keepalive_s > 0:
                transport.sock.listen_for(_MISSED_BEATS * keepalive_s)
                threading.Thread(
                    target=_keep_alive,
                    args=(transport, keepalive_s),
                    name="slurm-ssh-heartbeat",
                    daemon=True,
                ).start()
            self._holds = holds.pop_all()

    @property
    def alive(self) -> bool:
        """Whether it is not known to be gone."""
        return not self._retired and bool(self._transport.is_active())

    @contextlib.contextmanager
    def session(self, start: Callable[[Any], None], deadline: Deadline) -> Iterator[Any]:
        """Open a session, and close it at the end.

        Parameters
        ----------
        start : callable
            Asks for what the session is for; must be harmless to repeat.
        deadline : Deadline
            For opening it.

        Raises
        ------
        LinkLostError
            If the link is gone, or takes no session any more.
        TransportError
            If all sessions are taken for too long.
        """
        self._take_place(deadline)
        try:
            channel = self._open(start, deadline)
            try:
                yield channel
            finally:
                self._signals.pop(channel.chanid, None)
                # the last words to a link that is gone are lost, too
                with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                    channel.close()
        finally:
            self._give_place_back()

    def exit_code(self, channel: Any) -> int | None:
        """Return what a program ended with, negative for a signal; None: it was not told.

        The status may come before the last of the output, so it counts only with the
        end of that.
        """
        if not channel.eof_received:
            return None
        if channel.chanid in self._signals:
            return -self._signals[channel.chanid]
        return None if channel.exit_status == -1 else int(channel.exit_status)

    def retire(self) -> None:
        """Give no more sessions; close when the last one is."""
        with self._places:
            self._retired = True
            idle = self._taken == 0
        if idle:
            self.close()

    def close(self) -> None:
        """Close it, and what is below it, with all sessions."""
        self._holds.close()

    def _open(self, start: Callable[[Any], None], deadline: Deadline) -> Any:
        alone_since: float | None = None
        while True:
            limit_s = min(deadline.left_s, _SUSPECT_LIMIT_S if self.suspect else self._limit_s)
            try:
                channel = self._ask(start, limit_s)
            except paramiko.SSHException as error:
                refusal = str(error).rstrip(".")
            else:
                self.suspect = False
                return channel
            with self._places:
                # others on this connection may have filled it up: a place gets free again. The
                # last of them may have ended since we were refused, however long that was: only
                # from then on is it the server who will not
                now = time.monotonic()
                if self._taken > 1:
                    alone_since = None
                elif alone_since is None:
                    alone_since = now
                elif now - alone_since > _REFUSED_FOR_S:
                    said = f"it lets us in, but opens no session ({refusal})"
                    raise LinkLostError(said, for_good=True)
                self._places.wait(_LOOK_AGAIN_S)

    def _ask(self, start: Callable[[Any], None], limit_s: float) -> Any:
        """Ask for a session once; an SSHException is the answer no."""
        asked = time.monotonic()
        channel: Any = None
        try:
            channel = self._transport.open_session(timeout=limit_s)
            with Alarm(channel.close, limit_s):
                start(channel)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not self._transport.is_active():
                raise LinkLostError("the connection is lost") from None
            if time.monotonic() - asked >= limit_s:
                raise LinkLostError(f"no answer for {limit_s:.0f} s") from None
            if channel is not None:
                channel.close()
            if isinstance(error, paramiko.SSHException):
                raise
            raise paramiko.SSHException(str(error)) from None
        return channel

    def _take_place(self, deadline: Deadline) -> None:
        with self._places:
            if not self._places.wait_for(
                lambda: self._taken < _SESSIONS or self._retired, deadline.left_s
            ):
                raise TransportError(
                    f"{self._name}: all {_SESSIONS} sessions of the connection are taken",
                    may_have_run=False,
                )
            if self._retired:
                raise LinkLostError("the connection is given up")
            self._taken += 1

    def _give_place_back(self) -> None:
        with self._places:
            self._taken -= 1
            self._places.notify_all()
            last = self._retired and self._taken == 0
        if last:
            self.close()

    def _hop(
        self,
        settings: HostSettings,
        through: Any,
        limit_s: float,
        total: Deadline,
        holds: contextlib.ExitStack,
    ) -> Any:
        """Connect to one host and log in there."""
        where = f"ssh {settings.alias}"
        deadline = Deadline(min(limit_s, total.left_s))
        stream, complaint = self._stream(where, settings, through, deadline, holds)
        wire = Wire(stream, stall_s=limit_s)
        holds.callback(wire.close)
        transport = paramiko.Transport(wire)
        holds.callback(_end, transport)
        transport.set_log_channel(_LOG.name)
        transport.banner_timeout = transport.handshake_timeout = deadline.left_s
        transport.clear_to_send_timeout = limit_s
        if hasattr(transport, "_channel_handler_table"):
            transport._channel_handler_table = {
                **transport._channel_handler_table,
                _CHANNEL_REQUEST: self._hear_request,
            }
        known = self._known(where, settings)
        names = names_of(settings.hostname, settings.port, settings.host_key_alias)
        _ask_for(transport, known.kinds(names))
        try:
            transport.start_client(timeout=deadline.left_s)
            key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _no_handshake(
                where, settings, error, complaint(), in_time=not deadline.passed
            ) from None
        _check_host_key(where, settings, known, key, self._known_hosts, through is not None)
        typing = _Shared(limit_s, total)
        Login(transport, settings, keys=self._keys, prompt=self._prompt, deadline=typing).log_in()
        return transport

    def _stream(
        self,
        where: str,
        settings: HostSettings,
        through: Any,
        deadline: Deadline,
        holds: contextlib.ExitStack,
    ) -> tuple[Stream, Callable[[], str]]:
        """Reach a host; return the stream, and who can say why it does not work."""
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
        unheard_s = max(self._limit_s, _MISSED_BEATS * self._keepalive_s)
        line = dial(where, settings.hostname, settings.port, deadline, unheard_s=unheard_s)
        return line, str

    def _known(self, where: str, settings: HostSettings) -> KnownHosts:
        files = (self._known_hosts,) if self._known_hosts else settings.known_hosts
        try:
            return KnownHosts(files)
        except OSError as error:
            raise LinkRefusedError(f"{where}: {error.filename}: {error.strerror}") from None

    def _hear_request(self, channel: Any, message: Any) -> None:
        """Note the signal a program was ended by, which paramiko does not listen to."""
        request = paramiko.Message(message.get_remainder())
        if request.get_text() == "exit-signal":
            request.get_boolean()
            name = f"SIG{request.get_text()}"
            if name in signal.Signals.__members__:
                self._signals[channel.chanid] = signal.Signals[name]
        paramiko.Channel._handle_request(channel, message)


class Alarm:
    """Does something when a stretch of code takes too long.

    For calls of paramiko's that know no time limit: closing their channel ends them.
    """

    def __init__(self, act: Callable[[], object], limit_s: float) -> None:
        self._act = act
        self.rang = False
        self._timer = threading.Timer(limit_s, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> Alarm:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._act()


class _Shared(Deadline):
    """A part of a call's time; when it stands still, so does the whole."""

    def __init__(self, seconds: float, whole: Deadline) -> None:
        super().__init__(min(seconds, whole.left_s))
        self._whole = whole

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        with super().standing_still(), self._whole.standing_still():
            yield


def _keep_alive(transport: Any, interval_s: float) -> None:
    """Ask for a sign of life now and then; what does not come is missed by the wire."""
    while transport.is_active():
        transport.join(interval_s)
        try:
            # answered with "no such request", which is all that is wanted
            transport.global_request("keepalive@openssh.com", wait=True)
        except (paramiko.SSHException, EOFError, OSError):
            transport.sock.close()


def _end(transport: Any) -> None:
    """Close a connection, and leave no thread that would hold up the end of the process."""
    transport.close()
    if transport.is_alive():
        transport.join(_LOOK_AGAIN_S)
    # of a handshake that came to nothing, paramiko leaves its timer running
    transport.packetizer.complete_handshake()


def _ask_for(transport: Any, kinds: Sequence[str]) -> None:
    """Have the server show a key of a kind that is known, if it has one."""
    names = [n for kind in kinds for n in (_RSA_NAMES if kind == "ssh-rsa" else (kind,))]
    options = transport.get_security_options()
    rest = options.key_types
    options.key_types = (
        *(name for name in names if name in rest),
        *(name for name in rest if name not in names),
    )


def _check_host_key(
    where: str,
    settings: HostSettings,
    known: KnownHosts,
    key: Any,
    own_file: Path | None,
    behind: bool,
) -> None:
    """Refuse a host that is not known to be the one that is meant."""
    names = names_of(settings.hostname, settings.port, settings.host_key_alias)
    kind, blob = key.get_name(), key.asbytes()
    shown = f"{kind} {fingerprint(blob)}"
    finding = known.look_up(names, kind, blob)
    if finding.verdict is Verdict.REVOKED:
        raise LinkRefusedError(
            f"{where}: THE HOST KEY IS REVOKED ({finding.line}): {shown} must not be trusted"
        )
    if finding.verdict is Verdict.CHANGED:
        file = finding.line.rpartition(", line ")[0]
        raise LinkRefusedError(
            f"{where}: THE HOST KEY HAS CHANGED: it now shows {shown}, and {finding.line} has "
            "another one. Somebody may be listening in. Ask who runs the host; if the new key "
            f"is theirs: ssh-keygen -R '{names[0]}' -f {file}"
        )
    if finding.verdict is Verdict.UNKNOWN:
        raise LinkRefusedError(
            _how_to_trust(where, settings, known, names, shown, own_file, behind)
        )


def _how_to_trust(
    where: str,
    settings: HostSettings,
    known: KnownHosts,
    names: Sequence[str],
    shown: str,
    own_file: Path | None,
    behind: bool,
) -> str:
    file = own_file or next(iter(settings.known_hosts), Path("~/.ssh/known_hosts"))
    scan = f"ssh-keyscan -p {settings.port} {settings.hostname} >> {_short(file)}"
    if behind or settings.proxy_command or settings.host_key_alias:
        scan = f"ssh {settings.alias}"  # not to be reached from here, or under another name
    vouched = " (a @cert-authority line is not enough here)" if known.has_authority(names) else ""
    return (
        f"{where}: the host key of {names[0]} is not known{vouched}. It is {shown}: if that is "
        f"what who runs the host says, then: {scan}"
    )


def _short(file: Path) -> str:
    with contextlib.suppress(ValueError):
        return f"~/{file.relative_to(Path.home())}"
    return str(file)


def _no_handshake(
    where: str, settings: HostSettings, error: Exception, complaint: str, *, in_time: bool
) -> LinkRefusedError | TransportError:
    if isinstance(error, paramiko.IncompatiblePeer):
        return LinkRefusedError(f"{where}: no encryption in common: {error}")
    who = f"{settings.hostname} port {settings.port}"
    if complaint:
        return TransportError(f"{where}: its ProxyCommand said: {complaint}", may_have_run=False)
    # paramiko ends its own time limit with an EOFError as well
    if in_time and (isinstance(error, EOFError) or "Errno" in str(error)):
        said = "hung up before the login"
    else:
        said = "took the connection, but no SSH server answered in time"
    return TransportError(f"{where}: {who} {said}", may_have_run=False)
