"""What can go wrong, one class per decision a caller can take.

Facts travel as attributes, so a caller never has to parse a sentence. Every
error survives pickling: it is rebuilt from ``__dict__``, not from its message.
"""

from __future__ import annotations

from typing import Any

_MAX_BRIEF = 100


def brief(value: object) -> str:
    """Show a value on one line of a message, shortened where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= _MAX_BRIEF else f"{text[:_MAX_BRIEF]}…"


class AllstopError(Exception):
    """Root of everything this package raises on purpose.

    Attributes
    ----------
    transient : bool
        True when the same call may succeed if it is simply made again.
    """

    transient: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(
    kind: type[AllstopError], args: tuple[object, ...], facts: dict[str, object]
) -> AllstopError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class ConfigError(AllstopError):
    """The user asked for something that cannot be done as asked; exit code 2.

    Parameters
    ----------
    message : str
        One line that names the file, key or row, and the fix.
    key : str, optional
        The option or key at fault.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class DataError(ConfigError):
    """A data file cannot be used; names the file and, where there is one, the row.

    Parameters
    ----------
    message : str
        One line, without the file's name.
    path : str
        The file, or ``"data"`` for arrays handed in from Python.
    row : int, optional
        1-based row counted as an editor shows it, header included, for CSV;
        0-based row for Parquet and arrays.
    """

    def __init__(self, message: str, *, path: str, row: int | None = None) -> None:
        where = path if row is None else f"{path}, row {row}"
        super().__init__(f"{where}: {message}", key="data")
        self.path = path
        self.row = row


class UntrustedError(ConfigError):
    """A file or directory that another user owns or may write, or that is no plain file: not used.

    Parameters
    ----------
    message : str
        One line that names it, its owner and the fix.
    path : str
        The file or directory.
    owner : int, optional
        The id of the user that owns it.
    """

    def __init__(self, message: str, *, path: str = "", owner: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.owner = owner


class UnsupportedPlatformError(ConfigError):
    """The machine lacks something that allstop needs."""


class RunNotFoundError(ConfigError):
    """There is no run of that id, or in that directory."""


class RunBusyError(ConfigError):
    """Another process is running the run, or finishing it.

    Parameters
    ----------
    message : str
        One line.
    """

    transient = True


class RunFailedError(AllstopError):
    """The run could not continue; what was finished before is on disk.

    Parameters
    ----------
    message : str
        One line.
    run_dir : str, optional
        Where the finished results are.
    """

    def __init__(self, message: str, *, run_dir: str | None = None) -> None:
        super().__init__(message)
        self.run_dir = run_dir


class WardenLostError(RunFailedError):
    """The warden died; the kernel ended its workers with it."""


class DiskSilentError(RunFailedError):
    """The disk of the run's directory does not answer: another process writes its end later."""


class JournalError(AllstopError):
    """A file is not a journal of allstop's, or of a version that it cannot read.

    A torn tail is not an error: it is cut.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class DamagedJournalError(JournalError):
    """A journal's header is not what was written: the whole file is lost, and nothing else."""


class UserFunctionError(AllstopError):
    """A strategy function of the user's breaks its contract."""


class DeviceLostError(AllstopError):
    """A worker's GPU is absent, lost, or broken for this process; the worker ends.

    Backends raise it from ``start`` and ``evaluate``; a strategy function may raise it too:
    its combination is then computed again by another worker.

    Parameters
    ----------
    message : str
        One line.
    gone : bool
        Whether the device fails, so that this run does not use it again and the work goes on
        elsewhere. Otherwise only this process cannot use it any more, and a new worker does.
    """

    def __init__(self, message: str, *, gone: bool = True) -> None:
        super().__init__(message)
        self.gone = gone


class CheckpointError(AllstopError):
    """A checkpoint was asked for where there is no combination to keep it for, or of a state
    that cannot be pickled.
    """


class ProtocolError(AllstopError):
    """A message between two of our processes was malformed or over-long."""


class InternalError(AllstopError):
    """Our own fault: an invariant was broken. Please report it."""
