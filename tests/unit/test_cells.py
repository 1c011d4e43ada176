"""Metrics that are no numbers: kept in the journal, the same in rows() and in results."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supervisor.errors import ConfigError, JournalError, UntrustedError
from supervisor.rows import checksum, compaction
from supervisor.rows.cells import NULL, CellKind, Values, reference, special
from supervisor.rows.compaction import compact
from supervisor.rows.failures import commonest
from supervisor.rows.frames import FrameKind, iter_frames
from supervisor.rows.grid import Grid
from supervisor.rows.index import covered
from supervisor.rows.journal import JournalTail, JournalWriter, journal_path
from supervisor.rows.results import best
from supervisor.rows.space import Space

SPACE = Space(Grid.of({"a": range(40)}))
UTC = datetime.UTC


def written(directory: Path, rows: dict[int, dict[str, Any]], serial: int = 0) -> None:
    """Write rows by combination; a cell is a number, None, (kind, value), or a row an error."""
    directory.mkdir(exist_ok=True)
    with JournalWriter(journal_path(directory, serial), "run", serial) as journal:
        for index, row in rows.items():
            if isinstance(row, str):
                journal.append_failed(index, row)
                continue
            cells = {
                name: NULL
                if value is None
                else reference(journal.append_value(name, *value))
                if isinstance(value, tuple)
                else value
                for name, value in row.items()
            }
            journal.append(index, tuple(cells), np.array([list(cells.values())]))


def table(directory: Path) -> tuple[pa.Table, tuple[str, ...]]:
    out = directory.parent / "results.parquet"
    done = compact(directory, out, SPACE)
    return pq.read_table(out), done.mixed


def test_each_kind_has_a_column_of_its_type(tmp_path: Path) -> None:
    rows = {
        0: {"x": 1.5, "side": ("text", "long"), "at": ("time", 1_500_000), "utc": ("utc", 0),
            "held": ("duration", 3_600_000_000), "none": None},
        1: {"x": None, "side": None, "at": None, "utc": None, "held": None, "none": None},
        2: {"x": float("nan"), "side": ("text", ""), "at": ("time", -1), "utc": ("utc", 1),
            "held": ("duration", -1), "none": None},
    }  # fmt: skip
    written(tmp_path / "journal", rows)
    found, mixed = table(tmp_path / "journal")
    assert mixed == ()
    assert dict(zip(found.column_names, map(str, found.schema.types), strict=True)) == {
        "a": "int64", "x": "double", "side": "string", "at": "timestamp[us]",
        "utc": "timestamp[us, tz=UTC]", "held": "duration[us]", "none": "double",
    }  # fmt: skip
    assert found["x"].null_count == 1
    assert np.isnan(found["x"][2].as_py())
    first, second, third = found.drop_columns(["a", "x"]).to_pylist()
    assert first == {
        "side": "long", "at": datetime.datetime(1970, 1, 1, 0, 0, 1, 500_000),
        "utc": datetime.datetime(1970, 1, 1, tzinfo=UTC), "held": datetime.timedelta(hours=1),
        "none": None,
    }  # fmt: skip
    assert set(second.values()) == {None}
    assert third["side"] == ""
    # rows() of the API has the same values
    values = Values()
    frames = [f for f in iter_frames(journal_path(tmp_path / "journal", 0))
              if f.kind is FrameKind.ROWS]  # fmt: skip
    shown = [dict(zip(f.columns, (c[0] for c in values.columns(f, f.rows())), strict=True))
             for f in frames]  # fmt: skip
    assert [{k: v for k, v in row.items() if k != "x"} for row in shown] == [first, second, third]
    assert [shown[0]["x"], shown[1]["x"]] == [1.5, None]


def test_a_value_is_written_once(tmp_path: Path) -> None:
    written(tmp_path / "j", {i: {"side": ("text", "ab"[i % 2]), "x": 1.0} for i in range(40)})
    kinds = [frame.kind for frame in iter_frames(journal_path(tmp_path / "j", 0))]
    assert kinds.count(FrameKind.VALUE) == 2
    assert [f.kind for f in JournalTail(tmp_path / "j").poll()] == 40 * [FrameKind.ROWS]
    assert covered(tmp_path / "j", SPACE) == [(0, 40)]


def test_the_values_that_are_remembered_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.rows.journal._VALUES_REMEMBERED", 3)
    monkeypatch.setattr(Values, "_MOST", 3)
    written(tmp_path / "j", {i: {"side": ("text", f"t{i % 7}")} for i in range(40)})
    found, _ = table(tmp_path / "j")
    assert found["side"].to_pylist() == [f"t{i % 7}" for i in range(40)]


def test_where_a_metric_is_mostly_a_number_the_numbers_are_kept(tmp_path: Path) -> None:
    rows: dict[int, Any] = {i: {"x": float(i), "trades": 1.0} for i in range(40)}
    rows[3] = {"x": ("text", "undefined"), "trades": ("text", "many")}
    rows[4] = {"x": ("time", 0), "trades": 0.5}
    written(tmp_path / "j", rows)
    found, mixed = table(tmp_path / "j")
    assert sorted(mixed) == ["trades", "x"]
    assert found["x"].to_pylist() == [None if i in (3, 4) else float(i) for i in range(40)]
    assert found["trades"].to_pylist()[2:5] == [1.0, None, 0.5]


def test_texts_and_times_in_one_metric_are_texts(tmp_path: Path) -> None:
    cells = [("text", "open"), ("time", 0), ("duration", 1_000_000), float("nan")]
    written(tmp_path / "j", {index: {"x": cell} for index, cell in enumerate(cells)})
    found, mixed = table(tmp_path / "j")
    assert (found["x"].to_pylist(), mixed) == (["open", "1970-01-01T00:00:00", "0:00:01", None], ())


def test_how_it_was_computed_leaves_no_trace(tmp_path: Path) -> None:
    rows: dict[int, Any] = {i: {"s": ("text", f"t{i % 3}"), "x": float(i)} for i in range(40)}
    for name in "ab":
        (tmp_path / name).mkdir()
    written(tmp_path / "a" / "j", rows)
    order = sorted(rows, key=lambda i: (i % 5, i))
    written(tmp_path / "b" / "j", {i: rows[i] for i in order[:13]}, 0)
    written(tmp_path / "b" / "j", {i: rows[i] for i in order[9:]}, 7)
    for name in "ab":
        table(tmp_path / name / "j")
    first, second = ((tmp_path / n / "results.parquet").read_bytes() for n in "ab")
    assert first == second


def test_a_reference_to_nothing_is_an_error_that_names_the_journal(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with JournalWriter(journal_path(tmp_path / "j", 0), "run", 0) as journal:
        journal.append_value("x", CellKind.TEXT, "there")
        journal.append(0, ("x",), np.array([[reference(12)]]))
    with pytest.raises(JournalError, match="worker-0000"):
        table(tmp_path / "j")


def test_arithmetic_makes_no_reference() -> None:
    with np.errstate(all="ignore"):
        made = np.array([np.inf - np.inf, np.float64(0) / 0, -np.float64("nan"), np.sqrt(-1.0)])
    assert not special(made).any()
    assert special(np.array([NULL, reference(0), reference(2**48 - 1), 0.0, np.inf])).tolist() == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert (
        np.array([[NULL, reference(77)]]).copy().tobytes()
        == np.array([NULL, reference(77)]).astype("<f8").tobytes()
    )


def test_a_ranking_sees_no_number_in_them(tmp_path: Path) -> None:
    written(tmp_path / "j", {0: {"x": None}, 1: {"x": 1.0}, 2: {"x": float("nan")}})
    table(tmp_path / "j")
    assert [row["a"] for row in best(tmp_path / "results.parquet", "x")] == [1]


# -- the commonest errors ---------------------------------------------------------


def test_errors_are_counted_by_type_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP", 8)
    rows: dict[int, Any] = {i: {"x": 1.0} for i in range(40)}
    rows |= {i: f"ValueError: window {i} is odd (mine.py:7)" for i in range(1, 40, 3)}
    rows |= {i: f"ValueError: {i} (mine.py:9)" for i in (2, 8, 20)}
    rows |= {5: "KeyError: 'a' (b.py:1)", 11: "KeyError: 'b' (b.py:1)", 14: "crashed its worker"}
    written(tmp_path / "j", rows)
    table(tmp_path / "j")
    found = commonest(tmp_path / "results.parquet", ["a"])
    assert [failure.line() for failure in found] == [
        "13 × ValueError: window 1 is odd (mine.py:7), such as at a=1",
        "3 × ValueError: 2 (mine.py:9), such as at a=2",
        "2 × KeyError: 'a' (b.py:1), such as at a=5",
    ]
    assert len(commonest(tmp_path / "results.parquet", ["a"], most=9)) == 4


def test_a_file_without_errors_has_none(tmp_path: Path) -> None:
    written(tmp_path / "j", {0: {"x": 1.0}})
    table(tmp_path / "j")
    assert commonest(tmp_path / "results.parquet", ["a"]) == []


def test_results_that_are_no_table_are_one_error_for_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    path.write_bytes(b"PAR1 and nothing more PAR1")
    with pytest.raises(ConfigError, match="cannot be read"):
        commonest(path, ["a"])


def test_a_pipe_in_the_place_of_results_is_not_waited_for(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "results.parquet"
    os.mkfifo(path, 0o600)
    assert not checksum.is_damaged(path)
    with pytest.raises(UntrustedError, match="not a regular file"):
        best(path, "x")
