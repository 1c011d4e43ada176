"""Errors of cluster calls, one class per decision that a caller can take."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.errors import AllstopError, ConfigError


class TransportError(AllstopError):
    """No answer came: the connection failed, was lost, or was silent for too long.

    Parameters
    ----------
    message : str
        One line that names the other side and the fix.
    may_have_run : bool
        Whether the command may have run nevertheless. Then a cancel is repeated, and a
        submission is looked for by its token.
    """

    transient = True

    def __init__(self, message: str, *, may_have_run: bool) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class CallTimedOutError(TransportError):
    """The other side did not answer in time; the command may yet take effect."""

    def __init__(self, where: str, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__(
            f"{where}: {argv[0]} did not answer within {timeout_s:g} s", may_have_run=True
        )
        self.timeout_s = timeout_s


class LinkRefusedError(ConfigError):
    """The other side refuses us, and would again: host key, login or configuration."""


class ProgramMissingError(ConfigError):
    """One of SLURM's commands is not installed."""

    def __init__(self, where: str, program: str) -> None:
        super().__init__(
            f"{where}: no {program} on its PATH: install SLURM's client commands there, "
            "or name the host that has them"
        )
        self.program = program


class SlurmError(AllstopError):
    """One of SLURM's commands failed.

    Parameters
    ----------
    where : str
        The cluster.
    program : str
        The command.
    code : int
        Its exit status.
    said : str
        The line in which it said why.
    transient : bool
        Whether the same call may succeed later: the controller or munge does not answer.
    """

    def __init__(self, where: str, program: str, code: int, said: str, *, transient: bool) -> None:
        super().__init__(f"{where}: {program} failed with {code}: {said or 'no message'}")
        self.program = program
        self.code = code
        self.said = said
        self.transient = transient


class SubmitRefusedError(SlurmError, ConfigError):
    """SLURM refuses a job as it was described: partition, account, resources."""

    def __init__(self, where: str, program: str, code: int, said: str) -> None:
        super().__init__(where, program, code, said, transient=False)
        self.key = None


class SubmissionUnknownError(TransportError):
    """It is not known whether a job was made; a cancel of the run looks for it."""

    def __init__(self, where: str, said: str) -> None:
        super().__init__(
            f"{where}: it is not known whether the job was submitted ({said}); "
            "cancelling the run's jobs looks for it again",
            may_have_run=True,
        )
