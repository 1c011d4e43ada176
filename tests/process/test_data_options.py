"""What is said of the data reaches the rows, the report, the page and a resumed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import supervisor
from supervisor.errors import ConfigError
from supervisor.records.plan import Plan
from tests.support.cli import Place

GRID = {"entry": [3, 5], "exit": [2]}


def two_a_day(folder: Path) -> Path:
    """Bars at 09:30 and 13:30 of two instruments, with names of their own, newest first."""
    days = pd.bdate_range("2024-01-01", periods=60)
    stamps = [day + pd.Timedelta(clock) for day in days for clock in ("9h30min", "13h30min")]
    price = np.round(100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 120))), 2)
    table = pd.DataFrame(
        {"When": stamps, "Who": "ABC", "Top": price + 0.5, "Bottom": price - 0.5, "Fix": price}
    )
    both = pd.concat([table, table.assign(Who="XYZ", Fix=1.0, Top=1.0, Bottom=1.0)])
    path = folder / "two.csv"
    both.sort_values("When", ascending=False).to_csv(path, index=False)
    return path


OPTIONS = {
    "columns": "time=When,high=Top,low=Bottom,close=Fix,symbol=Who", "symbol": "ABC",
}  # fmt: skip


def swept(place: Place, name: str, data: Any, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    with supervisor.sweep(
        "donchian_breakout", GRID, data, workers=1, run_dir=place.root / name, **options
    ) as run:
        report = run.wait()
    return report, run.results().to_pylist()


def test_the_year_and_the_columns_of_a_sweep(inside: Place) -> None:
    path = two_a_day(inside.root)
    report, counted = swept(inside, "counted", path, **OPTIONS)
    assert report.data["bars_per_year"] == 504
    assert report.data["annualised"] == "252 × 2 = 504 bars a year, from the data's sessions"
    assert report.data["notes"] == [
        "columns: time from When, high from Top, low from Bottom, close from Fix, open = close, "
        "volume = 0",
        "instrument: ABC, 2 in the data",
        "newest first: the rows were reversed",
    ]
    assert all(row["trades"] > 0 for row in counted)
    for name, said, bars in (
        ("number", {"bars_per_year": 98_280}, 98_280),
        ("days", {"year_days": 365}, 730),
    ):
        report, rows = swept(inside, name, path, **OPTIONS, **said)
        assert report.data["bars_per_year"] == bars
        assert "as given" in report.data["annualised"]
        for row, old in zip(rows, counted, strict=True):
            assert row["sharpe"] == pytest.approx(old["sharpe"] * (bars / 504) ** 0.5, rel=1e-12)
            assert row["total_return"] == old["total_return"]
    # the warden has kept the bars, and what it computes from them once, from run to run
    assert swept(inside, "again", path, **OPTIONS)[1] == counted


YEAR = """
def f(bars, params, stop):
    return {"year": bars.bars_per_year, "first": bars.close[0]}
"""


def resumed_from_nothing(run_dir: Path) -> list[dict[str, Any]]:
    """Forget a run's rows and report, and compute them again."""
    for journal in (run_dir / "journal").iterdir():
        journal.unlink()
    (run_dir / "report.json").unlink()
    with supervisor.resume(run_dir) as run:
        run.wait()
    rows: list[dict[str, Any]] = run.results().to_pylist()
    return rows


def test_a_function_sees_the_year_and_a_resumed_run_keeps_everything(inside: Place) -> None:
    where = inside.root / "function"
    path = two_a_day(inside.root)
    with supervisor.sweep(
        inside.strategy(YEAR), {"a": [1]}, path, workers=1, run_dir=where, bars_per_year=300,
        **OPTIONS,
    ) as run:  # fmt: skip
        run.wait()
    (row,) = run.results().to_pylist()
    assert row["year"] == 300
    plan = Plan.from_json(json.loads((where / "run.json").read_text()))
    assert (plan.data_facts.symbol, plan.data_facts.bars_per_year) == ("ABC", 300)
    assert resumed_from_nothing(where) == [row]


def test_runs_of_before_go_on_as_they_began(inside: Place) -> None:
    """The run.json of an earlier version says nothing of the year, which was the median spacing."""
    where = inside.root / "old"
    data = {"time": np.arange(0, 10, dtype="M8[h]"), "close": np.ones(10)}
    table = pd.DataFrame(data).assign(time=lambda t: t["time"] + pd.Timedelta(days=20_000))
    table.loc[5:, "time"] += pd.Timedelta(hours=15)  # two sessions of 5 hours
    path = inside.root / "old.csv"
    table.to_csv(path, index=False)
    with supervisor.sweep(inside.strategy(YEAR), {"a": [1]}, path, workers=1, run_dir=where) as run:
        run.wait()
    assert run.results().to_pylist()[0]["year"] == 252 * 5
    asked = json.loads((where / "run.json").read_text())
    del asked["data_facts"]
    (where / "run.json").write_text(json.dumps(asked))
    assert resumed_from_nothing(where)[0]["year"] == 8760


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bars_per_year": 0}, "bars_per_year must be a number above 0"),
        ({"year_days": 0}, "year_days must be a whole number of days from 1 to 366"),
        ({"bars_per_year": 9, "year_days": 252}, "give one of them"),
        ({"symbol": ""}, "symbol must be the name of an instrument"),
        ({"columns": "klose=X"}, "'klose' is no part of a bar"),
        ({"symbol": "A", "data": None}, "symbol is for data that is read"),
    ],
)
def test_options_that_cannot_be_met(inside: Place, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        supervisor.sweep("donchian_breakout", GRID, **({"data": inside.data} | options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_is_said_where_no_combination_traded(inside: Place) -> None:
    flat = {"time": np.arange("2024-01-01", "2024-02-01", dtype="M8[D]"), "close": np.ones(31)}
    report, _ = swept(inside, "flat", flat)
    assert "no combination traded: the close never changes" in report.errors
    walk = dict(flat, close=np.linspace(1, 2, 31))
    with supervisor.sweep(
        "sma_cross", {"fast": [5], "slow": [40, 50]}, walk, workers=1, run_dir=inside.root / "long"
    ) as run:
        report = run.wait()
    assert report.errors == [
        "no combination traded: the data has 31 bars and slow is at least 40: give shorter windows "
        "or more data"
    ]
    with supervisor.sweep(
        "bollinger_reversion", {"window": [5], "width": [2.0, 3.0]}, walk, workers=1,
        run_dir=inside.root / "wide",
    ) as run:  # fmt: skip
        report = run.wait()
    assert "√(window − 1) standard deviations" in report.errors[0]
    report, rows = swept(inside, "some", walk)
    assert rows[0]["trades"] == 1
    assert report.errors == []


def test_the_command_line_says_it_too(place: Place) -> None:
    path = two_a_day(place.root)
    run_dir = str(place.root / "run")
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    done = place.command(
        "run", "--data", str(path), "--strategy", "donchian_breakout", "--grid", "entry=3,5",
        "--grid", "exit=2", "--workers", "1", "--run-dir", run_dir, *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "annualised with 252 × 2 = 504 bars a year, from the data's sessions" in done.stdout
    assert "columns: time from When, high from Top" in done.stderr
    shown = place.command("report", run_dir).stdout
    assert "annualised with 252 × 2 = 504 bars a year" in shown
    assert "columns: time from When, high from Top" in shown
    other = place.command(
        "run", "--data", str(path), "--strategy", "donchian_breakout", "--grid", "entry=3,5",
        "--grid", "exit=2", "--run-dir", run_dir, "--resume", "--year-days", "365", *options,
    )  # fmt: skip
    assert other.returncode == 2
    assert "it has 504 bars a year, not 730" in other.stderr
