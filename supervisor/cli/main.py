"""Runs one command, and turns an error into one line and an exit code."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import signal
from collections.abc import Callable
from typing import NoReturn, Protocol, runtime_checkable

import typer

from supervisor.cli import output
from supervisor.cli.invocation import Invocation
from supervisor.cli.leaving import SignalDeath, leave
from supervisor.errors import AllstopError, ConfigError
from supervisor.states import ExitCode
from supervisor.system import limits


@runtime_checkable
class UsageError(Protocol):
    """What click raises for a command line that it cannot read.

    Typer used click itself up to 0.25 and has a copy of its own since, so its class lies
    elsewhere in each version; what click documents of it is the same in all.
    """

    exit_code: int

    def format_message(self) -> str:
        """Say what is wrong, without the usage."""
        ...


COMMANDS = ("run", "stop", "status", "jobs", "resume", "report", "reap", "doctor")


def main(
    arguments: list[str],
    command: list[str] | None = None,
    closed: frozenset[int] = frozenset(),
) -> NoReturn:
    """Run the command line and end the process.

    Parameters
    ----------
    arguments : list of str
        Our own arguments.
    command : list of str or None
        What followed ``--`` in ``run … -- CMD ARG…``; None: there was none.
    closed : frozenset of int
        Standard streams that were closed when this process began.
    """
    invocation = Invocation(command, closed)
    app = functools.partial(_app, arguments, invocation)
    end_with(app, arguments)


def end_with(call: Callable[[], int | None], arguments: list[str]) -> NoReturn:
    """Call a function and end the process as it says; see :mod:`supervisor.cli.leaving`.

    An error is one line on stderr.
    """
    from supervisor.front.link import release_wardens

    try:
        code = call()
        with contextlib.suppress(BrokenPipeError):
            output.finish()
    except (typer.Abort, KeyboardInterrupt):
        code = SignalDeath.of(signal.SIGINT)
    except ConfigError as error:
        code = _complain(str(error), ExitCode.USAGE, arguments)
    except AllstopError as error:
        code = _complain(str(error), ExitCode.FAILED, arguments)
    except BrokenPipeError:
        code = ExitCode.from_signal(signal.SIGPIPE)
    except (MemoryError, ImportError, RuntimeError, OSError) as error:
        code = _complain_of_machine(error, arguments)
    release_wardens()
    leave(code or ExitCode.DONE)


def _complain_of_machine(error: Exception, arguments: list[str]) -> int:
    """Say which limit an error comes from, and how to raise it; or what the kernel said."""
    if isinstance(error, OSError) and (not arguments or {"--help", "-h"} & {*arguments}):
        # typer writes the help itself; nothing else is done then
        return _complain(str(output.lost(error)), ExitCode.FAILED, arguments)
    limit = limits.explain(error)
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        # what pathlib raises for ~ and ~user; containers run as users that no one has named
        limit = "a home directory cannot be determined: set HOME, or write the path in full"
    if limit is not None:
        return _complain(limit, ExitCode.USAGE, arguments)
    if not isinstance(error, OSError):
        raise error
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return _complain(what, ExitCode.FAILED, arguments)


def _app(arguments: list[str], invocation: Invocation) -> int | None:
    """Run the command that is asked for; only its module is imported."""
    app = typer.Typer(
        name="allstop",
        help="Parameter sweeps that stop at once, completely, and lose nothing.",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_no_options)
    asked = [name for name in COMMANDS if arguments[:1] == [name]]
    for name in asked or COMMANDS:
        module = importlib.import_module(f"supervisor.cli.{name}")
        command = getattr(module, name)
        app.command(name, help=_unwrapped(command.__doc__))(command)
    words = arguments or ["--help"]
    try:
        code: int | None = app(words, prog_name="allstop", standalone_mode=False, obj=invocation)
    except Exception as error:
        if isinstance(error, UsageError):
            raise ConfigError(_with_help(error.format_message(), asked)) from None
        raise
    return code


def _with_help(complaint: str, command: list[str]) -> str:
    """Say where the known options, or commands, are listed."""
    help_of = " ".join(["allstop", *command, "--help"])
    return f"{complaint.rstrip('.')}; see {help_of}"


def _no_options() -> None:
    """Keep the commands' names: typer drops the name of an only command."""


def _unwrapped(text: str) -> str:
    """Join the lines of each paragraph: a terminal is as wide as it is."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _complain(message: str, code: int, arguments: list[str]) -> int:
    line = " ".join(message.split())
    if "--json" in arguments:
        with contextlib.suppress(BrokenPipeError, output.OutputError):
            output.show_json({"error": line, "exit_code": code})
    output.complain(f"allstop: {line}")
    return code
