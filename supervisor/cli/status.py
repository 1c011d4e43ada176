"""``status``: show the status of a run, whether it runs, has ended or was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli import output
from supervisor.cli.text import containment_lines
from supervisor.errors import UntrustedError
from supervisor.lifecycle.status import Status, status_of
from supervisor.records import registry
from supervisor.records.command import shown


def status(
    run: Annotated[
        str | None, typer.Argument(help="Id or directory of a run; the latest run if omitted.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as JSON.")] = False,
) -> None:
    """Show the status and the progress of a run."""
    run_dir = registry.find_dir(run)
    found = status_of(run_dir)
    if as_json:
        output.show_json(found.to_json())
        return
    for line in _lines(found, run_dir):
        output.show(line)


def _lines(found: Status, run_dir: Path) -> list[str]:
    where = f": begun on {found.host}, and cannot be judged from here" if found.host else ""
    lines = [f"run {found.run_id}: {found.status}{where}"]
    if found.command is None:
        lines.append(f"  {found.done:,} of {found.total:,} combinations")
    else:
        lines.append(f"  {shown(tuple(found.command))}")
        if found.elapsed_s is not None:
            lines.append(f"  for {found.elapsed_s:.1f} s")
    if found.workers:
        kind = "workers" if found.command is None else "processes"
        lines.append(f"  {kind}: {', '.join(map(str, found.workers))}")
    try:
        lines += [f"  {line}" for line in containment_lines(run_dir)]
    except UntrustedError as error:  # of one file; what the run itself says was shown
        lines.append(f"  {error}")
    return [*lines, f"  {run_dir}"]
