"""The one place where text leaves a command: what is shown, complained of, or put out as JSON.

A line is shown without characters that a terminal would obey
(:func:`~supervisor.system.printable.printable`). JSON is ASCII, with all but DEL escaped.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from supervisor.errors import AllstopError
from supervisor.system.printable import printable


class OutputError(AllstopError):
    """Standard output cannot be written: what the command has found is lost."""


def show(line: str) -> None:
    """Print one line to standard output.

    Raises
    ------
    BrokenPipeError
        If its reader has gone.
    OutputError
        If it cannot be written for another reason.
    """
    _put(printable(line))


def show_json(value: Any) -> None:
    """Print a value to standard output as one line of JSON; raises as :func:`show` does."""
    _put(json.dumps(value, default=str).replace("\x7f", "\\u007f"))


def complain(line: str) -> None:
    """Print one line to standard error; harmless if there is no reader any more."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def finish() -> None:
    """Hand over what is still in a buffer; raises as :func:`show` does."""
    with _as_ours():
        sys.stdout.flush()


@contextlib.contextmanager
def if_possible() -> Iterator[None]:
    """Show the outcome of a run, which stands whether or not it can be shown."""
    try:
        yield
        finish()
    except BrokenPipeError:
        _give_up()
    except OutputError as error:
        complain(f"allstop: {error}")


def _put(line: str) -> None:
    with _as_ours():
        print(line)


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise lost(error) from None


def lost(error: OSError) -> OutputError:
    """Return the error to raise for one of standard output's; what follows goes nowhere."""
    _give_up()
    return OutputError(f"standard output cannot be written: {error.strerror}")


def _give_up() -> None:
    """Let what is left go nowhere: the interpreter would try, and complain, again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
