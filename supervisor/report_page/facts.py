"""Everything the page shows, as one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor.records.plan import Plan
from supervisor.records.report import Report
from supervisor.report_page.heat import Heat
from supervisor.report_page.history import History


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the page shows.

    Attributes
    ----------
    plan, report : Plan, Report
        The request and the outcome.
    asked : mapping
        ``run.json`` as it is: date, machine and versions.
    memory : History
        Memory over time, and the times of the stop's rungs.
    metric : str or None
        Column that ``best`` is ranked by.
    best : sequence of dict
        Rows of the results, best first.
    heat : Heat or None
        Two parameters against the metric.
    failures : sequence of str
        The commonest errors of combinations.
    """

    plan: Plan
    report: Report
    memory: History
    asked: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    best: Sequence[Mapping[str, Any]] = ()
    heat: Heat | None = None
    failures: Sequence[str] = ()
