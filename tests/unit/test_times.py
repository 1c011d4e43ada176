"""A column of times is of one kind and one unit, or the first row that is not is named."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from supervisor.errors import DataError
from supervisor.market.bars import load_bars

S = 1_705_415_400  # 2024-01-16 14:30 UTC
UTC = dt.UTC


def ns(*texts: str) -> list[int]:
    return np.array(texts, "M8[ns]").astype(np.int64).tolist()


def read(values: Any) -> list[int]:
    return load_bars({"time": values, "close": np.arange(1.0, len(values) + 1)}).time.tolist()


def refused(values: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_floats(numbers: Sequence[int]) -> Any:
    return np.array(numbers, dtype=np.float64)


def as_texts(numbers: Sequence[int]) -> Any:
    return [str(number) for number in numbers]


def as_objects(numbers: Sequence[int]) -> Any:
    return np.array(numbers, dtype=object)


def as_arrow(numbers: Sequence[int]) -> Any:
    return pa.array(numbers, pa.int64())


HOLDERS: list[Callable[[Sequence[int]], Any]] = [
    list, np.array, as_floats, as_texts, as_objects, as_arrow, pd.Series,
]  # fmt: skip


@pytest.mark.parametrize("hold", HOLDERS, ids=lambda hold: hold.__name__)
@pytest.mark.parametrize(
    ("numbers", "right"),
    [
        ([20240116, 20240117], ("2024-01-16", "2024-01-17")),
        ([2024011609, 2024011610], ("2024-01-16T09:00", "2024-01-16T10:00")),
        ([2401160930, 2401160931], ("2024-01-16T09:30", "2024-01-16T09:31")),
        ([9901160930, 9901160931], ("1999-01-16T09:30", "1999-01-16T09:31")),
        ([1201020930, 1201020931], ("2012-01-02T09:30", "2012-01-02T09:31")),
        ([901020930, 901020931], ("2009-01-02T09:30", "2009-01-02T09:31")),
        ([202401160930, 202401160931], ("2024-01-16T09:30", "2024-01-16T09:31")),
        ([240116093000, 240116093001], ("2024-01-16T09:30:00", "2024-01-16T09:30:01")),
        ([20240116093000, 20240116093001], ("2024-01-16T09:30:00", "2024-01-16T09:30:01")),
        ([S, S + 60], ("2024-01-16T14:30", "2024-01-16T14:31")),
        ([S * 1000, S * 1000 + 60_000], ("2024-01-16T14:30", "2024-01-16T14:31")),
        ([S * 10**6, (S + 60) * 10**6], ("2024-01-16T14:30", "2024-01-16T14:31")),
        ([1201020900, 1201020960], ("2008-01-22T16:55", "2008-01-22T16:56")),
        ([-252322200, -252235800, S], ("1962-01-02T14:30", "1962-01-03T14:30", "2024-01-16T14:30")),
        ([-86_400_000, 0, 99_900_000_000, 110_000_000_000],
         ("1969-12-31", "1970-01-01", "1973-03-02T06:00", "1973-06-27T03:33:20")),
    ],
)  # fmt: skip
def test_numbers_are_epochs_or_digits_of_the_calendar(
    numbers: list[int], right: tuple[str, ...], hold: Callable[[Sequence[int]], Any]
) -> None:
    assert read(hold(numbers)) == ns(*right)


def test_whole_nanoseconds_are_kept_but_in_doubles() -> None:
    assert read(np.array([S * 10**9, S * 10**9 + 1])) == [S * 10**9, S * 10**9 + 1]
    assert read(np.array([S * 10**9, S * 10**9 + 1], np.uint64)) == [S * 10**9, S * 10**9 + 1]
    assert read([f"{S * 10**9}", f"{S * 10**9 + 1}"]) == [S * 10**9, S * 10**9 + 1]


def test_hours_of_a_month_tell_the_two_ways_of_ten_digits_apart() -> None:
    hours = pd.date_range("2012-01-01", "2012-02-15", freq="h")
    right = hours.as_unit("ns").astype("int64").tolist()
    assert read([int(hour.strftime("%Y%m%d%H")) for hour in hours]) == right


@pytest.mark.parametrize("hold", HOLDERS, ids=lambda hold: hold.__name__)
@pytest.mark.parametrize(
    ("numbers", "row", "words"),
    [
        ([S * 1000, (S + 60) * 10**6], 1, "in µs since 1970, where the rows before are in ms"),
        ([S * 10**6, (S + 60) * 10**6, (S + 120) * 1000], 2, "in ms since 1970, where the rows"),
        ([S, S + 60, (S + 120) * 1000], 2, "in ms since 1970, where the rows before are in s"),
        ([20242301, 20242302], 0, "is no day of the calendar (YYYYMMDD)"),
        ([20240116, 20242301], 1, "is no time written like the first, 20240116"),
        ([20240116, 202401170930], 1, "is no time written like the first, 20240116"),
        ([202401160930, 202401162530], 1, "202401162530"),
        ([20240116, S], 1, "is no time written like the first"),
        ([S, 4_102_444_800], 1, "read as 2100-01-01, lies outside the years 1960 to"),
        ([19280103, 19280104], 0, "lies outside the years 1960 to"),
        ([1, 2, 3], 0, "is not a time: write YYYY-MM-DD"),
        ([10**20, 10**20 + 1], 0, ""),
    ],
)
def test_the_first_row_of_another_kind_is_named(
    numbers: list[int], row: int, words: str, hold: Callable[[Sequence[int]], Any]
) -> None:
    if numbers[0] >= 2**63 and hold in (as_arrow, np.array):
        pytest.skip("no such integers")
    message = refused(hold(numbers))
    assert words in message
    assert f"row {row}: " in message or not words


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "15m"])
def test_datetime64_of_every_unit(unit: str) -> None:
    stamps = np.array(["2001-01-04T00:00", "2003-01-02T00:00"], "M8[ns]").astype(f"M8[{unit}]")
    assert read(stamps) == stamps.astype("M8[ns]").astype(np.int64).tolist()
    assert "row 1: time is missing" in refused(np.array([stamps[0], "NaT"], stamps.dtype))
    if unit != "ns":
        assert "row 1: time '9" in refused(
            np.array(["2001-01-04", "9001-01-04"], "M8[s]").astype(f"M8[{unit}]")
        )


@pytest.mark.parametrize("unit", ["ps", "fs"])
def test_datetime64_of_tiny_units(unit: str) -> None:
    stamps = np.array([0, 3600 * 10 ** {"ps": 12, "fs": 15}[unit]], f"M8[{unit}]")
    assert read(stamps) == [0, 3600 * 10**9]


def test_python_objects_are_not_cut() -> None:
    assert read([dt.date(2024, 1, 16), dt.datetime(2024, 1, 16, 9, 30)]) == ns(
        "2024-01-16", "2024-01-16T09:30"
    )
    berlin = [dt.timezone(dt.timedelta(hours=h)) for h in (1, 2)]
    assert read(
        [
            dt.datetime(2024, 3, 31, 1, tzinfo=berlin[0]),
            dt.datetime(2024, 3, 31, 3, tzinfo=berlin[1]),
        ]
    ) == ns("2024-03-31T00:00", "2024-03-31T01:00")
    assert "not times" in refused([dt.timedelta(1), dt.timedelta(2)])
    assert "not times" in refused([True, False])


def test_an_hour_that_occurs_twice_is_told_apart_by_its_offset() -> None:
    hours = pd.date_range("2024-11-03 04:00", periods=4, freq="h", tz="UTC")
    there = hours.tz_convert("America/New_York")
    right = ns(*(str(hour.tz_localize(None)) for hour in hours))
    for values in (there, pd.Series(there), there.astype(str), list(there.to_pydatetime())):
        assert read(values) == right
    naive = there.tz_localize(None)
    assert "row 2: time 2024-11-03T01:00:00 occurs twice" in refused(naive)


def test_periods_of_pandas() -> None:
    months = pd.period_range("2024-01", periods=2, freq="M")
    series = pd.Series([1.0, 2.0], index=months)
    assert load_bars(series).time.tolist() == ns("2024-01-01", "2024-02-01")


@pytest.mark.parametrize(
    ("texts", "right"),
    [
        (["2024-01-16 09-AM", "2024-01-16 01-PM"], ("2024-01-16T09:00", "2024-01-16T13:00")),
        (["1/16/2024 9:30:00 AM", "1/16/2024 12:05:00 PM"],
         ("2024-01-16T09:30", "2024-01-16T12:05")),
        (["16/01/2024", "17/01/2024"], ("2024-01-16", "2024-01-17")),
        (["12/01/2024", "13/01/2024"], ("2024-01-12", "2024-01-13")),
        (["01/12/2024", "02/01/2024", "02/02/2024"], ("2024-01-12", "2024-02-01", "2024-02-02")),
        (["16-Jan-24", "17-Jan-24"], ("2024-01-16", "2024-01-17")),
        (["Jan 16, 2024", "Jan 17, 2024"], ("2024-01-16", "2024-01-17")),
        (["2024.1.16 9:30", "2024.1.16 10:30"], ("2024-01-16T09:30", "2024-01-16T10:30")),
        (["16.1.2024 09:30:00,5", "16.1.2024 09:30:01,25"],
         ("2024-01-16T09:30:00.5", "2024-01-16T09:30:01.25")),
        (["2024/1/16 09:30:00 +0100", "2024/1/16 09:31:00 +0100"],
         ("2024-01-16T08:30", "2024-01-16T08:31")),
        (["20240116  09:30:00", "20240116  09:31:00"], ("2024-01-16T09:30", "2024-01-16T09:31")),
        (["2024-01-16T14:30:00.000000001Z", "2024-01-16T14:31:00.000000000Z"],
         ("2024-01-16T14:30:00.000000001", "2024-01-16T14:31")),
    ],
)  # fmt: skip
def test_texts(texts: list[str], right: tuple[str, ...]) -> None:
    assert read(texts) == ns(*right)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["01/02/2024", "01/03/2024"], "may be month/day or day/month"),
        (["13/13/2024", "14/13/2024"], "is no day, neither as month/day nor as day/month"),
        (["2024-01-16 09:30 US/Eastern", "2024-01-16 09:31 US/Eastern"], "names a zone: write it"),
        (["2024-01-16", "soon"], "row 1: time 'soon' is no time written like the first"),
        (["2024-02-29", "2024-02-30"], "row 1: time '2024-02-30' is no time"),
        (["2050-01-01", "2050-01-02"], "row 0: time '2050-01-01' lies outside the years"),
        (["2024-01-16 10:00", "2024-01-16 11:00Z"], "row 1: time '2024-01-16 11:00Z' is no time"),
    ],
)
def test_texts_that_are_refused(texts: list[str], words: str) -> None:
    assert words in refused(texts)


@pytest.mark.parametrize(
    "cell",
    [
        ":" * 20_000, "2024-01-16 " + ":" * 20_000, "2024-01-16 00" + ":00" * 20_000,
        "2024-01-16 00:00" + " " * 20_000 + "x", "9" * 20_000, "1/" * 20_000, "-" * 20_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [0, 1])
def test_a_cell_of_any_length_takes_no_time(tmp_path: Path, cell: str, at: int) -> None:
    cells = ["2024-01-16 00:00:00", "2024-01-16 01:00:00", "2024-01-16 02:00:00"]
    cells[at] = cell
    path = tmp_path / "long.csv"
    begin = time.process_time()
    for head, tail in (("time", ""), ("date,time", ",09:30"), ("date,time", cell)):
        rows = [f"{one},{tail or 0},1" if "," in head else f"{one},1" for one in cells]
        path.write_text("\n".join([f"{head},close", *rows]))
        with pytest.raises(DataError) as caught:
            load_bars(path)
        assert len(str(caught.value)) < 500
    assert time.process_time() - begin < 2  # 29 s for a regular expression that backtracks


# --- a date and a time of day ------------------------------------------------------------------

DATES: list[Any] = [
    ["2024-01-16", "2024-01-16"], ["20240116", "20240116"], [20240116, 20240116],
    ["16.01.2024", "16.01.2024"], np.array(["2024-01-16"] * 2, "M8[D]"),
    [dt.date(2024, 1, 16)] * 2, ["1/16/2024", "1/16/2024"],
]  # fmt: skip
CLOCKS: list[Any] = [
    ["09:30", "09:31"], ["9:30", "9:31"], ["09:30:00.000", "09:31:00.000"], ["0930", "0931"],
    ["093000", "093100"], [930, 931], [93000, 93100], [93000000, 93100000],
    ["9:30 AM", "9:31 am"], [dt.time(9, 30), dt.time(9, 31)],
    [dt.timedelta(hours=9, minutes=30), dt.timedelta(hours=9, minutes=31)],
]  # fmt: skip


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
@pytest.mark.parametrize("dates", DATES, ids=str)
def test_a_date_beside_a_time_of_day(dates: Any, clock: Any) -> None:
    bars = load_bars({"date": dates, "time": clock, "close": [1.0, 2.0]})
    assert bars.time.tolist() == ns("2024-01-16T09:30", "2024-01-16T09:31")


def test_a_time_of_day_that_there_is_not() -> None:
    with pytest.raises(DataError, match="row 1: time '2530' is no time of day"):
        load_bars({"date": [20240116] * 2, "time": [930, 2530], "close": [1.0, 2.0]})
