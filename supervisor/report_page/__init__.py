"""A run's HTML report: one file that needs no other file and no network.

:mod:`~supervisor.report_page.heat` and :mod:`~supervisor.report_page.history` reduce a
run's results and events to a small table and a short series, however large the run was.
:mod:`~supervisor.report_page.page` turns these :mod:`~supervisor.report_page.facts` into
text, with the help of :mod:`~supervisor.report_page.sections` (HTML) and
:mod:`~supervisor.report_page.charts` (plotly.js); these three read no file.
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
from supervisor.report_page.facts import Facts
from supervisor.report_page.page import render
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
        Directory of the run; ``results.parquet`` may be missing.
    plan, report : Plan, Report
        The request and the outcome.
    metric : str or None
        Column to rank by; None leaves out the ranking and the heat map.
    x, y : str, optional
        Parameters of the heat map; by default the two with the most values.
    asked : dict, optional
        ``run.json``, which has the date, the machine and the versions.

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
    failures: list[str] = []
    if report.combos_failed and results.exists():
        from supervisor.rows.failures import commonest

        failures = [failure.line() for failure in commonest(results, plan.grid.names)]
    if metric is not None and results.exists():
        from supervisor.rows.results import best

        rows = best(results, metric, _BEST_SHOWN, plan.ranking)
        if axes and rows:
            picture = heat.read(results, plan.grid, axes, metric, ranking=plan.ranking)
    return render(
        Facts(
            plan=plan,
            report=report,
            asked=asked or {},
            memory=history.read(run_dir),
            metric=metric,
            best=rows,
            heat=picture,
            failures=failures,
        ),
        script,
    )


def plotly_script() -> str:
    """Return the source of plotly.js.

    Raises
    ------
    ConfigError
        If plotly is not installed.
    """
    if importlib.util.find_spec("plotly") is None:
        raise ConfigError(f"--html needs plotly: {advice('plots')}", key="html")
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
