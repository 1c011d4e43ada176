"""The cluster is reached over SSH."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
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
from slurm.ssh.conversation import LARGEST_OUTPUT_BYTES, Conversation
from slurm.ssh.deadline import Deadline
from slurm.ssh.names import check_entry
from slurm.ssh.remote_shell import Frame, Outcome
from slurm.ssh.wire import LinkLostError
from slurm.transport import (
    CALL_TIMEOUT_S,
    FILE_TIMEOUT_S,
    LARGEST_FILE_BYTES,
    MOST_NAMES,
    NO_VARIABLES,
    Answer,
)

if TYPE_CHECKING:
    # these load paramiko, which takes a while: imported when a connection is made
    from slurm.ssh.link import Link
    from slurm.ssh.login import KeyRing


class SshTransport:
    """Runs commands on another host, all of them over one connection.

    The connection is made when it is needed, and made again when it is lost, unless the
    command was sent already: a command that may have run is never repeated here.

    Parameters
    ----------
    host : str
        As for ``ssh``: ``cluster``, ``me@login.example.org:2222``.
    config : path, optional
        Instead of ``~/.ssh/config``.
    known_hosts : path, optional
        Instead of the files that the configuration names.
    prompt : callable, optional
        Is given a question and returns the passphrase or password that the user types.
        Without it no questions are asked.
    keepalive_s : float
        How often the server has to show that it is alive, in s. The connection counts as
        lost after three times that without a sign. 0: it may be silent for ever.
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
        Destination.parse(host)  # an invalid one is refused at once
        self.host = host.strip()
        self._config = None if config is None else Path(config).expanduser()
        self._known_hosts = None if known_hosts is None else Path(known_hosts).expanduser()
        self._prompt = prompt
        self._keepalive_s = keepalive_s
        self._connect_timeout_s = connect_timeout_s
        self._connecting = threading.Lock()  # held while a connection is made
        self._pointer = threading.Lock()  # guards the three below; never held during a call
        self._link: Link | None = None
        self._keys: KeyRing | None = None
        self._closings = 0

    def __repr__(self) -> str:
        return f"SshTransport({self.host!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a connection cannot be pickled: pass its address instead")

    @property
    def name(self) -> str:
        """The other side, for people."""
        return f"ssh {self.host}"

    @property
    def address(self) -> str:
        """The other side, for :func:`slurm.connect.connect`."""
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
            conversation = Conversation(channel, frame.script + stdin)
            if not conversation.run(deadline):
                # the command may be slow, or the connection dead: the next one finds out soon
                link.suspect = True
                raise CallTimedOutError(self.name, argv, timeout_s)
            if conversation.too_much:
                raise LinkRefusedError(
                    f"{self.name}: {argv[0]} prints more than {LARGEST_OUTPUT_BYTES // 2**20} MiB"
                )
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
                f"{said or 'no message'}"
            )
        return Answer.of(code, cut.stdout, cut.stderr)

    def put(
        self, path: str, data: bytes, mode: int = 0o600, *, timeout_s: float = FILE_TIMEOUT_S
    ) -> None:
        """Write a file atomically; see :meth:`slurm.transport.Transport.put`."""
        directory, name = posixpath.split(path)
        part = posixpath.join(directory, f".{name}.{secrets.token_hex(4)}.part")
        with self._files(path, timeout_s) as files:
            try:
                with files.open(part, "wx") as file:
                    file.chmod(mode)  # while it is empty
                    file.set_pipelined(True)
                    file.write(data)
                files.posix_rename(part, path)
            except BaseException:
                with contextlib.suppress(
                    Exception
                ):  # the connection may be lost; its name marks it as a partial file
                    files.remove(part)
                raise

    def get(self, path: str, *, timeout_s: float = FILE_TIMEOUT_S) -> bytes:
        """Read a file; see :meth:`slurm.transport.Transport.get`."""
        with self._files(path, timeout_s) as files, files.open(path, "rb") as file:
            # asking ahead costs memory for each block of the size that the server says
            size = file.stat().st_size or 0
            if size > LARGEST_FILE_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            file.prefetch(size)
            return bytes(file.read(size))

    def list(self, directory: str, *, timeout_s: float = FILE_TIMEOUT_S) -> tuple[str, ...]:
        """Name a directory's entries; see :meth:`slurm.transport.Transport.list`."""
        with self._files(directory, timeout_s) as files:
            found = itertools.islice(files.listdir_iter(directory), MOST_NAMES + 1)
            names = sorted(str(entry.filename) for entry in found)
        if len(names) > MOST_NAMES:
            raise LinkRefusedError(f"{self.name}: {directory} has more than {MOST_NAMES:,} entries")
        for name in names:
            check_entry(self.name, directory, name)
        return tuple(names)

    def close(self) -> None:
        """Close the connection and forget unlocked keys; running commands are not waited for."""
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
        """Open a session, on a new connection if the present one turns out to be dead."""
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
        """Open an SFTP session, and translate its errors into those of the port."""
        deadline = Deadline(timeout_s)
        with self._session(lambda channel: channel.invoke_subsystem("sftp"), deadline) as (
            link,
            channel,
        ):
            import paramiko

            from slurm.ssh.alarm import Alarm

            alarm = Alarm(channel.close, deadline.left_s)
            try:
                with alarm:
                    yield paramiko.SFTPClient(channel)
            except UnicodeDecodeError:
                raise LinkRefusedError(
                    f"{self.name}: {path} has names that are not UTF-8"
                ) from None
            except (OSError, EOFError, paramiko.SSHException, paramiko.SFTPError) as error:
                if alarm.rang:
                    link.suspect = True
                    raise CallTimedOutError(self.name, ["sftp"], timeout_s) from None
                if channel.closed or isinstance(error, EOFError) or not link.alive:
                    raise TransportError(
                        f"{self.name}: the connection was lost at {path}", may_have_run=True
                    ) from None
                if isinstance(error, OSError):
                    # with its number it becomes FileNotFoundError, PermissionError and so on
                    said = error.strerror or str(error)
                    raise OSError(error.errno or errno.EIO, said, path) from None
                raise LinkRefusedError(
                    f"{self.name}: SFTP does not work ({error}): do the shell's start-up files "
                    "there print something in sessions that are not interactive?"
                ) from None

    def _connected(self, deadline: Deadline) -> Link:
        """Return the connection; make one if there is none or it is known to be dead."""
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
            from slurm.ssh.hop import Credentials
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
            Credentials(self._keys, self._prompt, self._known_hosts),
            keepalive_s=self._keepalive_s,
            connect_timeout_s=self._connect_timeout_s,
            deadline=deadline,
        )

    def _drop(self, link: Link) -> None:
        """Use a connection no more; commands that still run on it may end."""
        with self._pointer:
            if self._link is link:
                self._link = None
        link.retire()

    def _lost(self, error: LinkLostError) -> TransportError | LinkRefusedError:
        if error.for_good:
            return LinkRefusedError(f"{self.name}: {error}")
        return TransportError(f"{self.name}: {error}", may_have_run=False)
