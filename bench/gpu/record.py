"""What the steps have found, in JSON files that are written anew after every finding.

Several steps share a file; they run one after the other, and a file is replaced whole. So
whatever ends a step, its findings so far are there.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from bench.gpu.plan import STEPS
from bench.harness.record import Row, row_from_json
from supervisor.errors import ConfigError
from supervisor.system import durable

FORMAT = 1
"""Version of the JSON files."""


class Status(StrEnum):
    """How a step ended."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    NOT_RUN = "not run"


@dataclass(slots=True)
class Finding:
    """What one step has found.

    Attributes
    ----------
    title : str
        What it shows.
    status : Status
        How it ended.
    why : str
        Why it has not ended well; empty when it has.
    began : str
        Date and time, UTC.
    took_s : float
        How long it took, in s.
    rows : list of Row
        Figures.
    facts : dict
        Answers that are no figures, and raw values.
    """

    title: str
    status: Status = Status.RUNNING
    why: str = ""
    began: str = ""
    took_s: float = 0.0
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = dataclasses.asdict(self)
        for shown, row in zip(plain["rows"], self.rows, strict=True):
            shown["headline_unit"], shown["met"] = row.headline_unit, row.met
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Rebuild what :meth:`to_json` gave."""
        known = {item.name: plain[item.name] for item in dataclasses.fields(cls)}
        known["status"] = Status(known["status"])
        known["rows"] = [row_from_json(row) for row in known["rows"]]
        return cls(**known)


class StepRecord:
    """A step's part of its file; every change is on disk when the call returns.

    Parameters
    ----------
    path : Path
        The file; other steps' parts are kept.
    name : str
        The step.
    finding : Finding
        What there is so far.
    """

    def __init__(self, path: Path, name: str, finding: Finding) -> None:
        self._path = path
        self._name = name
        self.finding = finding

    @classmethod
    def begin(cls, path: Path, name: str, title: str) -> Self:
        """Begin a step anew, whatever an earlier attempt has left."""
        began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = cls(path, name, Finding(title, began=began))
        record.save()
        return record

    @classmethod
    def resume(cls, path: Path, name: str) -> Self:
        """Take up what another process has begun."""
        return cls(path, name, read_findings(path)[name])

    def row(self, row: Row) -> None:
        """Add a figure."""
        self.finding.rows.append(row)
        self.save()

    def rows(self, rows: Sequence[Row]) -> None:
        """Replace all figures."""
        self.finding.rows = list(rows)
        self.save()

    def fact(self, name: str, value: Any) -> None:
        """Add an answer, or replace it."""
        self.finding.facts[name] = value
        self.save()

    def end(self, status: Status, why: str, took_s: float) -> None:
        """Say how the step ended."""
        self.finding.status, self.finding.why = status, why
        self.finding.took_s = round(took_s, 2)
        self.save()

    def save(self) -> None:
        """Write the file with this part replaced."""
        found = read_findings(self._path) if self._path.exists() else {}
        found[self._name] = self.finding
        steps = {name: finding.to_json() for name, finding in found.items()}
        durable.write_json(self._path, {"format": FORMAT, "steps": steps})


def read_findings(path: Path) -> dict[str, Finding]:
    """Read a file of steps.

    Raises
    ------
    ConfigError
        If it is none, or of another format.
    """
    plain = durable.read_json(path, shared=True)
    if plain.get("format") != FORMAT or "steps" not in plain:
        raise ConfigError(f"{path}: not a file of GPU measurements in format {FORMAT}")
    return {name: Finding.from_json(found) for name, found in plain["steps"].items()}


def read_all(directory: Path, files: Iterable[str]) -> dict[str, Finding]:
    """Return the findings of all files that are there, by step, in the order of the steps."""
    found: dict[str, Finding] = {}
    for name in dict.fromkeys(files):
        if (directory / name).exists():
            found |= read_findings(directory / name)
    return {step.name: found[step.name] for step in STEPS if step.name in found}
