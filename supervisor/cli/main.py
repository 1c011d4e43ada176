"""Runs one command and turns what went wrong into one line and an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import NoReturn

import typer

from supervisor.cli import doctor, report, run, status, stop
from supervisor.errors import ConfigError, FullstopError
from supervisor.states import ExitCode

# typer brings a copy of click of its own in some versions and uses the real one in others;
# this is the root of its usage errors in both
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="fullstop",
    help="Parameter sweeps that stop at once, completely, and lose nothing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("stop")(stop.stop)
app.command("status")(status.status)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)


def main(arguments: list[str]) -> NoReturn:
    """Run the command line and end the process."""
    try:
        code = app(arguments or ["--help"], prog_name="fullstop", standalone_mode=False)
    except _UsageError as error:
        code = _complain(_sentence(error), ExitCode.USAGE, arguments)
    except (typer.Abort, KeyboardInterrupt):
        code = ExitCode.from_signal(signal.SIGINT)
    except ConfigError as error:
        code = _complain(str(error), ExitCode.USAGE, arguments)
    except FullstopError as error:
        code = _complain(str(error), ExitCode.FAILED, arguments)
    except BrokenPipeError:
        code = ExitCode.from_signal(signal.SIGPIPE)
    _leave(int(code or ExitCode.DONE))


def _sentence(error: Exception) -> str:
    return str(getattr(error, "format_message", error.__str__)())


def _complain(message: str, code: int, arguments: list[str]) -> int:
    line = " ".join(message.split())
    if "--json" in arguments:
        print(json.dumps({"error": line, "exit_code": code}))
    print(f"fullstop: {line}", file=sys.stderr)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: unloading the libraries in order would only delay the next run."""
    from supervisor.link import release_wardens

    release_wardens()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    os._exit(code)
