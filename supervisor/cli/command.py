"""``run -- CMD ARG…``: any program, supervised.

The program owns the terminal: what we have to say goes to stderr, and is little.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Mapping
from typing import Any

from supervisor.errors import ConfigError
from supervisor.front.command import CommandFront, PreparedCommand, prepare_command
from supervisor.front.link import take_warden
from supervisor.front.signals import SignalQueue
from supervisor.records.command import Streams
from supervisor.records.report import Report
from supervisor.states import ExitCode, RunStatus

__all__ = ["prepare_command", "refuse_sweep_options", "supervise"]

_OF_A_SWEEP = (
    "spec",
    "data",
    "strategy",
    "grid",
    "workers",
    "device",
    "fee",
    "resume",
    "slurm",
    "cluster",
    "tasks",
    "job",
    "lease",
    "python",
)


def refuse_sweep_options(given: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` where an option makes no sense for a command."""
    for name in _OF_A_SWEEP:
        value = given.get(name)
        if value is not None and value is not False and value != [] and value != ():
            option = f"{str(given[name])!r}" if name == "spec" else f"--{name}"
            raise ConfigError(
                f"{option} belongs to a sweep, and a command follows --: leave one of them out",
                key=name,
            )


def supervise(
    prepared: PreparedCommand, *, closed: frozenset[int], detach: bool, as_json: bool
) -> int:
    """Carry a command out, and return the exit code.

    Parameters
    ----------
    prepared : PreparedCommand
        What to run.
    closed : frozenset of int
        Standard streams that were closed when we began: the command has them closed too.
    detach : bool
        Let the cluster jobs outlive the run.
    as_json : bool
        Print the report to stdout, when the command is done with it.
    """
    streams = Streams(
        [fd for fd in (0, 1, 2) if fd not in closed], frozenset({1, 2} if as_json else {2})
    )
    with SignalQueue() as signals:
        link = take_warden(None, prepared.plan.containment)
        front = CommandFront(prepared, link, streams, detach=detach)
        gc.freeze()  # what is loaded stays
        gc.enable()
        report = front.run(signals=signals, say=_say)
    if report.exit_code == ExitCode.USAGE:
        raise ConfigError(report.reason)
    for line in _news(report):
        _say(f"allstop: {line}")
    if as_json:
        print(json.dumps(report.to_json(), default=str))
    return report.exit_code


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read us is gone
        print(line, file=sys.stderr, flush=True)


def _news(report: Report) -> list[str]:
    """What its user has to be told; nothing of a command that went well."""
    from supervisor.cli.text import error_lines, memory_lines, stop_lines

    if report.status is RunStatus.COMPLETED and not report.errors and report.stop is None:
        return []
    said = [f"{report.status}: {report.reason}"] if report.reason else [str(report.status)]
    lines = said + error_lines(report)
    if report.stop is not None:
        lines += stop_lines(report) + memory_lines(report.memory)[:1]
    return lines
