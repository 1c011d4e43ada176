"""Which combination is better: by which metric, in which direction, with how many trades."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.rows.names import title_of
from supervisor.system.shape import Count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

USUAL_METRIC = "sharpe"
TRADES = "trades"


@dataclass(frozen=True, slots=True)
class Ranking:
    """How combinations are ranked.

    Attributes
    ----------
    metric : str
        A metric, as results call it. Empty: ``sharpe`` where there is one, else the first.
    ascending : bool
        Whether the lowest value is the best.
    min_trades : int
        Combinations with fewer trades are not ranked.
    """

    metric: str = ""
    ascending: bool = False
    min_trades: Count = 0

    def choose(self, metrics: Sequence[str]) -> str | None:
        """Choose one of the metrics; None if the one that was asked for is not there."""
        wanted = self.metric or USUAL_METRIC
        if wanted in metrics:
            return wanted
        return None if self.metric else next(iter(metrics), None)

    def places(self, metrics: Sequence[str], parameters: Collection[str]) -> Places | None:
        """Find the columns that decide, among metrics as strategies call them."""
        titles = [title_of(metric, parameters) for metric in metrics]
        chosen = self.choose(titles)
        if chosen is None or (self.min_trades and TRADES not in titles):
            return None
        trades = titles.index(TRADES) if self.min_trades else None
        return Places(titles.index(chosen), trades)

    def scores(
        self, values: NDArray[np.float64], trades: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Score combinations: the highest is the best, -inf is none at all.

        Parameters
        ----------
        values : ndarray of float64, shape (n,)
            The metric; what is not finite is never the best.
        trades : ndarray of float64, shape (n,), or None
            Needed where :attr:`min_trades` is set.
        """
        import numpy as np

        ranked = np.isfinite(values)
        if self.min_trades:
            ranked &= False if trades is None else trades >= self.min_trades
        return np.where(ranked, self.sign * values, -np.inf)

    @property
    def sign(self) -> float:
        """What a score is multiplied by to give the value again."""
        return -1.0 if self.ascending else 1.0

    def describe(self, metric: str) -> str:
        """Say how the best by a metric were chosen."""
        words = f"{metric}, ascending" if self.ascending else metric
        if self.min_trades:
            s = "s" * (self.min_trades != 1)
            words += f", of those with at least {self.min_trades:,} trade{s}"
        return words

    def complaint(self, metrics: Sequence[str]) -> str:
        """Say why nothing can be ranked, if the columns are these."""
        known = ", ".join(metrics) or "none"
        if self.choose(metrics) is None:
            return f"the run has no metric {self.metric!r} to rank by; its metrics: {known}"
        return (
            f"the run has no metric {TRADES!r}, which a least number of trades needs; "
            f"its metrics: {known}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``run.json``."""
        return {"metric": self.metric, "ascending": self.ascending, "min_trades": self.min_trades}


@dataclass(frozen=True, slots=True)
class Places:
    """Columns that decide: of the metric, and of the number of trades where it matters."""

    metric: int
    trades: int | None
