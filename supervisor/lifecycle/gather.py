"""Results compacted from the journals, and the state they are in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor.errors import AllstopError
from supervisor.lifecycle.no_trades import none_traded
from supervisor.records import rundir
from supervisor.records.plan import Plan
from supervisor.records.report import Gathered
from supervisor.records.verdict import Results
from supervisor.rows.compaction import Compaction, compact
from supervisor.rows.index import covered

NOT_WRITTEN = f"{rundir.RESULTS_FILE} could not be written"


def gather(run_dir: Path, plan: Plan, note: Callable[[str], object]) -> Gathered:
    """Write ``results.parquet``; if that fails, count what the journals hold.

    Parameters
    ----------
    run_dir : Path
        The run's directory.
    plan : Plan
        The run's plan.
    note : callable
        Receives a line for each damaged journal.
    """
    try:
        done = _compact(run_dir, plan)
    except (AllstopError, OSError) as error:
        return Gathered(count_covered(run_dir, plan), unwritten=f"{NOT_WRITTEN}: {error}")
    for damage in done.damaged:
        note(f"{damage}: what it held was computed again")
    for metric in done.mixed:
        note(
            f"metric {metric} is a number in some rows and a text or a time in others: "
            "only the numbers are kept"
        )
    if done.rows > done.failed and (line := none_traded(run_dir / rundir.RESULTS_FILE, plan)):
        note(line)
    return Gathered(done.rows, done.failed, missing=_count_missing(done, plan))


def observed(gathered: Gathered) -> dict[str, Any]:
    """What a verdict needs to know of the results: fields of :class:`.verdict.Observed`."""
    return {
        "results": _state(gathered),
        "unwritten_reason": gathered.unwritten,
        "missing": gathered.missing,
    }


def _state(gathered: Gathered) -> Results:
    if gathered.unwritten:
        return Results.UNWRITTEN
    if gathered.missing:
        return Results.MISSING
    if gathered.failed and gathered.failed == gathered.done:
        return Results.ALL_FAILED
    return Results.WHOLE


def _compact(run_dir: Path, plan: Plan) -> Compaction:
    return compact(plan.journals(run_dir), run_dir / rundir.RESULTS_FILE, plan.space)


def _count_missing(done: Compaction, plan: Plan) -> int:
    """How many of the combinations that the plan asks for are in no journal."""
    asked = plan.span
    parts = ((max(start, asked.start), min(stop, asked.stop)) for start, stop in done.missing)
    return plan.space.count_all(parts)


def count_covered(run_dir: Path, plan: Plan) -> int:
    """How many combinations a run's journals hold; 0 where they cannot be read."""
    try:
        return plan.space.count_all(covered(plan.journals(run_dir), plan.space))
    except (AllstopError, OSError):
        return 0


def drop_checkpoints(run_dir: Path) -> None:
    """Remove the saved states of unfinished combinations: the run is complete."""
    shutil.rmtree(run_dir / rundir.CHECKPOINT_DIR, ignore_errors=True)
