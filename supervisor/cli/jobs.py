"""``jobs``: list the cluster jobs of a run with their states, or cancel them."""

from __future__ import annotations

from typing import Annotated

import typer

from slurm.records.outcome import JobOutcome
from supervisor.cli import output
from supervisor.lifecycle.jobs import cancel_jobs, see_jobs
from supervisor.states import ExitCode


def jobs(
    run: Annotated[
        str | None,
        typer.Argument(help="Id or directory of a run; all outstanding jobs if omitted."),
    ] = None,
    cancel: Annotated[
        bool,
        typer.Option(
            "--cancel", help="Cancel them, detached jobs too, and wait until they are gone."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the jobs as JSON.")] = False,
) -> int:
    """List cluster jobs with their states, or cancel them.

    Exit code 0: all states are known; 3: a state is not, or a job is left.
    """
    found: list[JobOutcome] = []
    complaints: list[str] = []
    for seen in (cancel_jobs if cancel else see_jobs)(run):
        found += seen.jobs
        complaints += [seen.error] if seen.error else []
    if as_json:
        output.show_json({"jobs": [job._asdict() for job in found], "errors": complaints})
    else:
        _show(found, complaints)
    return ExitCode.INCOMPLETE if complaints else ExitCode.DONE


def _show(found: list[JobOutcome], complaints: list[str]) -> None:
    for job in found:
        output.show(f"{job.id or '(id unknown)':>12}  {job.state:<11} {job.token}")
    for complaint in complaints:
        output.show(f"allstop: {complaint}")
    if not found and not complaints:
        output.show("no jobs")
