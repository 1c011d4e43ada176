"""What a person at a terminal sees: progress while it runs, a summary when it has ended."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.cli.text import error_lines, memory_lines, stop_lines
from supervisor.front.run import Progress
from supervisor.front.sweep import describe
from supervisor.lifecycle.prepare import Prepared
from supervisor.records import rundir
from supervisor.records.command import CommandPlan, shown
from supervisor.records.plan import Plan
from supervisor.records.report import Report
from supervisor.states import RunStatus
from supervisor.system.process import describe_exit

if TYPE_CHECKING:
    from supervisor.cli.bar import Bar

_PLAIN_EVERY_S = 5.0
_BEST_SHOWN = 5


class Screen:
    """Shows a run's progress: a bar on a terminal, a line now and then elsewhere.

    The bar's library is loaded with the first tick: by then the run has been
    handed to the warden, which is busy too.
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
        """Show how it stands now."""
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
                print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with _terminal_may_be_gone():
                self._bar.end()
            self._bar = None

    def _begin(self) -> None:
        """Say what runs."""
        self._begun = True
        plan = self._prepared.plan
        where = self._where or f"{plan.workers} worker{'s' * (plan.workers > 1)}"
        self.say(
            f"{plan.strategy} on {plan.n_bars:,} bars ({plan.data}): {plan.combos_total:,} "
            f"combinations, {where}"
        )
        self.say(f"run {plan.run_id} in {shorten(self._prepared.run_dir)}")
        if self._live:
            from supervisor.cli.bar import Bar

            self._bar = Bar(plan.combos_total)


def _terminal_may_be_gone() -> contextlib.suppress:
    """Suppress what writing to a closed window raises: the run's end does not depend on it."""
    return contextlib.suppress(OSError)


def summary(report: Report, plan: Plan) -> None:
    """Print what became of a run, its best combinations, and the memory that came back."""
    lines = [headline(report)]
    results = Path(report.run_dir) / rundir.RESULTS_FILE
    if report.combos_done > report.combos_failed and results.is_file():
        lines += best_lines(report, plan)
    lines += stop_lines(report) + memory_lines(report.memory) + error_lines(report)
    if results.is_file():
        lines.append(f"results: {shorten(results)}")
    else:
        lines.append(
            "results: not written; the journals have every finished row, and "
            f"allstop report {quoted(report.run_dir)} writes them once it can"
        )
    with _terminal_may_be_gone():
        for line in lines:
            print(line)


def command_summary(report: Report, plan: CommandPlan) -> None:
    """Print what became of a command."""
    line = f"{report.status} after {report.elapsed_s:.2f} s: {shown(plan.command)}"
    lines = [f"{line}: {report.reason}" if report.reason else line]
    if report.command_status is not None and report.status is not RunStatus.FAILED:
        lines.append(f"the command {describe_exit(report.command_status)}")
    lines += stop_lines(report) + memory_lines(report.memory) + error_lines(report)
    with _terminal_may_be_gone():
        for line in lines:
            print(line)


def headline(report: Report) -> str:
    """One line: what became of the run."""
    rate = report.combos_done / report.elapsed_s if report.elapsed_s else 0.0
    line = (
        f"{report.status}: {report.combos_done:,} of {report.combos_total:,} combinations "
        f"in {report.elapsed_s:.2f} s ({rate:,.0f}/s)"
    )
    if report.combos_failed:
        line += f", {report.combos_failed:,} of them failed"
    return f"{line}: {report.reason}" if report.reason else line


def best_lines(report: Report, plan: Plan) -> list[str]:
    """The best combinations, as a table."""
    from supervisor.rows.results import best

    path = Path(report.run_dir) / rundir.RESULTS_FILE
    metric = ranking_metric(path, plan)
    rows: list[dict[str, Any]] = best(path, metric, _BEST_SHOWN) if metric else []
    if not rows:
        return []
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return [f"best by {metric}", *table]


def ranking_metric(results: Path, plan: Plan) -> str | None:
    """Metric that combinations are ranked by: ``sharpe`` if there is one, else the first."""
    import pyarrow.parquet

    from supervisor.rows.results import ERROR_COLUMN

    names = pyarrow.parquet.read_schema(results).names
    metrics = [name for name in names if name not in (*plan.grid.names, ERROR_COLUMN)]
    return "sharpe" if "sharpe" in metrics else next(iter(metrics), None)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def quoted(path: str) -> str:
    """Show a path as a shell takes it."""
    return shlex.quote(shorten(Path(path)))


def shorten(path: Path) -> str:
    """Show a path relative to here when it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
