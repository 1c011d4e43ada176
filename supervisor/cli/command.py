"""``run -- CMD ARG…``: any program, supervised.

The program owns the terminal: our own messages are few and go to stderr.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor.cli import output
from supervisor.cli.allocation import fit_into_allocation
from supervisor.cli.invocation import Invocation
from supervisor.cli.leaving import end_of
from supervisor.errors import ConfigError
from supervisor.front.command import PreparedCommand, command_front, prepare_command
from supervisor.front.link import take_warden
from supervisor.front.signals import SignalQueue
from supervisor.lifecycle import options
from supervisor.lifecycle.options import Use
from supervisor.lifecycle.prepare import nothing_left
from supervisor.records.command import Streams
from supervisor.records.plan import StopTimes
from supervisor.records.report import Report
from supervisor.states import RunStatus


def refuse_sweep_options(spec: Path | None, typed: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` if a command was given options that only a sweep can have."""
    refused = [(f"{str(spec)!r}", "spec")] if spec is not None else []
    refused += [
        (options.BY_NAME[name].flag, name)
        for name, value in typed.items()
        if options.is_set(value) and Use.COMMAND not in options.BY_NAME[name].use
    ]
    for shown, key in refused:
        raise ConfigError(
            f"{shown} is for sweeps only, and a command follows --: leave one of them out",
            key=key,
        )


def run(invocation: Invocation, typed: Mapping[str, Any], *, as_json: bool) -> int:
    """Run the command that follows ``--``, supervised; return the exit code."""
    given = options.from_command_line(typed)
    prepared = prepare_command(
        invocation.command or [],
        fit_into_allocation(StopTimes(**options.timers(given))),
        **options.with_defaults(given, ("run_dir", "containment")),
    )
    detach = bool(given.get("detach"))
    return supervise(prepared, closed=invocation.closed, detach=detach, as_json=as_json)


def supervise(
    prepared: PreparedCommand, *, closed: frozenset[int], detach: bool, as_json: bool
) -> int:
    """Run a command that was prepared, and return the exit code.

    Parameters
    ----------
    prepared : PreparedCommand
        What to run.
    closed : frozenset of int
        Standard streams that were closed when this process began; the command has them
        closed too.
    detach : bool
        Let the cluster jobs outlive the run.
    as_json : bool
        Print the report to stdout when the command has ended.
    """
    streams = Streams(
        [fd for fd in (0, 1, 2) if fd not in closed], frozenset({1, 2} if as_json else {2})
    )
    unbegun = nothing_left(prepared.run_dir, resumed=prepared.plan.resumed)
    with unbegun, SignalQueue() as signals:
        link = take_warden(None, prepared.plan.containment)
        front = command_front(prepared, link, streams, detach=detach)
        gc.freeze()  # what is loaded stays
        gc.enable()
        report = front.run(signals=signals, say=output.complain)
    if report.usage:
        raise ConfigError(report.reason)
    for line in _news(report):
        output.complain(f"allstop: {line}")
    if as_json:
        with output.if_possible():
            output.show_json(report.to_json())
    return end_of(report)


def _news(report: Report) -> list[str]:
    """Say what the user has to know; nothing if the command succeeded."""
    from supervisor.cli.text import error_lines, memory_lines, stop_lines

    if report.status is RunStatus.COMPLETED and not report.errors and report.stop is None:
        return []
    said = [f"{report.status}: {report.reason}"] if report.reason else [str(report.status)]
    lines = said + error_lines(report)
    if report.stop is not None:
        lines += stop_lines(report) + memory_lines(report.memory)[:1]
    return lines
