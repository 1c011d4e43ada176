"""``reap``: clean up after runs that were killed."""

from __future__ import annotations

from typing import Annotated

import typer

from supervisor.cli import output, show
from supervisor.lifecycle.reap import Reaped, reap_named
from supervisor.lifecycle.reap import reap as reap_dead_runs
from supervisor.states import ExitCode


def reap(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Id or directory of one run, which you know to be dead though it was begun on "
            "another host: its cluster jobs are cancelled.",
            show_default="all dead runs of this host",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was cleaned up as JSON.")
    ] = False,
) -> int:
    """Clean up after runs that were killed, and write their results and reports.

    Kills their processes, also those that hold a GPU, cancels their cluster
    jobs, removes their sockets and registry entries.

    Exit code 0: nothing is left; 1: a run could not be finished; 3: a process or
    a job survived.
    """
    done = []
    for reaped in reap_dead_runs() if run is None else reap_named(run):
        done.append(reaped)
        if not as_json:
            for line in lines(reaped):
                output.show(line)
            output.finish()
    if as_json:
        output.show_json({"reaped": [reaped.to_json() for reaped in done]})
    elif not done:
        output.show("nothing to clean up")
    if any(reaped.survivors for reaped in done):
        return ExitCode.INCOMPLETE
    return ExitCode.FAILED if any(reaped.error for reaped in done) else ExitCode.DONE


def lines(reaped: Reaped) -> list[str]:
    """Describe what was done about one run."""
    facts = []
    if reaped.processes_killed:
        facts.append(f"killed {', '.join(reaped.processes_killed)}")
    if reaped.vram_freed_bytes is not None:
        facts.append(f"{reaped.vram_freed_bytes / 2**20:,.0f} MB of VRAM came back")
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
        said.append(f"  to resume it: allstop resume {show.quoted(reaped.run_dir)}")
    return said
