"""``doctor``: what this machine can do for a run, and how to fix what it cannot."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from supervisor.cli import output
from supervisor.doctor.examine import examine
from supervisor.doctor.finding import Finding, Status
from supervisor.doctor.text import plain_lines, summary
from supervisor.system.printable import printable

_COLOURS = {
    Status.OK: "green",
    Status.INFO: "blue",
    Status.WARNING: "yellow",
    Status.PROBLEM: "bold red",
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of findings.")] = False,
) -> int:
    """Check what this machine can do for a run, and print how to fix what it cannot.

    The exit code is 0 if there is no problem, and 1 if there is one.
    """
    findings = examine()
    if as_json:
        output.show_json([finding.to_json() for finding in findings])
    else:
        _show(findings)
    return int(any(finding.status is Status.PROBLEM for finding in findings))


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        for line in plain_lines(findings):
            output.show(line)
        return
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(
            Text(finding.status, _COLOURS[finding.status]),
            finding.name,
            Text(printable(finding.what)),
        )
        if finding.fix:
            table.add_row("", "", Text(printable(f"→ {finding.fix}"), "dim"))
    console.print(table)
    console.print(summary(findings))
