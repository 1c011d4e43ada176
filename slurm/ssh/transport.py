"""The cluster is reached over SSH."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slurm.errors import (
    CallTimedOutError,
    LinkRefusedError,
    ProgramMissingError,
    TransportError,
)
from slurm.ssh.config import Destination, route, settings_for
from slurm.ssh.deadline import Deadline
from slurm.ssh.remote_shell import Frame, Outcome
from slurm.ssh.wire import LinkLostError
from slurm.transport import CALL_TIMEOUT_S, FILE_TIMEOUT_S, NO_VARIABLES, Answer

if TYPE_CHECKING:
    # paramiko comes with these, and is loaded when a connection is made: it takes a while
    from slurm.ssh.link import Link
    from slurm.ssh.login import KeyRing

_PIECE = 32 << 10
_LOOK_AGAIN_S = 0.02


class SshTransport:
    """Runs commands on another host, all of them over one connection.

    The connection is made when it is needed and made again when it is lost, as long
    as the command at hand has not been sent: what may have run is never repeated here.

    Parameters
    ----------
    host : str
        What one would tell ``ssh``: ``cluster``, ``me@login.example.org:2222``.
    config : path, optional
        Instead of ``~/.ssh/config``.
    known_hosts : path, optional
        Instead of the files that the configuration names.
    prompt : callable, optional
        Is given a question and returns the passphrase or password a person types.
        Without it nobody is asked.
    keepalive_s : float
        How often the other side has to show that it lives, in s. After three times
        that without a sign the connection is lost. 0: it may be silent for ever.
    connect_timeout_s : float
        For each step of a connection, in s, where the configuration does not say.
    """

    def __init__(
        self,
        host: str,
        *,
        config: str | Path | None = None,
        known_hosts: str | Path | None = None,
        prompt: Callable[[str], str] | None = None,
        keepalive_s: float = 15.0,
        connect_timeout_s: float = 10.0,
    ) -> None:
        Destination.parse(host)  # what is none is said at once
        self.host = host.strip()
        self._config = None if config is None else Path(config).expanduser()
        self._known_hosts = None if known_hosts is None else Path(known_hosts).expanduser()
        self._prompt = prompt
        self._keepalive_s = keepalive_s
        self._connect_timeout_s = connect_timeout_s
        self._connecting = threading.Lock()  # held while a connection is made
        self._pointer = threading.Lock()  # guards the three below, never held for long
        self._link: Link | None = None
        self._keys: KeyRing | None = None
        self._closings = 0

    def __repr__(self) -> str:
        return f"SshTransport({self.host!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a connection cannot be pickled: hand over its address instead")

    @property
    def name(self) -> str:
        """The other side, for people."""
        return f"ssh {self.host}"

    @property
    def address(self) -> str:
        """The other side, for whoever has to find it again."""
        return f"ssh:{self.host}"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        variables: Mapping[str, str] = NO_VARIABLES,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Answer:
        """Run a command to its end; see :meth:`slurm.transport.Transport.run`."""
        frame = Frame(argv, variables)
        deadline = Deadline(timeout_s)
        with self._session(lambda channel: channel.exec_command(frame.command_line), deadline) as (
            link,
            channel,
        ):
            conversation = _Conversation(channel, frame.script + stdin)
            if not conversation.carry_on(deadline):
                # the command may be slow, or the link dead: the next one finds out soon
                link.suspect = True
                raise CallTimedOutError(self.name, argv, timeout_s)
            code = link.exit_code(channel)
        cut = frame.cut(bytes(conversation.stdout), bytes(conversation.stderr))
        if code is None:
            raise TransportError(
                f"{self.name}: the connection was lost while {argv[0]} ran", may_have_run=True
            )
        if cut.outcome is Outcome.MISSING:
            raise ProgramMissingError(self.name, argv[0])
        if cut.outcome is Outcome.NOT_READ:
            said = Answer.of(code, cut.stdout, cut.stderr).complaint
            raise LinkRefusedError(
                f"{self.name}: its login shell runs no commands (exit status {code}): "
                f"{said or 'without a word'}"
            )
        return Answer.of(code, cut.stdout, cut.stderr)

    def put(
        self, path: str, data: bytes, mode: int = 0o600, *, timeout_s: float = FILE_TIMEOUT_S
    ) -> None:
        """Write a file at once or not at all; see :meth:`slurm.transport.Transport.put`."""
        directory, name = posixpath.split(path)
        part = posixpath.join(directory, f".{name}.{secrets.token_hex(4)}.part")
        with self._files(path, timeout_s) as files:
            try:
                with files.open(part, "wx") as file:
                    file.chmod(mode)  # before there is anything in it to read
                    file.set_pipelined(True)
                    file.write(data)
                files.posix_rename(part, path)
            except BaseException:
                with contextlib.suppress(Exception):  # the link may be gone; its name tells it
                    files.remove(part)
                raise

    def get(self, path: str, *, timeout_s: float = FILE_TIMEOUT_S) -> bytes:
        """Read a file; see :meth:`slurm.transport.Transport.get`."""
        with self._files(path, timeout_s) as files, files.open(path, "rb") as file:
            file.prefetch()
            return bytes(file.read())

    def list(self, directory: str, *, timeout_s: float = FILE_TIMEOUT_S) -> tuple[str, ...]:
        """Name what is in a directory; see :meth:`slurm.transport.Transport.list`."""
        with self._files(directory, timeout_s) as files:
            return tuple(sorted(files.listdir(directory)))

    def close(self) -> None:
        """Close the connection and forget opened keys. What runs is lost sight of."""
        with self._pointer:
            link, self._link = self._link, None
            self._closings += 1
            if self._keys is not None:
                self._keys.clear()
        if link is not None:
            link.close()

    @contextlib.contextmanager
    def _session(
        self, start: Callable[[Any], None], deadline: Deadline
    ) -> Iterator[tuple[Link, Any]]:
        """Open a session, on a new connection if the one there is turns out to be dead."""
        with contextlib.ExitStack() as holds:
            try:
                found = self._open_session(holds, start, deadline)
            except LinkLostError:
                if deadline.passed:
                    raise TransportError(
                        f"{self.name}: the connection does not answer", may_have_run=False
                    ) from None
                try:
                    found = self._open_session(holds, start, deadline)
                except LinkLostError as error:
                    raise self._lost(error) from None
            yield found

    def _open_session(
        self, holds: contextlib.ExitStack, start: Callable[[Any], None], deadline: Deadline
    ) -> tuple[Link, Any]:
        link = self._connected(deadline)
        try:
            return link, holds.enter_context(link.session(start, deadline))
        except LinkLostError:
            self._drop(link)
            raise

    @contextlib.contextmanager
    def _files(self, path: str, timeout_s: float) -> Iterator[Any]:
        """Speak SFTP; turn what goes wrong into what it means."""
        deadline = Deadline(timeout_s)
        with self._session(lambda channel: channel.invoke_subsystem("sftp"), deadline) as (
            link,
            channel,
        ):
            import paramiko

            from slurm.ssh.link import Alarm

            alarm = Alarm(channel.close, deadline.left_s)
            try:
                with alarm:
                    yield paramiko.SFTPClient(channel)
            except (OSError, EOFError, paramiko.SSHException, paramiko.SFTPError) as error:
                if alarm.rang:
                    link.suspect = True
                    raise CallTimedOutError(self.name, ["sftp"], timeout_s) from None
                if channel.closed or isinstance(error, EOFError) or not link.alive:
                    raise TransportError(
                        f"{self.name}: the connection was lost at {path}", may_have_run=True
                    ) from None
                if isinstance(error, OSError):
                    # with a number it becomes a FileNotFoundError, a PermissionError …
                    said = error.strerror or str(error)
                    raise OSError(error.errno or errno.EIO, said, path) from None
                raise LinkRefusedError(
                    f"{self.name}: it does not speak SFTP ({error}): do its start-up files "
                    "print something when nobody is there to read it?"
                ) from None

    def _connected(self, deadline: Deadline) -> Link:
        """Return a connection that is not known to be dead."""
        if not self._connecting.acquire(timeout=deadline.left_s):
            raise TransportError(f"{self.name}: not connected in time", may_have_run=False)
        try:
            with self._pointer:
                link, closings = self._link, self._closings
            if link is not None and link.alive:
                return link
            if link is not None:
                self._drop(link)
            link = self._connect(deadline)
            with self._pointer:
                wanted = closings == self._closings
                self._link = link if wanted else None
            if not wanted:
                link.close()
                raise TransportError(f"{self.name}: closed meanwhile", may_have_run=False)
            return link
        finally:
            self._connecting.release()

    def _connect(self, deadline: Deadline) -> Link:
        try:
            from slurm.ssh.link import Link
            from slurm.ssh.login import KeyRing
        except ImportError as error:
            from supervisor.system.install import advice

            raise LinkRefusedError(
                f"{self.name}: SSH needs paramiko ({error}): {advice('slurm')}"
            ) from None
        if self._keys is None:
            self._keys = KeyRing()
        return Link(
            route(self.host, lambda destination: settings_for(destination, self._config)),
            keys=self._keys,
            prompt=self._prompt,
            known_hosts=self._known_hosts,
            keepalive_s=self._keepalive_s,
            connect_timeout_s=self._connect_timeout_s,
            deadline=deadline,
        )

    def _drop(self, link: Link) -> None:
        """Use a connection no more; what still runs on it may end."""
        with self._pointer:
            if self._link is link:
                self._link = None
        link.retire()

    def _lost(self, error: LinkLostError) -> TransportError | LinkRefusedError:
        if error.for_good:
            return LinkRefusedError(f"{self.name}: {error}")
        return TransportError(f"{self.name}: {error}", may_have_run=False)


class _Bell:
    """Rings when one of two streams has something; paramiko may not silence it."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def set(self) -> None:
        """Ring."""
        self._rung.set()

    def clear(self) -> None:
        """Stay as it is: that one stream has been read says nothing about the other."""

    def hush(self) -> None:
        """Be silent until something comes."""
        self._rung.clear()

    def wait(self, limit_s: float) -> None:
        """Wait until it rings."""
        self._rung.wait(limit_s)


class _Conversation:
    """Everything said in a session: both outputs are read while the input is written.

    Attributes
    ----------
    stdout, stderr : bytearray
        What has come so far.
    """

    def __init__(self, channel: Any, stdin: bytes) -> None:
        self._channel = channel
        self._unsent = memoryview(stdin)
        self._at_end = False
        self.stdout = bytearray()
        self.stderr = bytearray()

    def carry_on(self, deadline: Deadline) -> bool:
        """Return whether the other side ended it in time."""
        bell = _Bell()
        self._channel.in_buffer.set_event(bell)
        self._channel.in_stderr_buffer.set_event(bell)
        while True:
            bell.hush()
            closed = self._channel.closed  # looked at first: what came before it is there
            self._send()
            self._read()
            if closed:
                return True
            if deadline.passed:
                return False
            # nothing rings when there is room to send again
            bell.wait(min(deadline.left_s, _LOOK_AGAIN_S) if self._unsent else deadline.left_s)

    def _send(self) -> None:
        # a program that ends without reading its input is none the worse for it
        with contextlib.suppress(OSError, EOFError):
            while self._unsent and self._channel.send_ready() and not self._channel.closed:
                sent = self._channel.send(bytes(self._unsent[:_PIECE]))
                self._unsent = self._unsent[sent:]
            if not self._unsent and not self._at_end:
                self._at_end = True
                self._channel.shutdown_write()

    def _read(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # the receipt cannot be sent any more
            while self._channel.recv_ready():
                self.stdout += self._channel.recv(_PIECE)
            while self._channel.recv_stderr_ready():
                self.stderr += self._channel.recv_stderr(_PIECE)
