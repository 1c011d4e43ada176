"""Results put together from the journals, and what there is of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import AllstopError
from supervisor.records import rundir
from supervisor.records.plan import Plan, Source
from supervisor.records.report import Gathered
from supervisor.records.verdict import Results
from supervisor.rows.results import Compaction, compact, covered

NOT_WRITTEN = f"{rundir.RESULTS_FILE} could not be written"

Valid = Callable[[Mapping[str, NDArray[np.generic]]], NDArray[np.bool_]]


def gather(run_dir: Path, plan: Plan, note: Callable[[str], object]) -> Gathered:
    """Write ``results.parquet``; where that cannot be, count what the journals hold.

    Parameters
    ----------
    run_dir : Path
        The run's directory.
    plan : Plan
        What it was asked to compute.
    note : callable
        Given a line for each journal that is damaged.
    """
    try:
        done = _compact(run_dir, plan)
    except (AllstopError, OSError) as error:
        return Gathered(count_covered(run_dir), unwritten=f"{NOT_WRITTEN}: {error}")
    for damage in done.damaged:
        note(f"{damage}: what it held was computed again")
    return Gathered(done.rows, done.failed, missing=_count_missing(done, plan))


def observed(gathered: Gathered) -> dict[str, Any]:
    """What a verdict has to know of the results: fields of :class:`.verdict.Observed`."""
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
    return compact(
        rundir.journal_dirs(run_dir),
        run_dir / rundir.RESULTS_FILE,
        plan.grid,
        valid=constraint(plan),
    )


def _count_missing(done: Compaction, plan: Plan) -> int:
    """How many of the combinations that the plan asks for are in no journal."""
    asked = plan.span
    return sum(
        len(range(max(start, asked.start), min(stop, asked.stop))) for start, stop in done.missing
    )


def count_covered(run_dir: Path) -> int:
    """How many combinations a run's journals hold; 0 where they cannot be read."""
    try:
        return sum(stop - start for start, stop in covered(rundir.journal_dirs(run_dir)))
    except (AllstopError, OSError):
        return 0


def constraint(plan: Plan) -> Valid | None:
    """Which combinations of the grid the plan's strategy accepts; None: all of them."""
    if plan.source is not Source.BUILT_IN:
        return None
    from workers.catalog import STRATEGIES

    strategy = STRATEGIES[plan.strategy]
    return strategy.valid if strategy.ordered else None


def drop_checkpoints(run_dir: Path) -> None:
    """Remove what unfinished combinations had saved, once there are none."""
    shutil.rmtree(run_dir / rundir.CHECKPOINT_DIR, ignore_errors=True)
