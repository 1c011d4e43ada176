"""The end of the command line's process: an exit code, or the signal that stopped the run.

A shell ends a loop on Ctrl+C only if the program that it waits for died of SIGINT: one that
exits with 130 has handled it, and the loop's next sweep would start. So a process whose run
was stopped by a signal dies of that signal in the end, when everything is cleaned up, written
and printed. Shells show both as 128 + N.

References
----------
M. Cracauer, "Proper handling of SIGINT/SIGQUIT", https://www.cons.org/cracauer/sigint.html
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

from supervisor.cli import output
from supervisor.records.report import Report
from supervisor.states import ExitCode, RunStatus
from supervisor.system.process import forbid_core_dump

_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""Signals by which people and programs ask for an end; others are a program's faults."""


class SignalDeath(int):
    """An exit code 128 + N of a process that is to die of signal N."""

    @classmethod
    def of(cls, number: int) -> SignalDeath:
        """Return the end by a signal."""
        return cls(ExitCode.from_signal(number))

    @property
    def signal(self) -> int:
        """The signal's number."""
        return self - ExitCode.from_signal(0)


def end_of(report: Report) -> int:
    """Return how the process of a run ends: by the run's exit code, or by a signal.

    By a signal where one stopped the run, or ended the command by itself. A run that was
    stopped from elsewhere, by ``allstop stop`` for example, has received none.
    """
    number = report.observed.get("signal", 0)
    if report.status is RunStatus.STOPPED and report.exit_code == ExitCode.from_signal(number):
        return SignalDeath.of(number)
    status = report.command_status or 0
    if report.status is RunStatus.FAILED and report.exit_code == ExitCode.FAILED:
        return SignalDeath.of(-status) if -status in _ENDING else report.exit_code
    return report.exit_code


def leave(code: int) -> NoReturn:
    """End this process at once: unloading the libraries in order would only delay the next run."""
    with contextlib.suppress(OSError, ValueError, output.OutputError):  # the reader has gone
        output.finish()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    if isinstance(code, SignalDeath):
        _die_of(code.signal)
    os._exit(code)


def _die_of(number: int) -> None:
    """Die of a signal; returns where that is impossible, as for process 1 of a container."""
    forbid_core_dump()  # SIGQUIT would leave one
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.raise_signal(number)
