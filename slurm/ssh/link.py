"""One SSH connection, hosts in between included, and the sessions on it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import paramiko

from slurm.errors import TransportError
from slurm.ssh.alarm import Alarm
from slurm.ssh.config import HostSettings
from slurm.ssh.deadline import Deadline
from slurm.ssh.hop import Credentials, hop
from slurm.ssh.wire import LinkLostError

_SESSIONS = 10  # sshd's MaxSessions by default
_LOOK_AGAIN_S = 0.05
_REFUSED_FOR_S = 1.0  # sshd frees the slot of a session a moment after its end
_SUSPECT_LIMIT_S = 3.0
_MISSED_BEATS = 3
_CHANNEL_REQUEST = 98  # RFC 4254, section 9


class Link:
    """A connection to the last of several hosts, each reached through the one before it.

    Parameters
    ----------
    hosts : sequence of HostSettings
        The way there.
    credentials : Credentials
        By which each host is logged in.
    keepalive_s : float
        How often the server has to show that it is alive, in s; 0: never.
    connect_timeout_s : float
        For each step of the connection, in s, where a host's settings do not say.
    deadline : Deadline
        For all steps together.

    Attributes
    ----------
    suspect : bool
        A command has not answered in time: the next session waits less for its answer, so
        that a dead connection is noticed soon.
    """

    def __init__(
        self,
        hosts: Sequence[HostSettings],
        credentials: Credentials,
        *,
        keepalive_s: float,
        connect_timeout_s: float,
        deadline: Deadline,
    ) -> None:
        self._name = f"ssh {hosts[-1].alias}"
        self._limit_s = connect_timeout_s
        self._signals: dict[int, int] = {}
        self._slots = threading.Condition()  # guards the two below
        self._taken = 0
        self._retired = False
        self.suspect = False
        with contextlib.ExitStack() as holds:
            transport: Any = None
            for settings in hosts:
                transport = hop(
                    settings,
                    transport,
                    credentials,
                    limit_s=settings.connect_timeout_s or connect_timeout_s,
                    unheard_s=max(connect_timeout_s, _MISSED_BEATS * keepalive_s),
                    deadline=deadline,
                    holds=holds,
                )
            self._transport = transport
            self._note_exit_signals()
            if keepalive_s > 0:
                transport.sock.limit_silence(_MISSED_BEATS * keepalive_s)
                threading.Thread(
                    target=_keep_alive,
                    args=(transport, keepalive_s),
                    name="slurm-ssh-heartbeat",
                    daemon=True,
                ).start()
            self._holds = holds.pop_all()

    @property
    def alive(self) -> bool:
        """Whether it takes sessions, as far as is known."""
        return not self._retired and bool(self._transport.is_active())

    @contextlib.contextmanager
    def session(self, start: Callable[[Any], None], deadline: Deadline) -> Iterator[Any]:
        """Open a session, and close it at the end.

        Parameters
        ----------
        start : callable
            Requests what the session is for (a command, SFTP); must be harmless to repeat.
        deadline : Deadline
            For opening it.

        Raises
        ------
        LinkLostError
            If the connection is lost, or takes no more sessions.
        TransportError
            If no session becomes free in time.
        """
        self._take_slot(deadline)
        try:
            channel = self._open(start, deadline)
            try:
                yield channel
            finally:
                self._signals.pop(channel.chanid, None)
                # closing needs the connection, which may be lost
                with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                    channel.close()
        finally:
            self._free_slot()

    def exit_code(self, channel: Any) -> int | None:
        """Return a program's exit status, negative for a signal; None: it was not sent.

        The status may come before the last of the output, so it counts only once the
        output has ended.
        """
        if not channel.eof_received:
            return None
        if channel.chanid in self._signals:
            return -self._signals[channel.chanid]
        return None if channel.exit_status == -1 else int(channel.exit_status)

    def retire(self) -> None:
        """Take no more sessions; close the connection when the last one is closed."""
        with self._slots:
            self._retired = True
            idle = self._taken == 0
        if idle:
            self.close()

    def close(self) -> None:
        """Close the connection, those it goes through, and all sessions."""
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
            with self._slots:
                # other sessions of this connection may use up the server's limit: one will end.
                # The last of them may have ended since the refusal, however long that took: only
                # a refusal after that means that the server opens no session at all
                now = time.monotonic()
                if self._taken > 1:
                    alone_since = None
                elif alone_since is None:
                    alone_since = now
                elif now - alone_since > _REFUSED_FOR_S:
                    said = f"the login worked, but the server opens no session ({refusal})"
                    raise LinkLostError(said, for_good=True)
                self._slots.wait(_LOOK_AGAIN_S)

    def _ask(self, start: Callable[[Any], None], limit_s: float) -> Any:
        """Ask for a session once; an SSHException is a refusal."""
        asked = time.monotonic()
        channel: Any = None
        try:
            channel = self._transport.open_session(timeout=limit_s)
            with Alarm(channel.close, limit_s):
                start(channel)
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not self._transport.is_active():
                raise LinkLostError("the connection was lost") from None
            if time.monotonic() - asked >= limit_s:
                raise LinkLostError(f"no answer for {limit_s:.0f} s") from None
            if channel is not None:
                channel.close()
            if isinstance(error, paramiko.SSHException):
                raise
            raise paramiko.SSHException(str(error)) from None
        return channel

    def _take_slot(self, deadline: Deadline) -> None:
        with self._slots:
            if not self._slots.wait_for(
                lambda: self._taken < _SESSIONS or self._retired, deadline.left_s
            ):
                raise TransportError(
                    f"{self._name}: all {_SESSIONS} sessions of the connection are in use",
                    may_have_run=False,
                )
            if self._retired:
                raise LinkLostError("the connection was closed")
            self._taken += 1

    def _free_slot(self) -> None:
        with self._slots:
            self._taken -= 1
            self._slots.notify_all()
            last = self._retired and self._taken == 0
        if last:
            self.close()

    def _note_exit_signals(self) -> None:
        """Have paramiko call :meth:`_on_request`: it ignores the signal that ended a program."""
        table = getattr(self._transport, "_channel_handler_table", None)
        if table is not None:
            self._transport._channel_handler_table = {**table, _CHANNEL_REQUEST: self._on_request}

    def _on_request(self, channel: Any, message: Any) -> None:
        request = paramiko.Message(message.get_remainder())
        if request.get_text() == "exit-signal":
            request.get_boolean()
            name = f"SIG{request.get_text()}"
            if name in signal.Signals.__members__:
                self._signals[channel.chanid] = signal.Signals[name]
        paramiko.Channel._handle_request(channel, message)


def _keep_alive(transport: Any, interval_s: float) -> None:
    """Ask for a sign of life now and then; the wire notices when none comes."""
    while transport.is_active():
        transport.join(interval_s)
        try:
            # any answer will do; this one is "no such request"
            transport.global_request("keepalive@openssh.com", wait=True)
        except (paramiko.SSHException, EOFError, OSError):
            transport.sock.close()
