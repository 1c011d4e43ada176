"""The result of one check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    """In order."""
    INFO = "info"
    """A fact that needs no action."""
    WARNING = "warning"
    """Runs work, but slower or without a feature."""
    PROBLEM = "problem"
    """Runs fail, or a stop may be incomplete."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    name : str
        What was checked, in a word or two.
    status : Status
        How much it matters.
    what : str
        What was observed, on one line.
    fix : str
        What to do about it, on one line; empty if there is nothing to do.
    """

    name: str
    status: Status
    what: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return asdict(self) | {"status": str(self.status)}
