"""Tables of a session of measurements. The only file here that prints."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.harness.record import Comparison, Document, Measurement, Row, Spread

_WIDTH = 160  # without a terminal


def print_document(document: Document) -> None:
    """Print the machine and a table for every measurement."""
    console = _console()
    console.print(Text(_machine_line(document.machine)), style="dim")
    for measurement in document.measurements:
        console.print()
        console.print(table_of(measurement))


def print_json(document: Document) -> None:
    """Print the document as one JSON object."""
    sys.stdout.write(json.dumps(document.to_json(), indent=2) + "\n")


def say(line: str) -> None:
    """Print progress to stderr; it is not part of the results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def table_of(measurement: Measurement) -> Table:
    """Return a measurement as a table: the headline first, then ours and the floor."""
    table = Table(
        title=f"{measurement.title} ({measurement.took_s:.0f} s)",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("what", ratio=4)
    table.add_column("headline", justify="right", ratio=2)
    table.add_column("target", justify="right")
    table.add_column("ours\nmin · q1 · median · q3 · max", justify="right", ratio=4)
    table.add_column("floor\nmin · q1 · median · q3 · max", justify="right", ratio=4)
    for row in measurement.rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[Text, Text, Text, Text, Text]:
    what = Text(row.name)
    if row.note:
        what.append(f"\n{row.note}", style="dim")
    for name, spread in row.details.items():
        what.append(f"\n{name}: {_number(spread.median)}", style="dim")
        if spread.n > 1:
            what.append(f" ({_number(spread.min)} to {_number(spread.max)})", style="dim")
    if row.headline is None:
        problem = Text(f"not measured: {row.not_measured}", style="yellow")
        return what, problem, Text(str(row.target or "")), Text(""), Text("")
    colour = {True: "green", False: "bold red", None: ""}[row.met]
    sign = "+" if row.comparison in _SIGNED and row.headline.median > 0 else ""
    headline = Text(f"{sign}{_number(row.headline.median)} {row.headline_unit}", style=colour)
    headline.append(
        f"\n{_number(row.headline.q1)} to {_number(row.headline.q3)}, n={row.headline.n}",
        style="dim",
    )
    return (
        what,
        headline,
        Text(str(row.target or "")),
        _spread(row.ours, row.unit),
        _spread(row.floor, row.unit, row.floor_name),
    )


_SIGNED = (Comparison.DIFFERENCE, Comparison.OVERHEAD, Comparison.LOSS)


def _spread(spread: Spread | None, unit: str, name: str = "") -> Text:
    if spread is None:
        return Text("")
    numbers = (spread.min, spread.q1, spread.median, spread.q3, spread.max)
    text = Text(" · ".join(map(_number, numbers)) + f" {unit}")
    if name:
        text.append(f"\n{name}", style="dim")
    return text


def _number(value: float) -> str:
    """Three significant digits, or all of them before the point."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def _machine_line(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['usable_cores']} cores, "
        f"{machine['ram_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, "
        f"huge pages {machine['transparent_hugepage']}, load {machine['load_average']}, "
        f"Python {machine['python']}, {versions}"
    )


def _console() -> Console:
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console()
    return Console(width=_WIDTH)
