"""The end of a run on disk: results compacted, report written, registry cleared.

The front does this at the end of its run. Where the front was killed, the
warden has ended the run's processes and starts this module as a fresh process
to do the rest: ``python -P -m supervisor.finish RUN_DIR``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor import registry, rundir
from supervisor.config import Plan, Source
from supervisor.errors import FullstopError
from supervisor.events import read_events
from supervisor.report import Report, Rung, StopReport
from supervisor.results import Compaction, compact
from supervisor.states import ExitCode, RunStatus

Valid = Callable[[Mapping[str, NDArray[np.generic]]], NDArray[np.bool_]]


def compact_run(run_dir: Path, plan: Plan) -> Compaction:
    """Write ``results.parquet`` from whatever the journals hold."""
    return compact(
        run_dir / rundir.JOURNAL_DIR,
        run_dir / rundir.RESULTS_FILE,
        plan.grid,
        valid=constraint(plan),
    )


def constraint(plan: Plan) -> Valid | None:
    """Which combinations of the grid make sense to the plan's strategy; None: all of them."""
    if plan.source is not Source.BUILT_IN:
        return None
    from workers.catalog import STRATEGIES

    strategy = STRATEGIES[plan.strategy]
    return strategy.valid if strategy.ordered else None


def finish_dead_run(run_dir: Path) -> Report:
    """Write results and report of a run whose front is gone and whose processes have ended."""
    plan = Plan.from_json(rundir.read_json(run_dir / rundir.RUN_FILE))
    errors: list[str] = []
    done = failed = 0
    try:
        compaction = compact_run(run_dir, plan)
        done, failed = compaction.rows, compaction.failed
    except (FullstopError, OSError) as error:
        errors.append(str(error))
    report = _from_events(run_dir, plan, done, failed, errors)
    report.write()
    registry.remove(plan.run_id)
    return report


def _from_events(
    run_dir: Path, plan: Plan, done: int, failed: int, errors: list[str]
) -> Report:
    stop: StopReport | None = None
    began = ended = 0.0
    containment, reason = "", "the front died"
    outcome: dict[str, Any] = {}
    for fact in read_events(run_dir):
        began = began or fact.at
        ended = fact.at
        if fact.name == "warden.run_started":
            containment = fact.fields["containment"]
        elif fact.name == "warden.stop_requested":
            stop = stop or StopReport(fact.fields["by"], fact.fields["level"].lower())
            reason = fact.fields["reason"]
        elif fact.name == "warden.rung_reached" and stop:
            fields = fact.fields
            stop.rungs.append(Rung(fields["rung"], fields["at_s"], fields["acted_on"]))
            stop.elapsed_s = fields["at_s"]
        elif fact.name == "warden.run_ended":
            outcome = fact.fields
    survivors = list(outcome.get("survivors", []))
    if stop:
        stop.survivors = survivors
    return Report(
        run_id=plan.run_id,
        status=RunStatus(outcome.get("outcome", RunStatus.STOPPED)),
        reason=reason,
        exit_code=ExitCode.INCOMPLETE if survivors else ExitCode.FAILED,
        containment=containment,
        combos_total=plan.combos_total,
        combos_done=done,
        combos_failed=failed,
        elapsed_s=round(ended - began, 6),
        run_dir=str(run_dir),
        stop=stop,
        errors=errors,
    )


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        finish_dead_run(Path(sys.argv[1]))
