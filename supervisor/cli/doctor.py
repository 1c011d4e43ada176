"""``doctor``: check what this machine supports, and say how to fix what it does not."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from supervisor.doctor.examine import examine
from supervisor.doctor.finding import Finding, Status
from supervisor.doctor.text import plain_lines, verdict

_COLOURS = {
    Status.OK: "green",
    Status.INFO: "blue",
    Status.WARNING: "yellow",
    Status.PROBLEM: "bold red",
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> int:
    """Check what this machine supports, and say how to fix what it does not.

    Exit code 0: no problem; 1: there is one.
    """
    findings = examine()
    if as_json:
        print(json.dumps([finding.to_json() for finding in findings]))
    else:
        _show(findings)
    return int(any(finding.status is Status.PROBLEM for finding in findings))


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        for line in plain_lines(findings):
            print(line)
        return
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(
            Text(finding.status, _COLOURS[finding.status]), finding.name, Text(finding.what)
        )
        if finding.mend:
            table.add_row("", "", Text(f"→ {finding.mend}", "dim"))
    console.print(table)
    console.print(verdict(findings))
