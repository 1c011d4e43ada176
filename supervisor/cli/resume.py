"""``resume``: compute what a run has not finished, whatever ended it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from supervisor.cli import show
from supervisor.cli.parameters import takes_options
from supervisor.cli.sweep import run_prepared
from supervisor.front.launch import Launch
from supervisor.front.link import WardenLink, keep_warden
from supervisor.lifecycle import options
from supervisor.lifecycle.checks import check_path
from supervisor.lifecycle.options import Group, Use
from supervisor.lifecycle.prepare import Changes
from supervisor.lifecycle.resuming import complete, prepare
from supervisor.lifecycle.still_ending import await_end
from supervisor.records import registry, rundir


@takes_options(Use.RESUME, unset="as before")
def resume(
    run: Annotated[str, typer.Argument(help="Id or directory of a run.")],
    *,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the report as JSON.", rich_help_panel=Group.OUTPUT.value
        ),
    ] = False,
    **given: Any,
) -> int:
    """Resume a run, whatever ended it: only what is missing is computed.

    The run keeps its id and directory, and finished combinations are kept. Its results are
    those of a run that was never interrupted. Combinations that failed are kept as failed
    unless --retry-failed is given.
    """
    changes = Changes.of(options.from_command_line(given))
    run_dir = registry.find_dir(str(check_path(run, "run")))
    await_end(run_dir, show.tell)
    done = complete(run_dir, changes)
    if done is not None:
        return show.say_complete(done, run_dir, as_json=as_json)
    # the warden loads its libraries while the data is read and checked
    asked = rundir.read_run_file(run_dir)
    wanted = changes.containment or str(asked.get("containment", "auto"))
    device = changes.device or str(asked.get("device", "auto"))
    keep_warden(WardenLink(Launch(str(asked.get("strategy", "")), wanted, device)))
    return run_prepared(prepare(str(run_dir), changes), as_json=as_json)
