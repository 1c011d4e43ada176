"""What can go wrong between here and a cluster, one class per decision a caller can take."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.errors import AllstopError, ConfigError


class TransportError(AllstopError):
    """No answer came: the link was lost, could not be made, or was silent for too long.

    Parameters
    ----------
    message : str
        One line that names the other side and the mend.
    may_have_run : bool
        Whether the command may have been carried out all the same: a cancel is
        then repeated, a submission is looked for by its token.
    """

    transient = True

    def __init__(self, message: str, *, may_have_run: bool) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class CallTimedOutError(TransportError):
    """The other side did not answer in time; what was asked may yet take effect."""

    def __init__(self, where: str, argv: Sequence[str], timeout_s: float) -> None:
        super().__init__(
            f"{where}: {argv[0]} did not answer within {timeout_s:g} s", may_have_run=True
        )
        self.timeout_s = timeout_s


class LinkRefusedError(ConfigError):
    """The other side will not have us, however often we ask: host key, login, configuration."""


class ProgramMissingError(ConfigError):
    """A program of SLURM's is not there."""

    def __init__(self, where: str, program: str) -> None:
        super().__init__(
            f"{where}: no {program} on its PATH: install SLURM's client commands there, "
            "or name the host that has them"
        )
        self.program = program


class SlurmError(AllstopError):
    """A command of SLURM's answered with an error.

    Parameters
    ----------
    where : str
        Which cluster was asked.
    program : str
        The command.
    code : int
        Its exit status.
    said : str
        The line it explained itself with.
    transient : bool
        Whether the same call may succeed later: the controller or munge is away.
    """

    def __init__(self, where: str, program: str, code: int, said: str, *, transient: bool) -> None:
        super().__init__(f"{where}: {program} failed with {code}: {said or 'without a word'}")
        self.program = program
        self.code = code
        self.said = said
        self.transient = transient


class SubmitRefusedError(SlurmError, ConfigError):
    """SLURM will not take a job as it was described: partition, account, resources."""

    def __init__(self, where: str, program: str, code: int, said: str) -> None:
        super().__init__(where, program, code, said, transient=False)
        self.key = None


class SubmissionUnknownError(TransportError):
    """Nobody could say whether a job was made. A cancel of the run will look for it."""

    def __init__(self, where: str, said: str) -> None:
        super().__init__(
            f"{where}: it is not known whether the job was submitted ({said}); "
            "it is looked for again when the run's jobs are cancelled",
            may_have_run=True,
        )
