"""``jobs``: the cluster jobs of a run, and what they are doing."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from slurm.cancel import cancel
from slurm.connect import connect
from slurm.controller.calls import Cluster
from slurm.look import look
from slurm.records.book import Keeper
from slurm.records.outcome import JobOutcome, outcomes
from slurm.records.outstanding import all_outstanding
from supervisor.errors import AllstopError
from supervisor.records import registry, rundir
from supervisor.states import ExitCode


def jobs(
    run: Annotated[
        str | None,
        typer.Argument(help="A run's id or directory; all that are still owed if left out."),
    ] = None,
    cancel_them: Annotated[
        bool, typer.Option("--cancel", help="Cancel them, detached ones too, and see them gone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """List cluster jobs with their state. Exit code 3: a state could not be learnt."""
    ledgers = [registry.find_dir(run) / rundir.LEDGER_FILE] if run else _owed()
    found, complaints = [], []
    for ledger in ledgers:
        if ledger.exists():
            known, complaint = _ask(ledger, cancel_them=cancel_them)
            found += known
            complaints += [complaint] if complaint else []
    if as_json:
        print(json.dumps({"jobs": [job._asdict() for job in found], "errors": complaints}))
    else:
        _show(found, complaints)
    return ExitCode.INCOMPLETE if complaints else ExitCode.DONE


def _owed() -> list[Path]:
    return [debt.ledger for debt in all_outstanding()]


def _ask(ledger: Path, *, cancel_them: bool) -> tuple[list[JobOutcome], str | None]:
    """What the jobs of one ledger are doing, and why that is not certain."""
    with closing(Keeper(ledger)) as keeper:
        book = keeper.book
        try:
            with closing(connect(book.address, book.variables)) as transport:
                if cancel_them:
                    return cancel(Cluster(transport), keeper)[:2]
                look(Cluster(transport), keeper)
        except AllstopError as error:
            return outcomes(keeper.book), str(error)
        return outcomes(keeper.book), None


def _show(found: list[JobOutcome], complaints: list[str]) -> None:
    for job in found:
        print(f"{job.id or '(id unknown)':>12}  {job.state:<11} {job.token}")
    for complaint in complaints:
        print(f"allstop: {complaint}")
    if not found and not complaints:
        print("no jobs")
