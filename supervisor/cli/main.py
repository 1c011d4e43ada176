"""Runs one command and turns what went wrong into one line and an exit code."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from supervisor.cli.beside import Beside
from supervisor.errors import AllstopError, ConfigError
from supervisor.states import ExitCode

# typer brings a copy of click of its own in some versions and uses the real one in others;
# this is the root of its usage errors in both
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

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
        Standard streams that were closed when we began.
    """
    beside = Beside(command, closed)
    app = functools.partial(_app, arguments, beside)
    end_with(app, arguments)


def end_with(call: Callable[[], int | None], arguments: list[str]) -> NoReturn:
    """Call something and end the process with the exit code that came of it.

    Whatever went wrong is one line on stderr.
    """
    try:
        code = call()
    except _UsageError as error:
        code = _complain(_sentence(error), ExitCode.USAGE, arguments)
    except (typer.Abort, KeyboardInterrupt):
        code = ExitCode.from_signal(signal.SIGINT)
    except ConfigError as error:
        code = _complain(str(error), ExitCode.USAGE, arguments)
    except AllstopError as error:
        code = _complain(str(error), ExitCode.FAILED, arguments)
    except BrokenPipeError:
        code = ExitCode.from_signal(signal.SIGPIPE)
    _leave(int(code or ExitCode.DONE))


def _app(arguments: list[str], beside: Beside) -> int | None:
    """Carry out the command that is asked for; only that one is imported."""
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
        app.command(name)(getattr(module, name))
    words = arguments or ["--help"]
    code: int | None = app(words, prog_name="allstop", standalone_mode=False, obj=beside)
    return code


def _no_options() -> None:
    """Keep the commands' names: typer drops the name of an only command."""


def _sentence(error: Exception) -> str:
    return str(getattr(error, "format_message", error.__str__)())


def _complain(message: str, code: int, arguments: list[str]) -> int:
    line = " ".join(message.split())
    if "--json" in arguments:
        print(json.dumps({"error": line, "exit_code": code}))
    print(f"allstop: {line}", file=sys.stderr)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: unloading the libraries in order would only delay the next run."""
    from supervisor.front.link import release_wardens

    release_wardens()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass  # whoever read us is gone
    os._exit(code)
