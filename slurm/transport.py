"""The port through which SLURM's commands are run: here, or on another host.

A transport runs an argument list and returns the answer. It knows nothing of jobs. Its
two adapters are :mod:`slurm.local` and :mod:`slurm.ssh.transport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

CALL_TIMEOUT_S = 30.0
FILE_TIMEOUT_S = 120.0
LARGEST_FILE_BYTES = 2**32
"""A file that is larger, or that a server says to be, is not read."""
MOST_NAMES = 100_000
"""A directory in which there are, or a server says there are, more entries is not listed."""
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class Answer(NamedTuple):
    """A command's exit status and output.

    Attributes
    ----------
    code : int
        Exit status; negative: the signal that ended it.
    stdout, stderr : str
        Its output; bytes that are not UTF-8 are escaped.
    """

    code: int
    stdout: str
    stderr: str

    @classmethod
    def of(cls, code: int, stdout: bytes, stderr: bytes) -> Answer:
        """Decode an answer's bytes."""
        return cls(code, _text(stdout), _text(stderr))

    @property
    def complaint(self) -> str:
        """The line in which it said what was wrong; empty if there is none."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        lines = [line.strip() for line in lines if not line.startswith("Try ")] or lines
        return lines[-1].strip() if lines else ""


class Transport(Protocol):
    """Runs commands where the cluster is. Safe to use from several threads.

    Attributes
    ----------
    name : str
        The other side, for people: ``this machine``, ``ssh cluster``.
    address : str
        The other side, for :func:`slurm.connect`: ``local``, ``ssh:cluster``.
    """

    @property
    def name(self) -> str:
        """The other side, for people."""
        ...

    @property
    def address(self) -> str:
        """The other side, for :func:`slurm.connect.connect`."""
        ...

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        variables: Mapping[str, str] = NO_VARIABLES,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Answer:
        """Run a command to its end.

        Parameters
        ----------
        argv : sequence of str
            Program and arguments; no shell interprets them.
        stdin : bytes
            Its input.
        variables : mapping of str to str
            Environment variables to set for it.
        timeout_s : float
            For the whole call, in s, making a connection included.

        Raises
        ------
        TransportError
            If no answer came; says whether the command may have run.
        LinkRefusedError
            If the other side refuses us.
        ProgramMissingError
            If there is no such program there.
        """
        ...

    def put(
        self, path: str, data: bytes, mode: int = 0o600, *, timeout_s: float = FILE_TIMEOUT_S
    ) -> None:
        """Write a file atomically: a reader finds either the old file or the new one.

        Parameters
        ----------
        path : str
            Where; its directory must exist.
        data : bytes
            Its contents.
        mode : int
            Its permissions.
        timeout_s : float
            For the whole call, in s.

        Raises
        ------
        OSError
            If the file system refuses: FileNotFoundError, PermissionError and so on.
        TransportError, LinkRefusedError
            As for :meth:`run`; ``may_have_run`` means that it may have been written.
        """
        ...

    def get(self, path: str, *, timeout_s: float = FILE_TIMEOUT_S) -> bytes:
        """Return a file's contents; fails as :meth:`put` does."""
        ...

    def list(self, directory: str, *, timeout_s: float = FILE_TIMEOUT_S) -> tuple[str, ...]:
        """Return the names in a directory, sorted; fails as :meth:`put` does."""
        ...

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        ...


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="backslashreplace")
