"""``reap``: clear away what dead runs left."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from supervisor.cli import show
from supervisor.lifecycle.reap import Reaped
from supervisor.lifecycle.reap import reap as reap_dead_runs
from supervisor.states import ExitCode


def reap(
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> int:
    """Clear away what dead runs left: processes, sockets, registry entries.

    Their results and reports are written from what their journals hold. Exit
    code 0: all clear; 1: a run could not be finished; 3: something survived.
    """
    done = []
    for reaped in reap_dead_runs():
        done.append(reaped)
        if not as_json:
            for line in lines(reaped):
                print(line, flush=True)
    if as_json:
        print(json.dumps({"reaped": [reaped.to_json() for reaped in done]}))
    elif not done:
        print("no run has died")
    if any(reaped.survivors for reaped in done):
        return ExitCode.INCOMPLETE
    return ExitCode.FAILED if any(reaped.error for reaped in done) else ExitCode.DONE


def lines(reaped: Reaped) -> list[str]:
    """Say what was done about one run."""
    facts = []
    if reaped.processes_killed:
        facts.append(f"killed {', '.join(reaped.processes_killed)}")
    if reaped.jobs_ended:
        facts.append(f"gone: {', '.join(reaped.jobs_ended)}")
    if reaped.status is not None:
        rows = reaped.combos_done
        of_sweep = "" if rows is None else f", {rows:,} combinations in its results"
        facts.append(f"{reaped.status}{of_sweep}")
    if reaped.error:
        facts.append(f"could not be finished: {reaped.error}")
    said = [f"{reaped.run_id}: {'; '.join([*facts, *reaped.notes])}"]
    said += [f"  survivor: {survivor}" for survivor in reaped.survivors]
    if reaped.combos_done is not None and reaped.status != "completed":
        said.append(f"  carry it on: allstop resume {show.quoted(reaped.run_dir)}")
    return said
