"""The HTML page: what it shows, what it escapes, and what it costs."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supervisor import report_page
from supervisor.errors import ConfigError
from supervisor.records.events import EventLog
from supervisor.records.plan import Plan, Source
from supervisor.records.report import GpuMemory, MemoryReport, Report, Rung, StopReport
from supervisor.report_page import charts, heat, history, page
from supervisor.report_page.facts import Facts
from supervisor.report_page.markup import Markup, each, fill
from supervisor.rows.grid import Grid
from supervisor.states import RunStatus
from supervisor.system.install import advice

EVIL = "</script><img src=x onerror=alert(1)>&amp;"
SCRIPT = "/* plotly.js stands here */"


def make_plan(grid: Grid, **changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "run_id": "20260102-030405-abcdef",
        "strategy": "/home/someone/mine.py:f",
        "source": Source.IMPORT,
        "grid": grid,
        "combos_total": grid.size,
        "data": "bars.csv",
        "n_bars": 1234,
        "workers": 2,
    }
    return Plan(**(facts | changes))


def make_report(**changes: Any) -> Report:
    facts: dict[str, Any] = {
        "run_id": "20260102-030405-abcdef",
        "status": RunStatus.STOPPED,
        "reason": "SIGINT",
        "exit_code": 130,
        "containment": "subreaper",
        "combos_total": 12,
        "combos_done": 10,
        "combos_failed": 1,
        "elapsed_s": 2.0,
        "run_dir": "runs/x",
        "stop": StopReport("SIGINT", "stop", 0.5, [Rung("flag", 0.0, 2), Rung("verify", 0.5, 0)]),
        "memory": MemoryReport(2**20, 9 * 2**20, 2**20, 8 * 2**20, settled_s=0.6),
    }
    return Report(**(facts | changes))


def write_results(path: Path, grid: Grid, row_group: int = 7, **metrics: Any) -> Path:
    table = pa.table({**grid.columns(0, grid.size), **metrics})
    pq.write_table(table, path, row_group_size=row_group)
    return path


def charts_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)
    assert found
    charts: dict[str, Any] = json.loads(found[1])
    return charts


# --- the heat map ------------------------------------------------------------------------------


def test_heat_is_the_best_over_the_other_parameters(tmp_path: Path) -> None:
    grid = Grid.of({"a": [3, 1, 2], "mode": ["u", "v"], "b": [0.1, 0.2, 0.3, 0.4]})
    score = np.random.default_rng(1).normal(size=grid.size)
    score[5] = np.nan
    path = write_results(tmp_path / "r.parquet", grid, sharpe=score)
    axes = heat.choose_axes(grid)
    assert axes == heat.Axes("a", "b")
    found = heat.read(path, grid, axes, "sharpe")
    cube = score.reshape(3, 2, 4)[[1, 2, 0]]  # the axis in rising order
    np.testing.assert_array_equal(found.values, np.nanmax(cube, axis=1).T)
    assert found.x_labels == ("1", "2", "3")
    assert found.y_labels == ("0.1", "0.2", "0.3", "0.4")
    assert found.others == ("mode",)
    assert found.binned == ()


def test_rows_that_are_not_there_leave_empty_cells(tmp_path: Path) -> None:
    grid = Grid.of({"a": [1, 2], "b": [1, 2]})
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"a": [2], "b": [1], "sharpe": [0.5]}), path)
    found = heat.read(path, grid, heat.Axes("a", "b"), "sharpe")
    np.testing.assert_array_equal(found.values, [[np.nan, 0.5], [np.nan, np.nan]])


@pytest.mark.parametrize(("n", "bins"), [(10, 3), (7, 7), (1000, 160), (5, 4), (161, 160)])
def test_a_long_axis_is_cut_into_bins_of_neighbours(tmp_path: Path, n: int, bins: int) -> None:
    grid = Grid.of({"a": range(n)})
    path = write_results(tmp_path / "r.parquet", grid, sharpe=np.arange(n, dtype=float))
    found = heat.read(path, grid, heat.Axes("a", None), "sharpe", max_bins=bins)
    # each bin's best is its last value, which is also what its label ends with
    assert [int(label.split()[-1]) for label in found.x_labels] == found.values[0].tolist()
    assert found.values[0, -1] == n - 1
    assert found.x_ticks[0] == "0"
    assert len(set(found.x_labels)) == len(found.x_labels) == min(n, bins)
    assert found.binned == (("a",) if n > bins else ())


def test_words_and_truths_can_be_axes(tmp_path: Path) -> None:
    grid = Grid.of({"kind": ["z", "a", "m"], "on": [True, False]})
    path = write_results(tmp_path / "r.parquet", grid, sharpe=np.arange(6.0))
    found = heat.read(path, grid, heat.Axes("kind", "on"), "sharpe")
    assert found.x_labels == ("z", "a", "m")
    assert found.y_labels == ("False", "True")
    np.testing.assert_array_equal(found.values, [[1, 3, 5], [0, 2, 4]])


def test_axes_are_chosen_by_kind_and_length() -> None:
    grid = Grid.of({"w": list("pqrs"), "one": [1], "s": [1, 2], "l": range(9), "m": range(5)})
    assert heat.choose_axes(grid) == heat.Axes("l", "m")
    assert heat.choose_axes(grid, "s") == heat.Axes("s", "l")
    assert heat.choose_axes(grid, None, "s") == heat.Axes("l", "s")
    assert heat.choose_axes(grid, "m", "w") == heat.Axes("m", "w")
    assert heat.choose_axes(Grid.of({"a": [1, 2], "w": ["p", "q", "r"]})) == heat.Axes("a", "w")
    assert heat.choose_axes(Grid.of({"a": [1, 2], "b": 3})) == heat.Axes("a", None)
    assert heat.choose_axes(Grid.of({"a": 1})) is None


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [("q", None, "its parameters: a, b"), (None, "q", "--y 'q'"), ("a", "a", "two parameters")],
)
def test_wrong_axes_are_refused(x: str | None, y: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        heat.choose_axes(Grid.of({"a": [1, 2], "b": [1, 2]}), x, y)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        grid = Grid.of({"a": range(rows // 100), "b": range(100)})
        path = write_results(
            tmp_path / f"{rows}.parquet", grid, 10_000, sharpe=np.arange(rows, dtype=float)
        )
        tracemalloc.start()
        heat.read(path, grid, heat.Axes("a", "b"), "sharpe")
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(20_000)  # what is imported and cached once counts for neither
    assert peak(1_000_000) < 1.5 * peak(50_000) + 2**20


# --- the history -------------------------------------------------------------------------------


def test_history_is_read_from_the_last_start(tmp_path: Path) -> None:
    log = EventLog(tmp_path, "warden")
    front = EventLog(tmp_path, "front")
    log.emit("run_started", containment="x", ram_baseline_bytes=1)
    front.emit("memory_sampled", ram_bytes=99)
    log.emit("run_started", containment="x", ram_baseline_bytes=2)
    front.emit("memory_sampled", ram_bytes=5)
    front.emit("memory_sampled", wrong=True)
    front.emit("stop_requested", level="STOP", reason="", by="SIGINT")
    log.emit("stop_requested", level="STOP", reason="", by="front")
    log.emit("rung_reached", rung="flag", at_s=0.0, acted_on=1)
    log.emit("run_ended", outcome="stopped", survivors=[])
    log.close()
    front.close()
    found = history.read(tmp_path)
    assert found.ram_bytes == [2, 5]
    assert found.stop is not None
    assert found.stop.text == "stop requested by SIGINT"
    assert [rung.text for rung in found.rungs] == ["flag: 1 process"]
    assert found.gone_s is not None


def test_the_front_knows_who_asked_and_the_warden_since_when(tmp_path: Path) -> None:
    log = EventLog(tmp_path, "warden")
    front = EventLog(tmp_path, "front")
    log.emit("run_started", containment="x", ram_baseline_bytes=2)
    log.emit("stop_requested", level="STOP", reason="", by="flag")
    seen_at = history.read(tmp_path).stop
    front.emit("stop_requested", level="STOP", reason="", by="SIGINT")
    log.close()
    front.close()
    stop = history.read(tmp_path).stop
    assert seen_at is not None
    assert stop == history.Mark(seen_at.at_s, "stop requested by SIGINT")


def test_a_run_without_events_has_no_history(tmp_path: Path) -> None:
    assert history.read(tmp_path) == history.History()


def test_thinning_keeps_the_peak_and_both_ends() -> None:
    at_s = [float(i) for i in range(100_001)]
    ram = [i % 1000 for i in range(100_001)]
    ram[54_321] = 10**9
    kept_at, kept = history.thin(at_s, ram, 500)
    assert len(kept) == len(kept_at) <= 500
    assert max(kept) == 10**9
    assert kept_at[0] == 0.0
    assert kept_at[-1] == 100_000.0
    assert kept_at == sorted(kept_at)


# --- the page ----------------------------------------------------------------------------------


def full_facts(**changes: Any) -> Facts:
    grid = Grid.of({EVIL: [1, 2], "b": [1, 2, 3]})
    memory = history.History(
        [0.0, 1.0, 2.0], [2**20, 9 * 2**20, 2**20], history.Mark(1.4, f"by {EVIL}"),
        [history.Mark(1.4, EVIL)], 1.9,
    )  # fmt: skip
    picture = heat.Heat(
        heat.Axes(EVIL, "b"), EVIL, (EVIL, "2"), ("1", "2", "3"), (EVIL, "2"), ("1", "2", "3"),
        np.array([[-1.0, np.nan], [0.5, 2.0], [0.1, -3.0]]), (EVIL,), (),
    )  # fmt: skip
    facts: dict[str, Any] = {
        "plan": make_plan(grid, strategy=EVIL, data=EVIL, run_id=EVIL),
        "report": make_report(reason=EVIL, errors=[EVIL]),
        "asked": {"machine": {"kernel": EVIL}, "versions": EVIL, "asked_at": EVIL},
        "memory": memory,
        "metric": EVIL,
        "best": [{EVIL: 1, "b": EVIL, "error": None}],
        "heat": picture,
    }
    return Facts(**(facts | changes))


def test_whatever_users_name_is_escaped() -> None:
    report = make_report(reason=EVIL, errors=[EVIL])
    assert report.stop
    report.stop.requested_by = report.stop.level = EVIL
    report.stop.survivors = [EVIL]
    report.stop.rungs[0].name = EVIL
    text = page.render(full_facts(report=report), SCRIPT)
    assert "<img" not in text
    assert text.count("</script>") == 3
    # plotly reads a little HTML in labels: it must be given text
    assert "<img" not in json.dumps(charts_of(text))


def paths_in(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a report, and in what it holds."""
    if not isinstance(plain, dict | list):
        return [path]
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain)
    return [path, *(one for key, value in inner for one in paths_in(value, (*path, key)))]


def with_evil_at(plain: Any, path: tuple[Any, ...], evil: object) -> Any:
    again = json.loads(json.dumps(plain))
    place = again
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = evil
    return again


WHOLE = make_report(
    errors=["e"], components_cleaned=["c"], jobs=[{"id": "1", "state": "GONE", "verified": True}],
    observed={"work": "done"}, command_status=1,
    stop=StopReport("SIGINT", "stop", 0.5, [Rung("flag", 0.0, 2)], ["pid 7"]),
    memory=MemoryReport(
        1, 2, 1, 1, 1, 2, 1, 1, 0.1, 0.1, 0.1, [GpuMemory("u", 0, "n", 1, 2, 1, 1, True, 0.1)],
    ),
).to_json()  # fmt: skip


@pytest.mark.parametrize(
    "evil",
    [EVIL, [EVIL], {EVIL: EVIL}, 10**400, float("nan")],
    ids=["text", "list", "dict", "huge", "nan"],
)
def test_whatever_a_report_file_says_is_refused_or_escaped(evil: object) -> None:
    for path in paths_in(WHOLE)[1:]:
        try:
            report = Report.from_json(with_evil_at(WHOLE, path, evil))
        except (KeyError, TypeError, ValueError):
            continue
        asked = {"machine": {"ram_bytes": evil}, "asked_at": evil}
        text = page.render(full_facts(report=report, asked=asked), SCRIPT)
        assert "<img" not in text, path
        assert text.count("</script>") == 3, path


def test_what_is_put_into_a_template_is_text_whatever_its_type() -> None:
    assert fill("<b>{}</b>{:,}", "<i>", 1234) == "<b>&lt;i&gt;</b>1,234"
    assert fill("{:,} {:.2f}", "<i>", ["<i>"]) == "&lt;i&gt; [&#x27;&lt;i&gt;&#x27;]"
    assert each("<li>{}</li>", [Markup("<b>"), "<b>"]) == "<li><b></li><li>&lt;b&gt;</li>"


def test_the_page_needs_nothing_else() -> None:
    text = page.render(full_facts(), SCRIPT)
    assert SCRIPT in text
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|https?:", text.replace("src=x", ""))


def test_the_stop_is_marked() -> None:
    chart = charts_of(page.render(full_facts(), SCRIPT))["memory"]
    line, region = chart["layout"]["shapes"]
    assert line["x0"] == line["x1"] == region["x0"] == 1.4
    assert region["x1"] == 1.9
    assert chart["data"][0]["y"] == [1.0, 9.0, 1.0]


def test_each_side_of_zero_has_its_colours() -> None:
    cells, star = charts_of(page.render(full_facts(), SCRIPT))["heat"]["data"]
    at = [stop[0] for stop in cells["colorscale"]]
    assert at[0] == 0.0
    assert at[-1] == pytest.approx(1.0)
    assert at == sorted(at)
    zero = -cells["zmin"] / (cells["zmax"] - cells["zmin"])
    assert any(place == pytest.approx(zero) for place in at)
    assert cells["z"][0] == [-1.0, None]
    assert star["y"] == ["2"]


@pytest.mark.parametrize("values", [[[0.0, 0.0]], [[1.0, 2.0]], [[-2.0, -1.0]], [[5.0, np.nan]]])
def test_colours_span_a_range_whatever_the_values(values: list[list[float]]) -> None:
    picture = heat.Heat(
        heat.Axes("a", "b"), "m", ("1", "2"), ("1",), ("1", "2"), ("1",), np.array(values), (), ()
    )
    cells = charts.heat_chart(picture)["data"][0]
    assert cells["zmin"] < cells["zmax"]


@pytest.mark.parametrize(
    "changes",
    [
        {"heat": None, "best": (), "metric": None},
        {"memory": history.History()},
        {"report": make_report(stop=None, memory=None, elapsed_s=0.0, combos_done=0)},
        {"asked": {}},
        {"report": make_report(stop=StopReport("SIGINT", "kill"))},
    ],
)
def test_what_there_is_not_is_left_out(changes: dict[str, Any]) -> None:
    text = page.render(full_facts(**changes), SCRIPT)
    assert "None" not in text
    assert "nan" not in json.dumps(charts_of(text))


def test_a_page_is_built_from_a_directory(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    grid = Grid.of({"a": range(20), "b": range(10)})
    write_results(tmp_path / "results.parquet", grid, sharpe=np.arange(200.0))
    text = report_page.build(tmp_path, make_plan(grid), make_report(), metric="sharpe")
    assert set(charts_of(text)) == {"heat"}
    assert "Plotly" in text
    assert "mine.py:f" in text


def test_a_page_without_results_has_no_picture_of_them(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    grid = Grid.of({"a": range(20)})
    text = report_page.build(tmp_path, make_plan(grid), make_report(), metric=None)
    assert charts_of(text) == {}


def test_without_plotly_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=re.escape(advice("plots"))):
        report_page.plotly_script()


@pytest.mark.parametrize("axis", [[1, 2], [2, 3], ["a", "b"]])
def test_results_of_another_grid_are_refused(axis: list[Any]) -> None:
    bins = heat._Bins.of("a", Grid.of({"a": axis}).axis("a"), 10)
    column = pa.chunked_array([["b", "z"] if axis[0] == "a" else [2, 9]])
    with pytest.raises(ValueError, match="a value of a is not in the grid"):
        bins.place(column)
    assert bins.place(column.slice(0, 1)).tolist() == [axis.index("b" if axis[0] == "a" else 2)]
