"""The way to a cluster whose commands are installed on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm.environment import plain_environment
from slurm.errors import CallTimedOutError, ProgramMissingError, TransportError
from slurm.transport import CALL_TIMEOUT_S, FILE_TIMEOUT_S, NO_VARIABLES, Answer


class LocalTransport:
    """Runs commands as subprocesses, each in a session of its own.

    So Ctrl+C at the terminal reaches the front, and not an ``sbatch`` that is waiting for
    the controller and would leave half a submission.

    Parameters
    ----------
    variables : mapping of str to str
        Environment variables for all commands, over those of this process.
    """

    name = "this machine"
    address = "local"

    def __init__(self, variables: Mapping[str, str] = NO_VARIABLES) -> None:
        self.variables = variables

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        variables: Mapping[str, str] = NO_VARIABLES,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Answer:
        """Run a command to its end; see :meth:`slurm.transport.Transport.run`."""
        environment = {**plain_environment(os.environ), **self.variables, **variables}
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError):
            raise ProgramMissingError(self.name, argv[0]) from None
        except OSError as error:  # no more processes, no memory
            raise TransportError(
                f"{self.name}: {argv[0]} could not be started ({error.strerror})",
                may_have_run=False,
            ) from None
        with process:
            try:
                out, err = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                _kill_session(process)
                raise CallTimedOutError(self.name, argv, timeout_s) from None
            except BaseException:
                _kill_session(process)
                raise
        return Answer.of(process.returncode, out, err)

    def put(
        self, path: str, data: bytes, mode: int = 0o600, *, timeout_s: float = FILE_TIMEOUT_S
    ) -> None:
        """Write a file atomically; see :meth:`slurm.transport.Transport.put`."""
        target = Path(path)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            with os.fdopen(
                os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def get(self, path: str, *, timeout_s: float = FILE_TIMEOUT_S) -> bytes:
        """Read a file; see :meth:`slurm.transport.Transport.get`."""
        return Path(path).read_bytes()

    def list(self, directory: str, *, timeout_s: float = FILE_TIMEOUT_S) -> tuple[str, ...]:
        """Name a directory's entries; see :meth:`slurm.transport.Transport.list`."""
        return tuple(sorted(entry.name for entry in Path(directory).iterdir()))

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    # it was not reaped, so its pid, and with it its group's, cannot have been reused
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
