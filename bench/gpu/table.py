"""The table of a call, as markdown: every figure of every step, and what is missing and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.gpu.record import Finding, Status
from bench.harness.record import Row, Spread

NOT_MEASURED = "not measured"


def document(machine: Mapping[str, Any], found: Mapping[str, Finding]) -> str:
    """Return the machine and a table for each step."""
    parts = ["# GPU measurements", machine_line(machine)]
    for name, finding in found.items():
        heading = f"## {name}: {finding.title}"
        parts += [heading, _how_it_ended(finding), *_table(finding.rows)]
        parts += [f"- {key}: {short(value)}" for key, value in finding.facts.items()]
    return "\n\n".join(part for part in _joined(parts)) + "\n"


def _joined(parts: list[str]) -> list[str]:
    """Items of one list, and lines of one table, follow each other without a blank line."""
    joined: list[str] = []
    for part in parts:
        if part[:1] in "-|" and joined and joined[-1][:1] == part[:1]:
            joined[-1] += f"\n{part}"
        elif part:
            joined.append(part)
    return joined


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return the machine in a line, as far as it is known."""
    gpu = machine.get("gpu", {})
    versions = machine.get("versions", {})
    names = ("cupy-cuda13x", "cupy-cuda12x", "torch", "numba-cuda")
    known = [
        gpu.get("name"),
        gpu.get("driver") and f"driver {gpu['driver']}",
        machine.get("cpu"),
        machine.get("usable_cores") and f"{machine['usable_cores']} cores",
        machine.get("kernel") and f"Linux {machine['kernel']}",
        machine.get("python") and f"Python {machine['python']}",
        *(f"{name} {versions[name]}" for name in names if versions.get(name)),
    ]
    return ", ".join(part for part in known if part)


def _how_it_ended(finding: Finding) -> str:
    if finding.status is Status.DONE:
        return f"{finding.took_s:.0f} s"
    return f"{finding.status} after {finding.took_s:.0f} s: {short(finding.why, 600)}"


def _table(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    head = ["| what | median | goal | min · q1 · q3 · max |", "|---|---|---|---|"]
    return head + [f"| {' | '.join(map(in_a_cell, _cells(row)))} |" for row in rows]


def _cells(row: Row) -> tuple[str, str, str, str]:
    name = f"{row.name} ({row.note})" if row.note else row.name
    goal = str(row.target or "")
    if row.headline is None:
        return name, f"{NOT_MEASURED}: {row.not_measured}", goal, ""
    verdict = {True: "", False: " (missed)", None: ""}[row.met]
    headline = f"{number(row.headline.median)} {row.headline_unit}{verdict}"
    return name, headline, goal, _spread(row.headline) if row.headline.n > 1 else ""


def _spread(spread: Spread) -> str:
    return " · ".join(map(number, (spread.min, spread.q1, spread.q3, spread.max)))


def number(value: float) -> str:
    """Return three significant digits, or all of them before the point."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def in_a_cell(text: str) -> str:
    """Return text that does not end a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def short(value: Any, most: int = 300) -> str:
    """Return a fact in a line."""
    text = in_a_cell(str(value))
    return text if len(text) <= most else f"{text[: most - 1]}…"
