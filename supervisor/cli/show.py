"""Progress of a run and its summary, as text for a terminal."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.cli import output
from supervisor.cli.text import error_lines, memory_lines, stop_lines
from supervisor.front.progress import Progress, describe
from supervisor.lifecycle.prepare import Prepared
from supervisor.records import rundir
from supervisor.records.command import CommandPlan, shown
from supervisor.records.device import Stack
from supervisor.records.plan import Plan, Source
from supervisor.records.report import Report
from supervisor.rows.ranking import Ranking
from supervisor.states import RunStatus
from supervisor.system.printable import printable
from supervisor.system.process import describe_exit

if TYPE_CHECKING:
    from supervisor.cli.bar import Bar

_PLAIN_EVERY_S = 5.0
_BEST_SHOWN = 5


class Screen:
    """Shows a run's progress: a bar on a terminal, otherwise a line every few seconds.

    The bar's library is loaded with the first tick: by then the warden has the run, so
    loading delays nothing.
    """

    def __init__(self, prepared: Prepared, *, where: str = "", quiet: bool = False) -> None:
        self._prepared = prepared
        self._where = where
        self._live = sys.stderr.isatty()
        self._quiet = quiet and not self._live
        self._begun = False
        self._bar: Bar | None = None
        self._last_plain = 0.0

    def tick(self, progress: Progress) -> None:
        """Show the current progress."""
        if not self._begun:
            self._begin()
        if self._bar is not None:
            with _terminal_may_be_gone():
                self._bar.show(progress)
        elif time.monotonic() - self._last_plain >= _PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self.say(describe(progress))

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        with _terminal_may_be_gone():
            if self._bar is not None:
                self._bar.say(line)
            elif not self._quiet:
                output.complain(line)

    def end(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            with _terminal_may_be_gone():
                self._bar.end()
            self._bar = None

    def _begin(self) -> None:
        """Show what is computed, and where."""
        self._begun = True
        plan = self._prepared.plan
        where = self._where or f"{plan.workers} worker{'s' * (plan.workers > 1)}"
        self.say(
            f"{plan.strategy} on {plan.n_bars:,} bars ({plan.data}): {plan.combos_total:,} "
            f"combinations, {where}"
        )
        for line in plan.data_facts.notes:
            self.say(line)
        if plan.device_why and (plan.devices or plan.stack is Stack.TORCH):
            self.say(f"device: {plan.device_why}")
        seed = "" if plan.source is Source.BUILT_IN else f", seed {plan.seed}"
        self.say(f"run {plan.run_id} in {shorten(self._prepared.run_dir)}{seed}")
        if self._live:
            from supervisor.cli.bar import Bar

            self._bar = Bar(plan.combos_total)


def _terminal_may_be_gone() -> contextlib.suppress:
    """Suppress errors of writing to a closed terminal: the run must end all the same."""
    return contextlib.suppress(OSError)


def summary(
    report: Report, plan: Plan, ranking: Ranking | None = None, *, on_disk: bool = True
) -> None:
    """Print the outcome of a run, its best combinations, and the memory that was released.

    ``ranking`` takes the place of the plan's. ``on_disk``: whether its results are; if not, its
    directory is not looked at.
    """
    lines = [headline(report)]
    if not on_disk:
        _print(lines + stop_lines(report) + memory_lines(report.memory) + error_lines(report))
        return
    results = Path(report.run_dir) / rundir.RESULTS_FILE
    if report.combos_done > report.combos_failed and results.is_file():
        lines += best_lines(report, plan, ranking or plan.ranking)
    if report.combos_failed and results.is_file():
        lines += failure_lines(results, plan)
    lines += year_lines(plan)
    lines += stop_lines(report) + memory_lines(report.memory) + error_lines(report)
    if results.is_file():
        lines.append(f"results: {shorten(results)}")
    else:
        lines.append(
            "results: not written, but every finished row is in the journals; to write them: "
            f"allstop report {quoted(report.run_dir)}"
        )
    _print(lines)


def tell(line: str) -> None:
    """Say what a command is waiting for, on stderr."""
    output.complain(f"allstop: {line}")


def _print(lines: list[str]) -> None:
    for line in lines:
        output.show(line)


def year_lines(plan: Plan) -> list[str]:
    """Say what the built-in strategies' Sharpe ratio is annualised with."""
    words = plan.data_facts.annualised
    return [f"annualised with {words}"] if words and plan.source is Source.BUILT_IN else []


def command_summary(report: Report, plan: CommandPlan) -> None:
    """Print the outcome of a command."""
    line = f"{report.status} after {report.elapsed_s:.2f} s: {shown(plan.command)}"
    lines = [f"{line}: {report.reason}" if report.reason else line]
    if report.command_status is not None and report.status is not RunStatus.FAILED:
        lines.append(f"the command {describe_exit(report.command_status)}")
    lines += stop_lines(report) + memory_lines(report.memory) + error_lines(report)
    for line in lines:
        output.show(line)


def headline(report: Report) -> str:
    """Return the outcome of the run as one line."""
    rate = report.combos_done / report.elapsed_s if report.elapsed_s else 0.0
    line = (
        f"{report.status}: {report.combos_done:,} of {report.combos_total:,} combinations "
        f"in {report.elapsed_s:.2f} s ({rate:,.0f}/s)"
    )
    if report.combos_failed:
        line += f", {report.combos_failed:,} of them failed"
    return f"{line}: {report.reason}" if report.reason else line


def best_lines(report: Report, plan: Plan, ranking: Ranking) -> list[str]:
    """Return the best combinations as a table, or why there is none."""
    from supervisor.rows.results import best

    path = Path(report.run_dir) / rundir.RESULTS_FILE
    metric, complaint = ranking_metric(path, plan, ranking)
    if metric is None:
        return [complaint] if complaint else []
    rows: list[dict[str, Any]] = best(path, metric, _BEST_SHOWN, ranking)
    if not rows:
        enough = f"at least {ranking.min_trades:,} trades and " if ranking.min_trades else ""
        return [f"no combination has {enough}a finite {printable(metric)} to rank by"]
    cells = [
        [printable(name) for name in rows[0]],
        *([_cell(value) for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return [f"best by {ranking.describe(metric)}", *table]


def failure_lines(results: Path, plan: Plan) -> list[str]:
    """Return the commonest errors of a function, each with an example."""
    from supervisor.rows.failures import commonest

    lines = [failure.line() for failure in commonest(results, plan.grid.names)]
    return ["failed, the commonest errors first:", *(f"  {line}" for line in lines)]


def ranking_metric(results: Path, plan: Plan, ranking: Ranking) -> tuple[str | None, str]:
    """Return the metric of a results file to rank by; if there is none, why, if it matters."""
    from supervisor.rows.ranking import TRADES
    from supervisor.rows.results import metrics_of

    metrics = metrics_of(results, plan.grid)
    chosen = ranking.choose(metrics)
    if chosen is not None and (not ranking.min_trades or TRADES in metrics):
        return chosen, ""
    asked = ranking.metric or (ranking.min_trades and metrics)
    return None, ranking.complaint(metrics) if asked else ""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else printable(str(value))


def quoted(path: str) -> str:
    """Return a path, quoted for a shell."""
    return shlex.quote(shorten(Path(path)))


def shorten(path: Path) -> str:
    """Return a path relative to the current directory if it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere; or the current directory was deleted
        return str(path)


def say_complete(report: Report, run_dir: Path, *, as_json: bool) -> int:
    """Say that there is nothing left to compute."""
    if as_json:
        output.show_json(report.to_json())
    else:
        output.show(f"run {report.run_id} is complete: nothing is left to compute")
        output.show(f"results: {shorten(run_dir)}")
    return 0
