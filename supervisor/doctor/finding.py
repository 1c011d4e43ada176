"""What one check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    """As it should be."""
    INFO = "info"
    """A fact; runs work either way."""
    WARNING = "warning"
    """Runs work, with less than they could have."""
    PROBLEM = "problem"
    """Runs fail, or a promise does not hold."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What was looked at, in a word or two.
    status : Status
        How much it matters.
    what : str
        What was seen, on one line.
    mend : str
        What to do about it; empty if there is nothing to do.
    """

    name: str
    status: Status
    what: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return asdict(self) | {"status": str(self.status)}
