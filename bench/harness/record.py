"""Records of what was measured, and their JSON.

A row is one quantity against its floor. Its headline compares the two *round
by round* (they ran interleaved, so whatever disturbed the machine disturbed
both) and is given with its spread; absolute times are for orientation.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

FORMAT = 1
"""Version of the JSON document."""


class Comparison(StrEnum):
    """How a row's headline is computed from ours and the floor."""

    VALUE = "value"
    """Ours as it is; there is no floor."""
    WHOLE = "whole"
    """Ours as it is, with a floor for orientation."""
    DIFFERENCE = "difference"
    """Ours − floor, in the row's unit."""
    RATIO = "ratio"
    """Ours ÷ floor."""
    OVERHEAD = "overhead"
    """Time above the floor's, in % of it."""
    LOSS = "loss"
    """Rate below the floor's, in % of it."""

    def of(self, ours: float, floor: float) -> float:
        """Compare one round."""
        match self:
            case Comparison.VALUE | Comparison.WHOLE:
                return ours
            case Comparison.DIFFERENCE:
                return ours - floor
            case Comparison.RATIO:
                return ours / floor
            case Comparison.OVERHEAD:
                return 100 * (ours / floor - 1)
            case Comparison.LOSS:
                return 100 * (1 - ours / floor)

    def unit(self, unit: str) -> str:
        """Unit of the headline, given that of the row."""
        if self is Comparison.RATIO:
            return "×"
        return "%" if self in (Comparison.OVERHEAD, Comparison.LOSS) else unit


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and spread of one quantity over the rounds.

    Attributes
    ----------
    n : int
        Number of rounds.
    min, q1, median, q3, max : float
        Smallest value, quartiles, largest value.
    """

    n: int
    min: float
    q1: float
    median: float
    q3: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise values, of which there is at least one."""
        ordered = sorted(map(float, values))
        if len(ordered) == 1:
            return cls(1, *(ordered * 5))
        q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(len(ordered), ordered[0], q1, median, q3, ordered[-1])


@dataclass(frozen=True, slots=True)
class Target:
    """The limit that a headline's median must reach."""

    limit: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        """Whether ``value`` reaches the limit; NaN does not."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        """Return the limit as tables show it."""
        return f"{'≤' if self.at_most else '≥'} {self.limit:,g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity against its floor.

    Attributes
    ----------
    name : str
        What was measured.
    unit : str
        Of ours and the floor.
    comparison : Comparison
        How the headline is computed.
    ours, floor, headline : Spread or None
        None: there is no such thing, or it was not measured.
    floor_name : str
        What the floor is.
    target : Target or None
        For the headline's median.
    not_measured : str
        Why there are no numbers; empty when there are.
    note : str
        What a reader must know to interpret the numbers.
    details : dict of str to Spread
        Further quantities of the same rounds; the names end in their unit.
    """

    name: str
    unit: str
    comparison: Comparison = Comparison.VALUE
    ours: Spread | None = None
    floor_name: str = ""
    floor: Spread | None = None
    headline: Spread | None = None
    target: Target | None = None
    not_measured: str = ""
    note: str = ""
    details: dict[str, Spread] = field(default_factory=dict)

    @property
    def headline_unit(self) -> str:
        """Unit of the headline."""
        return self.comparison.unit(self.unit)

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without a target or a number."""
        if self.target is None or self.headline is None:
            return None
        return self.target.met(self.headline.median)


def compare(
    name: str,
    unit: str,
    ours: Sequence[float],
    floor: Sequence[float] = (),
    *,
    comparison: Comparison = Comparison.VALUE,
    floor_name: str = "",
    target: Target | None = None,
    note: str = "",
    details: Mapping[str, Sequence[float]] | None = None,
) -> Row:
    """Make a row from the values of all rounds.

    Parameters
    ----------
    name, unit, comparison, floor_name, target, note
        As in :class:`Row`.
    ours, floor : sequence of float
        Values in the order of the rounds.
    details : mapping of str to sequence of float, optional
        Further quantities; empty ones and NaN are left out.

    Returns
    -------
    Row
        Marked as not measured when a sequence that is needed is empty.
    """
    if comparison is Comparison.VALUE:
        floor = [0.0] * len(ours)
    paired = [comparison.of(a, b) for a, b in zip(ours, floor, strict=False)]
    if not paired:
        return Row(name, unit, not_measured="no round gave a number", target=target)
    seen = {
        key: [value for value in values if not math.isnan(value)]
        for key, values in (details or {}).items()
    }
    return Row(
        name=name,
        unit=unit,
        comparison=comparison,
        ours=Spread.of(ours),
        floor_name=floor_name,
        floor=None if comparison is Comparison.VALUE else Spread.of(floor),
        headline=Spread.of(paired),
        target=target,
        note=note,
        details={key: Spread.of(values) for key, values in seen.items() if values},
    )


@dataclass(frozen=True, slots=True)
class Measurement:
    """All rows of one measurement, and how long taking them took."""

    name: str
    title: str
    took_s: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole session of measurements, with the machine it was made on."""

    date: str
    machine: dict[str, Any]
    shape: dict[str, Any]
    measurements: tuple[Measurement, ...]
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain values; headline units and verdicts are spelled out for readers of the JSON."""
        plain = dataclasses.asdict(self)
        for measurement, record in zip(plain["measurements"], self.measurements, strict=True):
            for row, made_of in zip(measurement["rows"], record.rows, strict=True):
                row["headline_unit"], row["met"] = made_of.headline_unit, made_of.met
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """Rebuild a document from what :meth:`to_json` gave.

        Raises
        ------
        ValueError
            If it is of another format.
        """
        if plain.get("format") != FORMAT:
            raise ValueError(f"format {plain.get('format')!r} is not {FORMAT}")
        return cls(
            date=plain["date"],
            machine=plain["machine"],
            shape=plain["shape"],
            measurements=tuple(
                Measurement(
                    m["name"], m["title"], m["took_s"], tuple(map(row_from_json, m["rows"]))
                )
                for m in plain["measurements"]
            ),
        )


def row_from_json(plain: Mapping[str, Any]) -> Row:
    """Rebuild a row from its JSON."""
    known = {item.name: plain[item.name] for item in dataclasses.fields(Row)}
    for name in ("ours", "floor", "headline"):
        known[name] = known[name] and Spread(**known[name])
    known["comparison"] = Comparison(known["comparison"])
    known["target"] = known["target"] and Target(**known["target"])
    known["details"] = {key: Spread(**spread) for key, spread in known["details"].items()}
    return Row(**known)
