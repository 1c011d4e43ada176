"""The cluster is reached from this very machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from slurm.errors import CallTimedOutError, ProgramMissingError, TransportError
from slurm.transport import CALL_TIMEOUT_S, NO_VARIABLES, Answer

# what a user, or the job we are in, has set for these commands would change their answers
_FOREIGN = ("SBATCH_", "SCANCEL_", "SQUEUE_", "SCONTROL_", "SACCT_", "SLURM_")
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER"}


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which SLURM's commands do what their arguments say."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not name.startswith(_FOREIGN)
    }
    return kept | {"LC_ALL": "C.UTF-8"}


class LocalTransport:
    """Runs commands as subprocesses, each in a session of its own.

    Ctrl+C at the terminal goes to the front, not to an ``sbatch`` that is
    waiting for the controller: half a submission is what nobody wants.

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
        return Answer(process.returncode, _text(out), _text(err))

    def close(self) -> None:
        """Nothing is held."""


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    # it has not been waited for, so its pid, and with it its group's, is still its own
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="backslashreplace")
