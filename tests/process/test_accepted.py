"""A built-in strategy accepts part of a grid: one number of combinations, everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import supervisor
from supervisor.lifecycle.prepare import Changes
from supervisor.lifecycle.resuming import complete
from supervisor.lifecycle.shards import divide, lay_out, unfinished
from supervisor.records.plan import Plan
from supervisor.rows.frames import iter_frames
from supervisor.rows.index import covered
from supervisor.rows.journal import JournalWriter, journal_paths
from supervisor.system import durable
from tests.support.cli import Place

GRIDS = {
    # from fast = 299 on nothing is accepted: nine tenths of the grid, whole chunks of it
    "a long tail": {"fast": range(1, 3000), "slow": range(2, 300)},
    "slow first": {"slow": range(900, 1, -1), "fast": range(1, 500)},
}


def accepted(grid: dict[str, range]) -> int:
    return sum(fast < slow for fast in grid["fast"] for slow in grid["slow"])


def plan_of(run_dir: Path) -> Plan:
    return Plan.from_json(durable.read_json(run_dir / "run.json"))


def rows_in(run_dir: Path) -> np.ndarray:
    frames = [f for path in journal_paths(run_dir / "journal") for f in iter_frames(path)]
    return np.concatenate([frame.rows() for frame in frames])


@pytest.mark.parametrize("name", GRIDS)
def test_progress_report_and_journals_have_the_accepted_combinations(
    inside: Place, name: str
) -> None:
    grid, run_dir = GRIDS[name], inside.root / "run"
    n = accepted(grid)
    seen = []
    close = 1.1 + np.random.default_rng(1).normal(0, 1e-3, 300).cumsum()
    bars = {"time": np.arange(300) * 3_600_000_000_000, "close": close}
    with supervisor.sweep("sma_cross", grid, bars, workers=2, run_dir=run_dir) as run:
        for row in run.rows():
            assert row["fast"] < row["slow"]
            seen.append((row["fast"], row["slow"]))
        best = run.progress.best
    assert len(seen) == len(set(seen)) == n
    assert (run.report.status, run.report.combos_done, run.report.combos_total) == (
        "completed", n, n,
    )  # fmt: skip
    assert (run.progress.done, run.progress.total) == (n, n)
    rows = rows_in(run_dir)
    assert len(rows) == n
    assert not np.isnan(rows[:, 0]).any()
    plan = plan_of(run_dir)
    assert covered(run_dir / "journal", plan.space) == [(0, plan.grid.size)]
    results = run.results().to_pylist()
    assert best is not None
    assert best[1] == max(row["sharpe"] for row in results if np.isfinite(row["sharpe"]))
    where, value = best
    assert value in [r["sharpe"] for r in results if {k: r[k] for k in where} == where]


def test_a_stopped_run_says_the_same_and_is_resumed_bit_for_bit(inside: Place) -> None:
    grid = {"fast": range(1, 1000), "slow": range(2, 1000)}
    n = accepted(grid)
    with supervisor.sweep(
        "sma_cross", grid, inside.data, workers=2, run_dir=inside.root / "whole"
    ) as whole:
        assert whole.wait().combos_done == n
    with supervisor.sweep(
        "sma_cross", grid, inside.data, workers=2, run_dir=inside.root / "run"
    ) as run:
        next(iter(run.rows()))
        report = run.stop()
    assert (report.status, report.combos_total) == ("stopped", n)
    assert 0 < report.combos_done < n
    assert len(rows_in(inside.root / "run")) == report.combos_done == run.progress.done
    with supervisor.resume(inside.root / "run") as again:
        seen = sum(1 for _ in again.rows())
    assert seen == again.report.combos_done == again.progress.done == again.progress.total == n
    results = [inside.root / name / "results.parquet" for name in ("whole", "run")]
    assert results[0].read_bytes() == results[1].read_bytes()
    assert complete(inside.root / "run", Changes()) is not None


def test_a_shard_counts_what_it_can_compute(inside: Place) -> None:
    grid, run_dir = GRIDS["a long tail"], inside.root / "run"
    with supervisor.sweep("sma_cross", grid, inside.data, workers=2, run_dir=run_dir) as run:
        run.wait()
    plan = plan_of(run_dir)
    shards = divide(plan.grid.size, 20)
    parts = [plan_of(lay_out(run_dir, at, shard)) for at, shard in enumerate(shards)]
    assert sum(part.combos_total for part in parts) == plan.combos_total == accepted(grid)
    assert parts[-1].combos_total == 0
    for path in journal_paths(run_dir / "journal"):
        path.unlink()
    # those without an accepted combination are not submitted
    assert unfinished(run_dir, plan, shards) == [
        at for at, part in enumerate(parts) if part.combos_total
    ]


def test_rows_that_do_not_fit_the_constraint_are_named_and_computed_again(inside: Place) -> None:
    grid, run_dir = {"fast": range(1, 60), "slow": range(2, 60)}, inside.root / "run"
    with supervisor.sweep("sma_cross", grid, inside.data, workers=1, run_dir=run_dir) as run:
        run.wait()
    expected = (run_dir / "results.parquet").read_bytes()
    (last,) = journal_paths(run_dir / "journal")
    columns = next(iter_frames(last)).columns
    last.unlink()
    with JournalWriter(last, run.run_id, 0) as journal:  # a row too many
        journal.append(0, columns, np.ones((plan_of(run_dir).grid.size, len(columns))))
    with supervisor.resume(run_dir) as again:
        seen = sum(1 for _ in again.rows())
    assert (again.report.status, seen) == ("completed", accepted(grid))
    damage = f"{last}: has 3422 rows for combinations 0 to 3421, of which the strategy"
    assert any(damage in error for error in again.report.errors), again.report.errors
    assert (run_dir / "results.parquet").read_bytes() == expected
