"""``report``: how a run ended, as text, as JSON, or as a page with plots."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from supervisor.cli import output, show, status
from supervisor.cli.text import containment_lines
from supervisor.errors import AllstopError, ConfigError
from supervisor.ipc import control_socket
from supervisor.lifecycle.checks import check_min_trades
from supervisor.lifecycle.finish import (
    PATIENCE_S,
    finish_dead_run,
    lacks_results,
    write_late_results,
)
from supervisor.lifecycle.prepare import Changes
from supervisor.lifecycle.still_ending import await_end
from supervisor.records import registry, rundir
from supervisor.records.claim import claim_directory
from supervisor.records.command import AnyPlan, CommandPlan, checked_plan
from supervisor.records.home import original_of
from supervisor.records.plan import Plan
from supervisor.records.report import Report, read_report
from supervisor.rows import checksum
from supervisor.system import durable, private

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
        str | None, typer.Option(help="The same as --sort, for the page.", show_default=False)
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="Metric by which combinations are ranked.", show_default="as the run did"
        ),
    ] = None,
    ascending: Annotated[
        bool, typer.Option("--ascending", help="The lowest value is the best.")
    ] = False,
    min_trades: Annotated[
        int | None,
        typer.Option(
            help="Combinations with fewer trades are not ranked.", show_default="as the run did"
        ),
    ] = None,
    untrusted: Annotated[
        bool,
        typer.Option(
            "--untrusted",
            help="Read a run directory that another user owns or may write; nothing in it is "
            "executed, and nothing is written there.",
        ),
    ] = False,
) -> None:
    """Show how a run ended, and its best results.

    If results or report are missing, because the run and its warden were killed or the disk was
    full, they are written now, from the run's journals.
    """
    as_html = as_html or out is not None
    for option, given in (("x", x), ("y", y), ("metric", metric)):
        if given is not None and not as_html:
            raise ConfigError(f"--{option} needs --html: add it", key=option)
    wanted = Changes(
        sort=sort or metric,
        ascending=ascending,
        min_trades=None if min_trades is None else check_min_trades(min_trades, "--min-trades"),
    )
    with private.reading_untrusted(untrusted):
        page = _Page(out, x, y) if as_html else None
        _report(registry.find_dir(run), page, wanted, as_json=as_json)


class _Page(NamedTuple):
    """The page that is asked for: see the options of the same names."""

    out: Path | None
    x: str | None
    y: str | None


def _report(run_dir: Path, page: _Page | None, wanted: Changes, *, as_json: bool) -> None:
    await_end(run_dir, show.tell)
    asked = rundir.read_run_file(run_dir)
    plan = checked_plan(asked, run_dir / rundir.RUN_FILE)
    if private.is_reading_untrusted():
        found = _load_untrusted(run_dir, page)
        _say(found, plan, asked, page, wanted, as_json=as_json)
        return
    is_copy = original_of(run_dir, asked) != ""
    if not (is_copy or (run_dir / rundir.REPORT_FILE).exists()):
        registry.check_here(plan.run_id, "report")
    if not is_copy and control_socket.is_running(plan.run_id):
        _show_running(plan, run_dir, as_json=as_json, as_html=page is not None)
        return
    found = _load(run_dir, said=not as_json)
    if isinstance(plan, Plan):
        found = _write_missing_results(found, plan, said=not as_json)
    _say(found, plan, asked, page, wanted, as_json=as_json)


def _load_untrusted(run_dir: Path, page: _Page | None) -> Report:
    """Read the report of a run that is not ours: what is missing stays missing."""
    if page is not None and page.out is None:
        raise ConfigError(
            "--html writes into the run directory, which is not trusted: name a file of yours "
            "with --out",
            key="out",
        )
    if not (run_dir / rundir.REPORT_FILE).exists():
        raise ConfigError(
            f"{run_dir} has no report, and nothing is written for a run that is not trusted: "
            "its owner has to finish it"
        )
    return read_report(run_dir)


def _say(
    found: Report,
    plan: AnyPlan,
    asked: dict[str, Any],
    page: _Page | None,
    wanted: Changes,
    *,
    as_json: bool,
) -> None:
    if isinstance(plan, Plan):
        plan = _ranked(plan, found, wanted)
    plain = found.to_json()
    if page is not None:
        if isinstance(plan, CommandPlan):
            raise ConfigError("--html shows the results of a sweep; this run supervised a command")
        where = _write_page(Path(found.run_dir), plan, found, asked, page)
        if not as_json:
            output.show(str(where))
            return
        plain["html"] = str(where)
    if as_json:
        output.show_json(plain)
        return
    _show(found, plan)


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
    results = run_dir / rundir.RESULTS_FILE
    there, damaged = results.is_file(), checksum.is_damaged(results)
    with contextlib.suppress(AllstopError, OSError):  # the summary says that they are missing
        with claim_directory(run_dir, PATIENCE_S):
            found = read_report(run_dir)  # another process may have written them meanwhile
            corrected = write_late_results(found, plan) if lacks_results(found, plan) else None
        if corrected is None:
            return found
        found = corrected
        if said and (damaged or not there):
            why = "did not match its checksum" if damaged else "was missing"
            output.show(f"{rundir.RESULTS_FILE} {why}: written now, from the journals")
    return found


def _show(found: Report, plan: AnyPlan) -> None:
    held = containment_lines(Path(found.run_dir))  # read before the first line: it may be refused
    _show_summary(found, plan)
    for line in plan.data_facts.notes if isinstance(plan, Plan) else ():
        output.show(line)
    for line in held:
        output.show(line)


def _show_summary(found: Report, plan: AnyPlan) -> None:
    if isinstance(plan, CommandPlan):
        show.command_summary(found, plan)
        return
    results = Path(found.run_dir) / rundir.RESULTS_FILE
    try:
        if found.combos_done > found.combos_failed and results.is_file():
            show.ranking_metric(results, plan, plan.ranking)  # unreadable: say so first
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
    wanted: _Page,
) -> Path:
    from supervisor.report_page import build, plotly_script

    plotly_script()  # missing: say so before the results are read
    results = run_dir / rundir.RESULTS_FILE
    where = (wanted.out or run_dir / PAGE_FILE).absolute()
    try:
        chosen = _metric(results, plan)
        page = build(run_dir, plan, found, metric=chosen, x=wanted.x, y=wanted.y, asked=asked)
    except (OSError, ValueError) as error:
        raise _unreadable(results, error) from None
    try:
        durable.write_bytes(where, [page.encode("utf-8", "backslashreplace")])
    except OSError as error:
        raise ConfigError(f"{where} cannot be written: {error.strerror}", key="out") from None
    return where


def _metric(results: Path, plan: Plan) -> str | None:
    """Column that the page ranks by."""
    return show.ranking_metric(results, plan, plan.ranking)[0] if results.is_file() else None


def _ranked(plan: Plan, found: Report, wanted: Changes) -> Plan:
    """Rank as these options say, and as the run did where they say nothing."""
    ranking = wanted.ranking(plan.ranking)
    results = Path(found.run_dir) / rundir.RESULTS_FILE
    if ranking != plan.ranking and results.is_file():
        try:
            metric, complaint = show.ranking_metric(results, plan, ranking)
        except (OSError, ValueError) as error:
            raise _unreadable(results, error) from None
        if metric is None:
            raise ConfigError(complaint, key="sort")
    return replace(plan, ranking=ranking)


def _unreadable(results: Path, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return ConfigError(
        f"{results} cannot be read: {why}; if it is damaged, remove it: it is written again from "
        "the journals"
    )
