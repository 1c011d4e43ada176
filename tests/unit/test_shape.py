"""The border: what was parsed from a file is a record of the right types, or is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ConfigError
from supervisor.records import facts
from supervisor.records.registry import Entry
from supervisor.records.report import Report
from supervisor.records.verdict import Observed
from supervisor.system import durable
from supervisor.system.shape import Count, Like, Pid, ShapeError, read_as


class Colour(StrEnum):
    RED = "red"


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclass
class Record:
    name: str
    pid: Pid
    colour: Colour
    n: Count = 0
    where: Path = Path("/")
    points: list[Point] = field(default_factory=list)
    held: dict[int, Count] | None = None
    pair: tuple[str, str] | None = None
    loose: Annotated[dict[str, Any], Like(Point)] = field(default_factory=dict)


GOOD = {"name": "x", "pid": 1, "colour": "red"}


def test_what_was_written_is_read() -> None:
    plain = GOOD | {
        "n": 3, "where": "/a", "points": [{"x": 1}, {"x": 2.5, "y": 1}], "held": {"7": 8},
        "pair": ["a", "b"], "loose": {"x": 1, "more": "kept"}, "of a later version": [[]],
    }  # fmt: skip
    found = read_as(Record, plain)
    assert found.points == [Point(1), Point(2.5, 1)]
    assert (found.held, found.pair, found.where) == ({7: 8}, ("a", "b"), Path("/a"))
    assert found.colour is Colour.RED
    assert found.loose == {"x": 1, "more": "kept"}
    assert read_as(Record, GOOD).points == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": 1}, "name"), ({"name": None}, "name"), ({"name": "\ud800"}, "name"),
        ({"pid": -1}, "pid"), ({"pid": 2**31}, "pid"), ({"pid": True}, "pid"),
        ({"pid": 1.0}, "pid"), ({"pid": 10**400}, "pid"), ({"colour": "blue"}, "colour"),
        ({"colour": []}, "colour"), ({"n": -1}, "n"), ({"n": 10**30}, "n"),
        ({"where": ""}, "where"), ({"where": "a\0b"}, "where"), ({"points": {}}, "points"),
        ({"points": [1]}, r"points\[0\]"), ({"points": [{"x": float("nan")}]}, r"points\[0\]\.x"),
        ({"points": [{"x": 1}, {"y": 1}]}, r"points\[1\]\.x is missing"),
        ({"held": {"a": 1}}, r"held\.a"), ({"held": {"7": "x"}}, r"held\.7"),
        ({"pair": ["a"]}, "pair"), ({"pair": "ab"}, "pair"), ({"loose": {"x": "1"}}, r"loose\.x"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_its_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ShapeError, match=f"^{named}") as refusal:
        read_as(Record, GOOD | change)
    assert "\n" not in str(refusal.value)


def test_a_file_longer_than_any_of_ours_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.write_json(tmp_path / "run.json", {"run_id": "r"})
    monkeypatch.setattr(durable, "MOST_BYTES", 10)
    with pytest.raises(ConfigError, match=r"run\.json: larger than 10 bytes"):
        durable.read_json(tmp_path / "run.json")


@pytest.mark.parametrize("plain", [None, [], 7, "x", {}])
def test_what_is_no_record_is_refused(plain: object) -> None:
    with pytest.raises(ShapeError):
        read_as(Record, plain)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    kind=st.sampled_from([Report, Entry, Observed, Record, *facts.KINDS.values()]),
    data=st.data(),
)
def test_whatever_is_there_is_read_or_refused(kind: type[Any], data: st.DataObject) -> None:
    names = list(getattr(kind, "__annotations__", {}))
    values = data.draw(st.dictionaries(st.sampled_from([*names, "x"]), ANYTHING))
    try:
        read_as(kind, values)
    except ShapeError as refusal:
        assert str(refusal)
