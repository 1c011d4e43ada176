from __future__ import annotations

import datetime as dt
import enum
import itertools
import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import ConfigError
from supervisor.rows.grid import MAX_AXIS_VALUES, Grid, Value, parse_axis
from supervisor.rows.space import Space
from supervisor.rows.values import to_arrow_column

AXES = st.dictionaries(
    st.sampled_from("abcd"),
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5, unique=True),
        st.lists(st.floats(-1e6, 1e6).filter(bool), min_size=1, max_size=5, unique=True),
        st.lists(st.text(max_size=3), min_size=1, max_size=5, unique=True),
        st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(axes=AXES)
def test_index_and_parameters_are_nested_loops(axes: dict[str, list[Value]]) -> None:
    grid = Grid.of(axes)
    expected = [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    assert grid.size == len(expected)
    assert [grid.params(i) for i in range(grid.size)] == expected
    assert [grid.index(params) for params in expected] == list(range(grid.size))
    columns = grid.columns(0, grid.size)
    assert list(columns) == list(axes)
    for name in axes:
        assert columns[name].tolist() == [row[name] for row in expected]


@settings(max_examples=50, deadline=None)
@given(axes=AXES, data=st.data())
def test_any_range_is_a_slice_of_the_whole(
    axes: dict[str, list[Value]], data: st.DataObject
) -> None:
    grid = Grid.of(axes)
    start = data.draw(st.integers(0, grid.size))
    stop = data.draw(st.integers(start, grid.size))
    part, whole = grid.columns(start, stop), grid.columns(0, grid.size)
    for name in axes:
        assert part[name].tolist() == whole[name][start:stop].tolist()


def test_parameters_are_plain_values() -> None:
    grid = Grid.of({"n": range(3), "x": np.array([0.5, 1.5]), "on": [True, False], "s": ["a", "b"]})
    params = grid.params(13)
    assert params == {"n": 1, "x": 1.5, "on": True, "s": "b"}
    assert [type(value) for value in params.values()] == [int, float, bool, str]
    assert [axis.dtype.kind for axis in grid.axes] == ["i", "f", "b", "O"]
    assert not any(axis.flags.writeable for axis in grid.axes)
    assert json.loads(json.dumps(grid.to_json())) == grid.to_json()
    assert Grid.of(grid.to_json()).params(13) == params


def test_ints_and_floats_mix_into_floats() -> None:
    assert Grid.of({"x": [1, 2.5]}).axis("x").tolist() == [1.0, 2.5]


def test_one_value_is_an_axis() -> None:
    grid = Grid.of({"fee": 0.001, "mode": "long", "fast": range(5, 8)})
    assert grid.size == 3
    assert grid.params(2) == {"fee": 0.001, "mode": "long", "fast": 7}


def test_ranges_of_any_make() -> None:
    for values in (range(5, 0, -2), range(2**63 - 3, 2**63), range(-(2**63), -(2**63) + 2)):
        assert Grid.of({"a": values}).axis("a").tolist() == list(values)


def test_a_huge_grid_costs_nothing() -> None:
    grid = Grid.of({"a": range(60_000), "b": range(60_000)})
    assert grid.size == 3_600_000_000
    assert grid.params(grid.size - 1) == {"a": 59_999, "b": 59_999}
    assert grid.columns(grid.size - 1, grid.size)["b"].tolist() == [59_999]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({}, "the grid is empty"),
        ({"a": []}, "axis 'a' is empty"),
        ({"a": range(0)}, "axis 'a' is empty"),
        ({"a": [1, 2, 1]}, "repeats the value 1"),
        ({"a": [1, 1.0]}, "repeats the value 1"),
        ({"a": [1, "x"]}, r"mixes or holds unusable types \(int, str\)"),
        ({"a": [True, 1]}, r"mixes or holds unusable types \(bool, int\)"),
        ({"a": [[1], [2]]}, r"unusable types \(list\)"),
        ({"a": [1.0, float("nan")]}, "not finite"),
        ({"a": [float("inf")]}, "not finite"),
        ({"a": [2**63]}, "beyond 64 bits"),
        ({"a": [2**2000, 0.5]}, "beyond the range of a double"),
        ({"a": [2**53, 2**53 + 1, 0.5]}, "repeats the value"),
        ({"a": range(2**63, 2**63 + 2)}, "beyond 64 bits"),
        ({"a": range(MAX_AXIS_VALUES + 1)}, "has 10,000,001 values; at most"),
        ({"a": range(10**6), "b": range(10**6), "c": range(10**6)}, "1000000 × 1000000 × 1000000"),
        ({"": [1]}, "name must not be empty"),
        ({"a": 5 + 1j}, "axis 'a'"),
    ],
)
def test_what_is_no_grid_is_refused(axes: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        Grid.of(axes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("fast=5:50:5", "fast", list(range(5, 51, 5))),
        ("fast=5:9:3", "fast", [5, 8]),
        ("fast=3:5", "fast", [3, 4, 5]),
        ("fast=5:5:1", "fast", [5]),
        (" fast = 5 : 7 : 2 ", "fast", [5, 7]),
        ("x=0.1:0.3:0.1", "x", [0.1, 0.2, 0.3]),
        ("x=-1:1:1", "x", [-1, 0, 1]),
        ("x=1:2:0.5", "x", [1.0, 1.5, 2.0]),
        ("x=1e-3:3e-3:1e-3", "x", [0.001, 0.002, 0.003]),
        ("x=1,2,3", "x", [1, 2, 3]),
        ("x=1, 2.5 ,", "x", [1, 2.5]),
        ("mode=long,short", "mode", ["long", "short"]),
        ("on=true,False", "on", [True, False]),
        ("x=7", "x", [7]),
    ],
)
def test_axes_as_written_on_the_command_line(text: str, name: str, values: list[Value]) -> None:
    parsed = parse_axis(text)
    assert (parsed[0], list(parsed[1])) == (name, values)
    assert [type(v) for v in parsed[1]] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fast", "write name=start:stop:step or name=a,b,c"),
        ("=1,2", "write name="),
        ("fast=", "write name="),
        ("fast=,", "is empty"),
        ("fast=1:2:3:4", "three numbers"),
        ("fast=a:b:c", "three numbers"),
        ("fast=1:", "three numbers"),
        ("fast=1/0:2:1", "three numbers"),
        ("fast=1:nan:1", "three numbers"),
        ("fast=1:inf:1", "three numbers"),
        ("fast=1:9:0", "step must be positive"),
        ("fast=1:9:-1", "step must be positive"),
        ("fast=9:1:1", "is empty"),
        ("fast=1:100000000:1", "at most 10,000,000"),
        ("fast=0:1:1e-9", "at most 10,000,000"),
        ("fast=0:1e400:1e400", "three numbers"),
        ("fast=0:1:1e-999999999", "three numbers"),
        ("fast=0:9223372036854775808:9223372036854775808", "beyond 64 bits"),
    ],
)
def test_what_is_no_axis_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        name, values = parse_axis(text)
        Grid.of({name: values})
    assert "\n" not in str(caught.value)


def test_a_value_off_the_grid_has_no_index() -> None:
    grid = Grid.of({"a": [1, 2], "b": ["x", "y"]})
    assert grid.index({"a": 2, "b": "x"}) == 2
    for params in ({"a": 3, "b": "x"}, {"a": 1, "b": "z"}, {"a": 1}):
        with pytest.raises(KeyError):
            grid.index(params)


# -- values of other kinds ---------------------------------------------------------


class Side(enum.Enum):
    LONG = 1
    SHORT = 2


KINDS: dict[str, list[object]] = {
    "nothing or a number": [None, 1, 2],
    "nothing or a float": [0.5, None],
    "nothing or a text": [None, "x"],
    "nothing": [None],
    "whole and broken": [1, 2.5],
    "dates": [dt.date(2024, 1, 2), dt.date(2024, 2, 29)],
    "datetimes": [dt.datetime(2024, 1, 2, 9, 30), dt.datetime(2024, 1, 2, 9, 30, 0, 1)],
    "datetimes with a zone": [dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))],
    "times": [dt.time(9, 30), dt.time(16, 0)],
    "spans of time": [dt.timedelta(days=1, seconds=3), dt.timedelta(microseconds=1)],
    "decimals": [Decimal("1.10"), Decimal("2.5"), Decimal("0")],
    "tuples": [(1, 2), (3, 4)],
    "tuples of floats": [(0.5,), (0.25, 0.125)],
    "texts that look like numbers": ["00012", "1", "1.0", "nan", "None", "true", "09:30"],
    "booleans": [True, False],
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_come_back_as_they_were_given(kind: str) -> None:
    given = KINDS[kind]
    grid = Grid.of({"a": given, "b": [1, 2]})
    read = Grid.from_json(json.loads(json.dumps(grid.to_json())))
    for each in (grid, read):
        values = [each.params(2 * at)["a"] for at in range(len(given))]
        assert values == given
        assert [type(value) for value in values] == [type(value) for value in given]
        assert [each.index({"a": value, "b": 2}) for value in given] == [
            2 * at + 1 for at in range(len(given))
        ]


@pytest.mark.parametrize(
    "given", [[Side.LONG, Side.SHORT], list(Side), [np.datetime64("2024", "ns")]]
)
def test_values_that_only_the_program_knows_have_a_label(given: list[object]) -> None:
    grid = Grid.of({"side": given})
    labels = grid.axis("side").tolist()
    named = zip(labels, given, strict=True)
    assert grid.opaque() == {"side": {label: value for label, value in named if label}}
    read = Grid.from_json(json.loads(json.dumps(grid.to_json())))
    assert read.axis("side").tolist() == labels
    assert [str(read.params(at)["side"]) for at in range(len(given))] == list(map(str, labels))


def test_an_enum_is_an_axis_and_its_member_a_value() -> None:
    assert Grid.of({"side": Side}).axis("side").tolist() == ["Side.LONG", "Side.SHORT"]
    assert Grid.of({"side": Side.LONG, "day": dt.date(2024, 1, 1), "stop": None}).size == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([dt.time(9, 30), dt.time(9, 30, tzinfo=dt.UTC)], "with and without a zone"),
        ([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 2, tzinfo=dt.UTC)], "without a zone"),
        ([dt.time(9, tzinfo=dt.timezone(dt.timedelta(hours=h))) for h in (1, 2)], "both call"),
        ([dt.date(2024, 1, 1), dt.datetime(2024, 1, 1)], "date, datetime"),
        ([Decimal("NaN")], "not finite"),
        ([None, float("inf")], "not finite"),
        ([None, 2**70], "cannot be kept"),
        ([Side.LONG, 1], "Side, int"),
        ([None, 1, "x"], "NoneType, int, str"),
        ([{"a": 1}], r"\(dict\)"),
        ([None, None], "repeats the value None"),
        ([dt.date(2024, 1, 1)] * 2, "repeats"),
    ],
)
def test_values_that_a_column_cannot_hold_are_refused(values: list[object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        Grid.of({"a": values})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=00700,9988,30100", ["00700", "9988", "30100"]),
        ("x=0,10", [0, 10]),
        ("x='a,b',c", ["a,b", "c"]),
        ('x="a,b" , "1" , 2.5', ["a,b", "1", 2.5]),
        ("x='',a", ["", "a"]),
        ("x=it's,b", ["it's", "b"]),
        ("x=5, ", [5]),
    ],
)
def test_a_list_is_read_as_it_is_meant(text: str, values: list[object]) -> None:
    assert parse_axis(text) == ("x", values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x=1,,2", "empty value"),
        ("x=[1,2]", "without brackets"),
        ("x=(1,2),(3,4)", "without brackets"),
    ],
)
def test_a_list_that_would_be_torn_apart_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_axis(text)


@pytest.mark.parametrize(
    "values",
    [
        [("sma", 5), ("ema", 10)],
        [(1, 2), ("a", 3)],
        [("1", 1), (1, "1"), None],
        [((1, 2), "a"), ((3, 4), "b")],
        [(1, 2), (1, (2, 3))],
    ],
)
def test_tuples_of_parts_of_several_kinds_are_texts_in_results(values: list[object]) -> None:
    grid = Grid.of({"a": values})
    again = Grid.from_json(json.loads(json.dumps(grid.to_json())))
    for each in (grid, again):
        assert [each.params(at)["a"] for at in range(each.size)] == values
    right = [None if value is None else repr(value) for value in values]
    assert to_arrow_column(values).to_pylist() == right


# -- points ------------------------------------------------------------------------


POINTS = [
    {"fast": 5, "slow": 20, "mode": "x"},
    {"slow": 20, "fast": 9, "mode": "y"},
    {"fast": 5, "slow": 7, "mode": "x"},
    {"fast": 30, "slow": 7, "mode": "x"},
    {"fast": 5, "slow": 20, "mode": "x"},
]


def test_points_are_a_grid() -> None:
    grid = Grid.of(POINTS)
    assert (grid.names, grid.size) == (("fast", "slow", "mode"), 5)
    assert [grid.params(at) for at in range(5)] == POINTS
    assert all(type(value) in (int, str) for at in range(5) for value in grid.params(at).values())
    assert grid.columns(1, 4)["slow"].tolist() == [20, 7, 7]
    assert [grid.index(point) for point in POINTS] == [0, 1, 2, 3, 0]
    with pytest.raises(KeyError):
        grid.index({"fast": 9, "slow": 7, "mode": "x"})
    written = json.loads(json.dumps([grid.to_json(), grid.points_to_json()]))
    assert [Grid.from_json(*written).params(at) for at in range(5)] == POINTS


def test_random_points_have_their_own_values() -> None:
    rng = np.random.default_rng(0)
    points = [{"x": float(x), "n": int(n)} for x, n in zip(rng.random(50), range(50), strict=True)]
    assert [Grid.of(points).params(at) for at in range(50)] == points


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], "the grid is empty"),
        ([{}], "no parameter"),
        ([{"a": 1}, {"b": 1}], "point 1 does not have the parameters of point 0"),
        ([{"a": 1}, {"a": 1, "b": 2}], "point 1"),
        ([{"a": 1}, 5], "point 1"),
        ([{"a": 1}, {"a": "x"}], "mixes"),
        ([{"a": float("nan")}], "not finite"),
        ([{"": 1}], "must not be empty"),
    ],
)
def test_points_that_are_no_grid_are_refused(points: list[object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Grid.of(points)  # type: ignore[arg-type]


def test_a_strategy_accepts_some_of_the_points() -> None:
    space = Space(Grid.of(POINTS), ("fast", "slow"))
    assert space.total == 4
    assert space.accepted(0, 5).tolist() == [0, 1, 2, 4]
    assert [space.count(3, at) for at in (3, 4, 5)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=0:1:0.1", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("x=0:1:0.3", [0.0, 0.3, 0.6, 0.9]),
        ("x=-0.3:0.3:0.3", [-0.3, 0.0, 0.3]),
        ("x=00012", ["00012"]),
        ("x=007,12", ["007", "12"]),
        ("x=09:30", ["09:30"]),
        ("x=09:30,16:00", ["09:30", "16:00"]),
        ("x=09:30:00", ["09:30:00"]),
        ("x='10:30'", ["10:30"]),
        ('x="5"', ["5"]),
        ("x=None,1", [None, 1]),
        ("x=none", ["none"]),
        ("x=1_000", ["1_000"]),
        ("x=2024-01-02", ["2024-01-02"]),
        ("x=.5,5.,1e3,-0.5", [0.5, 5.0, 1000.0, -0.5]),
        ("x=0x10", ["0x10"]),
        ("x=5-50", ["5-50"]),
    ],
)
def test_texts_stay_texts(text: str, values: list[object]) -> None:
    found = list(parse_axis(text)[1])
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_values_that_results_could_not_tell_apart_are_refused() -> None:
    class Weight:
        def __str__(self) -> str:
            return "weight"

    with pytest.raises(ConfigError, match="results would both call 'weight'"):
        Grid.of({"w": [Weight(), Weight()]})


@pytest.mark.parametrize("as_points", [False, True], ids=["axes", "points"])
def test_a_grid_of_very_many_parameters_is_refused(as_points: bool) -> None:
    one = {f"p{at}": 1 for at in range(1001)}
    with pytest.raises(ConfigError, match="1,001 parameters; at most 1,000"):
        Grid.of([one] if as_points else one)


@pytest.mark.parametrize(
    "axes", [{"\udcff": [1]}, {"mode": ["\udcff"]}, {"mode": [None, "\udcff"]}], ids=str
)
def test_a_text_that_is_not_utf8_is_refused(axes: dict[str, list[object]]) -> None:
    with pytest.raises(ConfigError, match="is not UTF-8"):
        Grid.of(axes)
