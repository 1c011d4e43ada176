"""What a run has done with the user's data: which columns were taken, and the year assumed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from supervisor.system.shape import Between

BarsPerYear = Annotated[float, Between(1e-3, 1e12)]


@dataclass(frozen=True, slots=True)
class DataFacts:
    """How the bars of a run were read, and how its ratios are annualised.

    Attributes
    ----------
    columns, symbol : str
        What the user said, see :class:`~supervisor.market.asked.Asked`; a resumed run reads the
        file in the same way.
    bars_per_year : float or None
        What ratios are annualised with, so that a resumed run does the same; None: the run
        began before this was written down, and took the median spacing.
    annualised : str
        How that was counted, for people.
    notes : tuple of str
        Which columns were taken, and what was done to them, for people.
    """

    columns: str = ""
    symbol: str = ""
    bars_per_year: BarsPerYear | None = None
    annualised: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``run.json`` and ``report.json``."""
        return asdict(self) | {"notes": list(self.notes)}
