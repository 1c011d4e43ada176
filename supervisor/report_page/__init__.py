"""A run's HTML page: one file that needs nothing else, not even a network.

:mod:`~supervisor.report_page.heat` and :mod:`~supervisor.report_page.history`
turn what a run left on disk into a few numbers, whatever the run's size;
:mod:`~supervisor.report_page.page` turns these into text, and reads nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError
from supervisor.records import rundir
from supervisor.records.plan import Plan
from supervisor.records.report import Report
from supervisor.report_page import heat, history
from supervisor.report_page.page import Facts, render
from supervisor.system.install import advice

_BEST_SHOWN = 15


def build(
    run_dir: Path,
    plan: Plan,
    report: Report,
    *,
    metric: str | None,
    x: str | None = None,
    y: str | None = None,
    asked: dict[str, Any] | None = None,
) -> str:
    """Build the page of a finished run; memory does not grow with its results.

    Parameters
    ----------
    run_dir : Path
        Holds ``results.parquet`` (or none) and ``events.jsonl``.
    plan, report : Plan, Report
        What was asked for, and what became of it.
    metric : str or None
        Column to rank by; None leaves out what needs one.
    x, y : str, optional
        Parameters of the heat map; the two with most values if left out.
    asked : dict, optional
        ``run.json``, for when and where the run was asked for.

    Raises
    ------
    ConfigError
        If plotly is missing, or there is no such parameter.
    """
    script = plotly_script()
    results = run_dir / rundir.RESULTS_FILE
    axes = heat.choose_axes(plan.grid, x, y)
    rows: list[dict[str, Any]] = []
    picture: heat.Heat | None = None
    if metric is not None and results.exists():
        from supervisor.rows.results import best

        rows = best(results, metric, _BEST_SHOWN)
        if axes and rows:
            picture = heat.read(results, plan.grid, axes, metric)
    return render(
        Facts(
            plan=plan,
            report=report,
            asked=asked or {},
            memory=history.read(run_dir),
            metric=metric,
            best=rows,
            heat=picture,
        ),
        script,
    )


def plotly_script() -> str:
    """Return plotly.js, to be put into the page.

    Raises
    ------
    ConfigError
        If plotly is not installed.
    """
    if importlib.util.find_spec("plotly") is None:
        raise ConfigError(f"--html needs plotly: {advice('plots')}", key="html")
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
