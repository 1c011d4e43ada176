"""What a person at a terminal sees: progress while it runs, a summary when it has ended."""

from __future__ import annotations

import contextlib
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as ProgressBar,
)
from rich.table import Table

from supervisor import rundir
from supervisor.config import Plan
from supervisor.front import Progress, describe
from supervisor.prepare import Prepared
from supervisor.report import MemoryReport, Report
from supervisor.results import ERROR_COLUMN
from supervisor.states import RunStatus
from supervisor.stopflag import Level

_PLAIN_EVERY_S = 5.0
_BEST_SHOWN = 5
_ASKED = {
    Level.DRAIN: "draining: finishing the chunks in hand",
    Level.STOP: "stopping; once more to kill",
    Level.KILL: "killing",
}


class Screen:
    """Shows a run's progress: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._quiet = quiet and not self._live
        self._bar: ProgressBar | None = None
        self._task = TaskID(0)
        self._last_plain = 0.0
        self._rate = _Rate()

    def begin(self, prepared: Prepared) -> None:
        """Say what will run."""
        plan = prepared.plan
        self.say(
            f"{plan.strategy} on {plan.n_bars:,} bars ({plan.data}): {plan.combos_total:,} "
            f"combinations, {plan.workers} worker{'s' * (plan.workers > 1)}"
        )
        self.say(f"run {plan.run_id} in {shorten(prepared.run_dir)}")
        if self._live:
            self._bar = ProgressBar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>5.1f} %"),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                auto_refresh=False,
                transient=True,
            )
            self._task = self._bar.add_task("preparing", total=plan.grid.size, facts="")
            self._bar.start()

    def tick(self, progress: Progress) -> None:
        """Show how it stands now."""
        if self._bar is not None:
            asked = progress.stop_level if progress.status is RunStatus.STOPPING else None
            with _terminal_may_be_gone():
                self._bar.update(
                    self._task,
                    completed=progress.done,
                    description=_ASKED[asked] if asked else str(progress.status),
                    facts=self._facts(progress),
                    refresh=True,
                )
        elif time.monotonic() - self._last_plain >= _PLAIN_EVERY_S and not self._quiet:
            self._last_plain = time.monotonic()
            self.say(describe(progress))

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        if not self._quiet:
            with _terminal_may_be_gone():
                self._console.print(escape(line), soft_wrap=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with _terminal_may_be_gone():
                self._bar.stop()
            self._bar = None

    def _facts(self, progress: Progress) -> str:
        rate = self._rate.update(progress)
        facts = [f"{progress.done:,}/{progress.total:,}", f"{rate:,.0f}/s"]
        facts.append(f"{progress.ram_bytes / 2**20:,.0f} MB")
        if progress.best is not None:
            params = " ".join(f"{name}={value}" for name, value in progress.best[0].items())
            facts.append(f"best {progress.best[1]:.3g} ({params})")
        if progress.failed:
            facts.append(f"{progress.failed} failed")
        return escape("  ".join(facts))


def _terminal_may_be_gone() -> contextlib.suppress:
    """Suppress what writing to a closed window raises: the run's end does not depend on it."""
    return contextlib.suppress(OSError)


class _Rate:
    """Combinations per second, smoothed over a few seconds."""

    _SMOOTHING_S = 3.0

    def __init__(self) -> None:
        self._at: float | None = None
        self._done = 0
        self._rate = 0.0

    def update(self, progress: Progress) -> float:
        now = time.monotonic()
        if self._at is None:
            self._at, self._done = now, progress.done
            return 0.0
        passed = now - self._at
        if passed > 0:
            fresh = max(0, progress.done - self._done) / passed
            weight = min(1.0, passed / self._SMOOTHING_S) if self._rate else 1.0
            self._rate += weight * (fresh - self._rate)
            self._at, self._done = now, progress.done
        return self._rate


def summary(report: Report, plan: Plan) -> None:
    """Print what became of a run, its best combinations, and the memory that came back."""
    console = Console(highlight=False, soft_wrap=True)
    with _terminal_may_be_gone():
        console.print(escape(headline(report)))
        if report.combos_done > report.combos_failed:
            _best_table(console, report, plan)
        for line in stop_lines(report) + memory_lines(report.memory) + error_lines(report):
            console.print(escape(line))
        console.print(escape(f"results: {shorten(Path(report.run_dir) / rundir.RESULTS_FILE)}"))


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


def stop_lines(report: Report) -> list[str]:
    """How the stop went, if there was one."""
    if report.stop is None:
        return []
    stop = report.stop
    rungs = ", ".join(f"{r.name} at {r.at_s:.3f} s ({r.acted_on})" for r in stop.rungs)
    lines = [
        f"stop ({stop.level}) requested by {stop.requested_by}: "
        f"{'NOT everything' if stop.survivors else 'everything'} gone after "
        f"{stop.elapsed_s:.3f} s; {rungs}"
    ]
    return lines + [f"  survivor: {survivor}" for survivor in stop.survivors]


def memory_lines(memory: MemoryReport | None) -> list[str]:
    """What the run held, and what came back."""
    if memory is None:
        return []
    before, peak, after, freed = (
        "not measured" if value is None else f"{value / 2**20:,.0f} MB"
        for value in (
            memory.ram_baseline_bytes,
            memory.ram_peak_bytes,
            memory.ram_after_bytes,
            memory.ram_freed_bytes,
        )
    )
    line = f"RAM: before {before}, peak {peak}, after {after}, freed {freed}"
    if memory.settled_s is not None:
        line += f"; back at its baseline after {memory.settled_s:.3f} s"
    elif memory.ram_after_bytes is not None:
        line += "; NOT back at its baseline"
    lines = [line]
    if memory.vram_peak_bytes is None:
        lines.append("VRAM: not measured")
    return lines


def error_lines(report: Report) -> list[str]:
    """What went wrong on the way."""
    shown = report.errors[:5]
    more = len(report.errors) - len(shown)
    return [f"note: {error}" for error in shown] + ([f"… and {more} more"] if more else [])


def _best_table(console: Console, report: Report, plan: Plan) -> None:
    from supervisor.results import best

    path = Path(report.run_dir) / rundir.RESULTS_FILE
    metric = ranking_metric(path, plan)
    rows: list[dict[str, Any]] = best(path, metric, _BEST_SHOWN) if metric else []
    if not rows:
        return
    table = Table(title=f"best by {metric}", title_justify="left", box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)


def ranking_metric(results: Path, plan: Plan) -> str | None:
    """Metric that combinations are ranked by: ``sharpe`` if there is one, else the first."""
    import pyarrow.parquet

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
