"""``report``: how a run ended, as text, as JSON, or as a page with plots."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli import output, show, status
from supervisor.cli.text import containment_lines
from supervisor.errors import AllstopError, ConfigError
from supervisor.ipc import control_socket
from supervisor.lifecycle.finish import (
    PATIENCE_S,
    finish_dead_run,
    lacks_results,
    read_report,
    write_late_results,
)
from supervisor.records import registry, rundir
from supervisor.records.claim import claim_directory
from supervisor.records.command import AnyPlan, CommandPlan, read_plan
from supervisor.records.plan import Plan
from supervisor.records.report import Report
from supervisor.rows.results import ERROR_COLUMN, column_names
from supervisor.system import durable

PAGE_FILE = "report.html"


def report(
    run: Annotated[
        str | None, typer.Argument(help="Id or directory of a run; the latest run if omitted.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
    as_html: Annotated[
        bool, typer.Option("--html", help="Write a page with plots (needs the extra 'plots').")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write the page to; implies --html.",
            show_default=f"<run directory>/{PAGE_FILE}",
        ),
    ] = None,
    x: Annotated[str | None, typer.Option(help="Parameter on the x axis of the heat map.")] = None,
    y: Annotated[str | None, typer.Option(help="Parameter on the y axis of the heat map.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Column that the page ranks by.", show_default="sharpe")
    ] = None,
) -> None:
    """Show how a run ended, and its best results.

    If results or report are missing, because the run and its warden were killed or the disk was
    full, they are written now, from the run's journals.
    """
    as_html = as_html or out is not None
    for option, given in (("x", x), ("y", y), ("metric", metric)):
        if given is not None and not as_html:
            raise ConfigError(f"--{option} needs --html: add it", key=option)
    run_dir = registry.find_dir(run)
    asked = durable.read_json(run_dir / rundir.RUN_FILE)
    plan = _plan(asked, run_dir)
    if not (run_dir / rundir.REPORT_FILE).exists():
        registry.check_here(plan.run_id, "report")
    if control_socket.is_running(plan.run_id):
        _show_running(plan, run_dir, as_json=as_json, as_html=as_html)
        return
    found = _load(run_dir, said=not as_json)
    if isinstance(plan, Plan):
        found = _write_missing_results(found, plan, said=not as_json)
    plain = found.to_json()
    if as_html:
        if isinstance(plan, CommandPlan):
            raise ConfigError("--html shows the results of a sweep; this run supervised a command")
        where = _write_page(run_dir, plan, found, asked, out=out, x=x, y=y, metric=metric)
        if not as_json:
            output.show(str(where))
            return
        plain["html"] = str(where)
    if as_json:
        output.show_json(plain)
        return
    _show(found, plan)


def _plan(asked: dict[str, Any], run_dir: Path) -> AnyPlan:
    try:
        return read_plan(asked)
    except (LookupError, TypeError, ValueError):
        raise ConfigError(f"{run_dir / rundir.RUN_FILE}: not the plan of a run") from None


def _show_running(plan: AnyPlan, run_dir: Path, *, as_json: bool, as_html: bool) -> None:
    if as_html:
        raise ConfigError(
            f"run {plan.run_id} is still running: its report is written when it ends "
            f"(allstop stop {plan.run_id} ends it now)"
        )
    if not as_json:
        output.show("still running: the report is written when it ends")
    status.status(str(run_dir), as_json=as_json)


def _load(run_dir: Path, *, said: bool) -> Report:
    """Read a run's report; write it first if the run was killed before it had one."""
    path = run_dir / rundir.REPORT_FILE
    if not path.exists():
        if said:
            output.show("the run was killed with its warden: writing results from its journals")
        try:
            with claim_directory(run_dir, PATIENCE_S):
                if not path.exists():
                    written = finish_dead_run(run_dir)
                    if written.usage:
                        raise ConfigError(written.reason)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    return read_report(run_dir)


def _write_missing_results(found: Report, plan: Plan, *, said: bool) -> Report:
    """Write missing results, if that is possible now; return the current report."""
    if not lacks_results(found, plan):
        return found
    run_dir = Path(found.run_dir)
    there = (run_dir / rundir.RESULTS_FILE).is_file()
    with contextlib.suppress(AllstopError, OSError):  # the summary says that they are missing
        with claim_directory(run_dir, PATIENCE_S):
            found = read_report(run_dir)  # another process may have written them meanwhile
            corrected = write_late_results(found, plan) if lacks_results(found, plan) else None
        if corrected is None:
            return found
        found = corrected
        if said and not there:
            output.show(f"{rundir.RESULTS_FILE} was missing: written now, from the journals")
    return found


def _show(found: Report, plan: AnyPlan) -> None:
    _show_summary(found, plan)
    for line in containment_lines(Path(found.run_dir)):
        output.show(line)


def _show_summary(found: Report, plan: AnyPlan) -> None:
    if isinstance(plan, CommandPlan):
        show.command_summary(found, plan)
        return
    results = Path(found.run_dir) / rundir.RESULTS_FILE
    try:
        if found.combos_done > found.combos_failed and results.is_file():
            show.ranking_metric(results, plan)  # unreadable: say so before the first line
        show.summary(found, plan)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(results, error) from None


def _write_page(
    run_dir: Path,
    plan: Plan,
    found: Report,
    asked: dict[str, Any],
    *,
    out: Path | None,
    x: str | None,
    y: str | None,
    metric: str | None,
) -> Path:
    from supervisor.report_page import build, plotly_script

    plotly_script()  # missing: say so before the results are read
    results = run_dir / rundir.RESULTS_FILE
    where = (out or run_dir / PAGE_FILE).absolute()
    try:
        chosen = _metric(results, plan, metric)
        page = build(run_dir, plan, found, metric=chosen, x=x, y=y, asked=asked)
    except (OSError, ValueError) as error:
        raise _unreadable(results, error) from None
    temporary = where.with_name(f".{where.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        temporary.replace(where)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"{where} cannot be written: {error.strerror}", key="out") from None
    return where


def _metric(results: Path, plan: Plan, asked: str | None) -> str | None:
    """Column to rank by: the one requested, otherwise that of the summary."""
    if not results.is_file():
        return None
    if asked is None:
        return show.ranking_metric(results, plan)
    known = [name for name in column_names(results) if name not in (*plan.grid.names, ERROR_COLUMN)]
    if asked not in known:
        raise ConfigError(
            f"--metric {asked!r} is no metric of this run; its metrics: {', '.join(known)}",
            key="metric",
        )
    return asked


def _unreadable(results: Path, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return ConfigError(f"{results} cannot be read: {why}")
