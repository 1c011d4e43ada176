"""``run``: a sweep from data to results, or any command.

Only what both have in common is here: the code of each is imported when it is known which of
them is requested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli.invocation import Invocation
from supervisor.cli.parameters import takes_options
from supervisor.lifecycle.options import Group, Use


@takes_options(Use.SWEEP | Use.COMMAND)
def run(
    context: typer.Context,
    spec: Annotated[
        Path | None,
        typer.Argument(help="TOML file that describes the sweep.", show_default=False),
    ] = None,
    *,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the report as JSON.", rich_help_panel=Group.OUTPUT.value
        ),
    ] = False,
    **given: Any,
) -> int:
    """Run a parameter sweep; without arguments, a built-in example.

    Ctrl+C stops the run completely and keeps every finished result; a second Ctrl+C kills at
    once. Options given here replace those of the TOML file.

    "run -- CMD ARG…" runs any command instead; a stop ends everything it has started.
    """
    invocation: Invocation = context.obj
    if invocation.command is None:
        from supervisor.cli import sweep

        return sweep.run(sweep.read_options(spec, given), as_json=as_json)
    from supervisor.cli import command

    command.refuse_sweep_options(spec, given)
    return command.run(invocation, given, as_json=as_json)
