"""The figures that README and docs/performance.md show, taken from ``bench/results/gpu``.

A document has a table between two comments; it is made from the results, and says "not
measured" where there are none. So no figure can differ from its measurement.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
from bench.gpu import kills
from bench.gpu.plan import STEPS, SUMMARY
from bench.gpu.record import Finding, StepRecord, read_all
from bench.gpu.table import NOT_MEASURED, in_a_cell, machine_line, number
from bench.harness.record import Row
from bench.harness.report import say
from supervisor.errors import ConfigError
from supervisor.system import durable

ROOT = Path(bench.__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "gpu"

BEGIN, END = "<!-- gpu -->", "<!-- /gpu -->"
"""What is between them is made by ``--publish``."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a published table.

    Attributes
    ----------
    label : str
        What was measured, for readers.
    step : str
        The step that measures it.
    row : str
        How the name of its row begins.
    goal : str
        What is aimed at; empty if nothing.
    detail : str
        Which detail of the row is shown; empty: its headline.
    """

    label: str
    step: str
    row: str
    goal: str = ""
    detail: str = ""


_RATE = "combinations/s at 1,000,000"

FULL = (
    Line("request → a running kernel is back, mapped flag, p99", "flag",
         "request → worker's wait is over, tier mapped", "< 1,000 µs"),
    Line("the same, word in VRAM, p99", "flag", "request → worker's wait is over, tier vram"),
    Line("the same, launches of one wave, p99", "flag",
         "request → worker's wait is over, tier waves"),
    Line("kernel slower by polling every 300 µs", "flag",
         "poll every 300 µs in each block, in turns, as the backtests do", "≤ 0.5 %"),
    *(
        Line(f"{size} GB of VRAM back after a stop, times SIGKILL alone", "release",
             f"{size} GB: flag, then _exit", "≤ 1.1 ×")
        for size in (1, 20, 70)
    ),
    Line("the same for 70 GB, in ms", "release", "70 GB: flag, then _exit",
         detail="at_baseline_ms"),
    Line("70 GB, memory freed and context reset before the exit, times SIGKILL", "release",
         "70 GB: flag, free, reset"),
    Line("workers of CuPy and PyTorch killed at random moments", "kills",
         "kills at random moments", "200"),
    Line("kills after which the device was not at its baseline", "kills",
         "after which the device is not", "0"),
    Line("errors in the driver's log that matter", "kills", "errors in the driver's log", "0"),
    *(
        Line(f"`{strategy}`: rows that differ from the CPU's in any bit, of 1,000", "kernels",
             f"{strategy}: rows that differ", "0")
        for strategy in ("sma_cross", "bollinger_reversion", "rsi_reversion", "donchian_breakout")
    ),
    Line("`sma_cross`, 1,000,000 combinations × 525,600 bars", "kernels", f"sma_cross: {_RATE}",
         "≥ 2,000,000 /s"),
    *(
        Line(f"`{strategy}`, the same", "kernels", f"{strategy}: {_RATE}")
        for strategy in ("bollinger_reversion", "rsi_reversion", "donchian_breakout")
    ),
    *(
        Line(f"`{strategy}`, 10,000 combinations", "kernels",
             f"{strategy}: combinations/s at 10,000")
        for strategy in ("sma_cross", "bollinger_reversion", "rsi_reversion", "donchian_breakout")
    ),
    Line("`sma_cross`, times one CPU core", "kernels", "sma_cross: times one core"),
    Line("`sma_cross` with PyTorch", "torch", "torch sma_cross: rate"),
)  # fmt: skip
"""Lines of docs/performance.md."""

BRIEF = (
    Line("stop of a kernel, p99", "flag", "request → worker's wait is over, tier mapped"),
    Line("70 GB back", "release", "70 GB: flag, then _exit", detail="at_baseline_ms"),
    Line("`sma_cross`", "kernels", f"sma_cross: {_RATE}"),
)
"""What README.md says."""


def row_of(line: Line, found: Mapping[str, Finding]) -> Row | None:
    """Return the row that a line shows, or None."""
    rows = found[line.step].rows if line.step in found else []
    return next((row for row in rows if row.name.startswith(line.row)), None)


def cell_of(line: Line, found: Mapping[str, Finding]) -> str:
    """Return what a line's cell says."""
    row = row_of(line, found)
    if row is None or row.headline is None:
        return NOT_MEASURED
    if line.detail:
        spread = row.details.get(line.detail)
        unit = line.detail.rpartition("_")[2]
        return NOT_MEASURED if spread is None else f"{number(spread.median)} {unit}"
    return f"{number(row.headline.median)} {row.headline_unit}".strip()


def full_table(found: Mapping[str, Finding], machine: Mapping[str, Any]) -> str:
    """Return the table of docs/performance.md, with the machine above it."""
    lines = [f"Machine: {in_a_cell(machine_line(machine)) or NOT_MEASURED}.", ""]
    lines += ["| | measured | goal |", "|---|---|---|"]
    lines += [f"| {line.label} | {cell_of(line, found)} | {line.goal} |" for line in FULL]
    return "\n".join(lines)


def brief_line(found: Mapping[str, Finding], machine: Mapping[str, Any]) -> str:
    """Return the sentence of README.md."""
    name = machine.get("gpu", {}).get("name", "GPU")
    shown = "; ".join(f"{line.label}: {cell_of(line, found)}" for line in BRIEF)
    return f"{name}: {shown}."


DOCUMENTS = {"README.md": brief_line, "docs/performance.md": full_table}
"""Documents with figures, and what makes them."""


def results() -> tuple[dict[str, Finding], dict[str, Any]]:
    """Return the published findings by step, and their machine; both empty without results."""
    found = read_all(RESULTS, (step.file for step in STEPS))
    summary = RESULTS / SUMMARY
    machine = durable.read_json(summary, shared=True).get("machine", {}) if summary.exists() else {}
    return found, machine


def with_table(text: str, table: str) -> str:
    """Return a document with its table replaced.

    Raises
    ------
    ConfigError
        If it has no place for one.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ConfigError(f"the document has no {BEGIN}", key="publish")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text, count=1)


def publish(directories: Sequence[Path]) -> None:
    """Take the results of one machine into the repository, and make the tables from them.

    Parameters
    ----------
    directories : sequence of Path
        Of one or more calls, the later ones winning; their kills are joined.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys([*(step.file for step in STEPS), SUMMARY])
    killed = []
    for directory in directories:
        for name in names:
            if (directory / name).exists():
                shutil.copyfile(directory / name, RESULTS / name)
        calls = read_all(directory, ["kills.json"])
        if "kills" in calls:
            killed.append(calls["kills"].facts)
    _join(killed)
    found, machine = results()
    for document, make in DOCUMENTS.items():
        path = ROOT / document
        text = with_table(path.read_text(), make(found, machine))
        durable.write_bytes(path, [text.encode()])
        say(f"{document}: its GPU table is made from {RESULTS.relative_to(ROOT)}")


def _join(calls: Sequence[Mapping[str, Any]]) -> None:
    """Join the kills of several calls into the published file."""
    if len(calls) < 2:
        return
    record = StepRecord.resume(RESULTS / "kills.json", "kills")
    seen = kills.merged(call.get("kills", []) for call in calls)
    logs = [call.get("xids") for call in calls]
    xids = None if None in logs else [xid for log in logs for xid in log or []]
    record.finding.facts |= {"kills": seen, "xids": xids}
    record.rows(kills.rows_of(seen, xids))
