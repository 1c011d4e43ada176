"""``python -m supervisor`` and ``allstop``."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

_ONE_THREAD = "OPENBLAS_NUM_THREADS"


def main() -> None:
    """Start the warden if there will be a run, and load the command line meanwhile.

    The warden takes a third of a second to load numba; the command line and
    the data take about as long, on another core.

    An installation that PyPI's ``supervisor`` has overwritten cannot import
    itself. Then one line says so, and ``doctor`` runs the part of itself that needs only
    the standard library.
    """
    # until the run handles signals, Ctrl+C simply ends this process: nothing was started yet
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    closed = _hold_streams()
    arguments, command = _split(sys.argv[1:])
    gc.disable()  # importing makes many objects and no garbage; a run enables it again
    try:
        from supervisor.system import inherited_signals, limits, printable  # noqa: F401 - below

        inherited_signals.settle()
        printable.make_encodable(sys.stdout, sys.stderr)
        helping = "--help" in arguments or "-h" in arguments
        if sys.platform == "linux" and arguments[:1] == ["run"] and not helping:
            from supervisor.front.launch import Launch

            likely = _likely(arguments, "strategy") if command is None else None
            if likely == "" and "--grid" not in arguments:
                likely = "sma_cross"
            launch = Launch(
                likely,
                _option(arguments, "--containment") or "auto",
                _likely(arguments, "device") or "auto",
            )
            from supervisor.front.link import WardenLink, keep_warden

            keep_warden(WardenLink(launch))
        if command is not None:
            # the command has the environment of our caller, not this one
            os.environ[_ONE_THREAD] = "1"
        with _one_thread() if command is None else nullcontext():
            from supervisor.cli.main import main as run_command_line
    except ImportError as error:
        sys.exit(_first_aid(arguments, error))
    except (MemoryError, OSError, RuntimeError) as error:
        sys.exit(_beyond_limit(error))
    run_command_line(arguments, command, closed)


def _hold_streams() -> frozenset[int]:
    """Open standard streams that are closed on ``/dev/null``, and return which were closed.

    Otherwise the next file to be opened would get the number of one, and be used as it.
    """
    closed = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            closed.append(fd)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    return frozenset(closed)


def _split(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """Divide ``run … -- CMD ARG…`` at its first ``--``; what follows is the command's, verbatim."""
    if arguments[:1] != ["run"] or "--" not in arguments:
        return arguments, None
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep NumPy's linear algebra, which is not used here, from starting a thread per core.

    They spin for 0.1 s, just when the warden needs the core.
    """
    given = os.environ.get(_ONE_THREAD)
    os.environ[_ONE_THREAD] = "1"
    try:
        import numpy  # noqa: F401

        yield
    finally:
        if given is None:
            del os.environ[_ONE_THREAD]
        else:
            os.environ[_ONE_THREAD] = given


def _likely(arguments: list[str], name: str) -> str:
    """Guess what an option will be; a wrong guess only costs the time it would save."""
    asked = _option(arguments, f"--{name}")
    for argument in arguments:
        if not asked and argument.endswith(".toml"):
            asked = _written(argument, name)
    return asked


def _option(arguments: list[str], wanted: str) -> str:
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == wanted:
            return value if equals else "".join(arguments[at + 1 : at + 2])
    return ""


def _written(spec: str, name: str) -> str:
    from supervisor.system.small_file import read_small

    try:
        # not from a pipe, whose text the command itself needs
        for line in read_small(spec, pipe=False).decode().splitlines():
            key, _, value = line.partition("=")
            if key.strip() == name:
                return value.partition("#")[0].strip().strip("\"'")
    except (OSError, ValueError):
        pass  # the command reads it again, and reports what is wrong
    return ""


def _first_aid(arguments: list[str], error: ImportError) -> int:
    from supervisor.system import limits

    if limits.explain(error):
        return _beyond_limit(error)
    from supervisor.doctor import __main__ as plain_doctor
    from supervisor.doctor.names import first_aid

    if arguments[:1] == ["doctor"]:
        return plain_doctor.main()
    print(f"allstop: {first_aid(error)}", file=sys.stderr)
    return 2


def _beyond_limit(error: Exception) -> int:
    """Say which limit of the shell or the machine an error hit, and return the exit code."""
    from supervisor.system import limits

    limit = limits.explain(error)
    if limit is None:
        raise error
    print(f"allstop: {limit}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
