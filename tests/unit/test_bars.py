from __future__ import annotations

import codecs
import gc
import gzip
import io
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import backtesting.test
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supervisor.errors import DataError, ProtocolError
from supervisor.market import files
from supervisor.market.bars import Bars, load_bars
from tests.support.data import CSV, csv_with, write_csv

FIELDS = ("open", "high", "low", "close", "volume", "time")
HOUR_NS = 3600 * 10**9
START_NS = int(np.datetime64("2024-01-01", "ns").astype(np.int64))
REAL = Path(backtesting.test.__file__).parent


@pytest.fixture
def sample(tmp_path: Path) -> Bars:
    return load_bars(write_csv(tmp_path / "sample.csv"))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.read_csv(io.StringIO(CSV), parse_dates=["time"])


def same(a: Bars, b: Bars) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def complaint(source: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_bars(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what is read ------------------------------------------------------------------------------


def test_a_plain_csv_is_read(sample: Bars, tmp_path: Path) -> None:
    assert len(sample) == 4
    assert sample.open.tolist() == [1.10, 1.15, 1.20, 1.25]
    assert sample.high.tolist() == [1.20, 1.25, 1.30, 1.35]
    assert sample.low.tolist() == [1.00, 1.05, 1.10, 1.15]
    assert sample.close.tolist() == [1.15, 1.20, 1.25, 1.30]
    assert sample.volume.tolist() == [10, 20, 30, 40]
    assert sample.time.tolist() == [START_NS + i * HOUR_NS for i in range(4)]
    assert sample.source == str(tmp_path / "sample.csv")
    assert sample.bars_per_year == 8760
    assert sample.nbytes == 4 * 48
    assert repr(sample).endswith("4 bars)")
    for name in FIELDS:
        array = getattr(sample, name)
        assert not array.flags.writeable
        assert array.flags.c_contiguous
        assert array.dtype == (np.int64 if name == "time" else np.float64)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(str.upper, id="upper case"),
        pytest.param(lambda s: s.replace(",", ";"), id="semicolons"),
        pytest.param(lambda s: s.replace(",", "\t"), id="tabs"),
        pytest.param(lambda s: s.replace(",", " , "), id="blanks"),
        pytest.param(lambda s: s.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda s: s.rstrip(), id="no newline at the end"),
        pytest.param(lambda s: "\n\n" + s.replace("\n", "\n\n"), id="empty lines"),
        pytest.param(lambda s: "\ufeff" + s, id="BOM"),
        pytest.param(lambda s: s.replace("time,", ",", 1), id="unnamed first column"),
        pytest.param(lambda s: s.replace("time", "Gmt time"), id="Gmt time"),
        pytest.param(lambda s: s.replace("time", "open_time"), id="open_time"),
        pytest.param(lambda s: s.replace("volume", "tick_volume"), id="tick_volume"),
        pytest.param(lambda s: s.replace("close", "Adj Close"), id="adjusted only"),
        pytest.param(lambda s: s.replace("time,open,high,low,close", "t,o,h,l,c"), id="one letter"),
        pytest.param(
            lambda s: "<" + s.replace(",", ">,<", 5).replace("\n", ">\n", 1).upper(),
            id="MetaTrader",
        ),
        pytest.param(
            lambda s: s.replace("open,high,low,close", "1. open,2. high,3. low,4. close"),
            id="numbered",
        ),
        pytest.param(lambda s: s.replace("1.10", '"1.10"').replace("1.15", '"1.15"'), id="quotes"),
        pytest.param(
            lambda s: s.replace(",volume", ",volume,note").replace("0\n", "0,x;y\n"),
            id="other column",
        ),
        pytest.param(lambda s: s.replace(" 0", "T0"), id="T"),
        pytest.param(lambda s: s.replace(":00,", ":00Z,"), id="Z"),
        pytest.param(lambda s: s.replace(":00,", ":00 UTC,"), id="UTC"),
        pytest.param(lambda s: s.replace(":00,", ":00+00:00,"), id="offset"),
        pytest.param(lambda s: s.replace(":00,", ":00 +0000,"), id="blank and offset"),
        pytest.param(lambda s: s.replace(":00:00,", ":00:00.000,"), id="ms"),
        pytest.param(lambda s: s.replace(":00:00,", ":00,"), id="no seconds"),
        pytest.param(lambda s: s.replace("2024-01-01", "20240101"), id="compact day"),
        pytest.param(lambda s: s.replace("2024-01-01", "20240101").replace(":", ""), id="compact"),
        pytest.param(lambda s: s.replace("2024-01-01 ", "20240101").replace(":", ""), id="digits"),
        pytest.param(
            lambda s: s.replace("2024-01-01", "01.01.2024").replace(":00,", ":00.0,"),
            id="Dukascopy",
        ),
        pytest.param(
            lambda s: s.replace("2024-01-01", "01.01.2024").replace(":00,", ":00 GMT+0000,"),
            id="GMT+0000",
        ),
        pytest.param(lambda s: s.replace("2024-01-01", "2024.01.01"), id="dotted"),
        pytest.param(lambda s: s.replace("2024-01-01", "2024/01/01"), id="slashes"),
        pytest.param(
            lambda s: s.replace("time,", "date,time,").replace("2024-01-01 ", "2024.01.01,"),
            id="date and time of day",
        ),
    ],
)
def test_the_same_bars_however_they_are_written(
    tmp_path: Path, sample: Bars, change: Callable[[str], str]
) -> None:
    text = change(CSV)
    assert text != CSV
    assert same(load_bars(write_csv(tmp_path / "changed.csv", text)), sample)


@pytest.mark.parametrize("per_s", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("decimals", ["", ".0"])
def test_epochs_of_any_unit(tmp_path: Path, sample: Bars, per_s: int, decimals: str) -> None:
    text = CSV
    for i in range(4):
        epoch = (START_NS + i * HOUR_NS) // 10**9 * per_s
        text = text.replace(f"2024-01-01 0{i}:00:00", f"{epoch}{decimals}")
    assert same(load_bars(write_csv(tmp_path / "epoch.csv", text)), sample)


def test_zones_are_taken_to_utc_over_a_change_of_offset(tmp_path: Path) -> None:
    text = (
        "time,close\n"
        "2024-03-31 01:00:00+01:00,1\n"
        "2024-03-31 03:00:00+02:00,2\n"
        "2024-03-31 04:00:00+02:00,3\n"
    )
    bars = load_bars(write_csv(tmp_path / "dst.csv", text))
    assert np.diff(bars.time).tolist() == [HOUR_NS, HOUR_NS]
    assert bars.time[0] == np.datetime64("2024-03-31T00:00", "ns").astype(np.int64)


def test_fractions_of_seconds_are_kept(tmp_path: Path) -> None:
    text = "time,close\n1704067200.25,1\n1704067200.5,2\n"
    bars = load_bars(write_csv(tmp_path / "f.csv", text))
    assert np.diff(bars.time).tolist() == [250_000_000]


def test_days_and_their_year(tmp_path: Path) -> None:
    days = ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08"]
    text = "Date,Close\n" + "".join(f"{day},{i + 1}\n" for i, day in enumerate(days))
    bars = load_bars(write_csv(tmp_path / "days.csv", text))
    assert bars.bars_per_year == 365
    compact = load_bars(write_csv(tmp_path / "compact.csv", text.replace("-", "")))
    assert same(bars, compact)


def test_only_close_and_time_are_needed(tmp_path: Path) -> None:
    bars = load_bars(write_csv(tmp_path / "c.csv", "time,close\n2024-01-01,1\n2024-01-02,2\n"))
    for name in ("open", "high", "low"):
        assert getattr(bars, name).tolist() == [1, 2]
    assert bars.volume.tolist() == [0, 0]


def test_close_is_preferred_to_adjusted_close(tmp_path: Path) -> None:
    text = "time,Adj Close,Close\n2024-01-01,1,3\n2024-01-02,2,4\n"
    assert load_bars(write_csv(tmp_path / "c.csv", text)).close.tolist() == [3, 4]


def test_gzip(tmp_path: Path, sample: Bars) -> None:
    path = tmp_path / "Sample.CSV.GZ"
    path.write_bytes(gzip.compress(CSV.encode(), mtime=0))
    assert same(load_bars(str(path)), sample)


@pytest.mark.parametrize(
    ("name", "n_bars", "per_year"), [("EURUSD.csv", 5000, 8760), ("GOOG.csv", 2148, 365)]
)
def test_real_files_from_other_programs(name: str, n_bars: int, per_year: float) -> None:
    bars = load_bars(REAL / name)
    expected = pd.read_csv(REAL / name, index_col=0, parse_dates=True)
    assert len(bars) == n_bars
    assert bars.bars_per_year == per_year
    assert np.array_equal(bars.time, expected.index.to_numpy("M8[ns]").astype(np.int64))
    for column in ("Open", "High", "Low", "Close", "Volume"):
        assert np.array_equal(getattr(bars, column.lower()), expected[column].to_numpy(float))
    assert same(bars, load_bars(expected))


# --- Parquet, frames, arrays -------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_frames_and_parquet_with_time_as_column_or_index(
    tmp_path: Path, frame: pd.DataFrame, sample: Bars, unit: str, zone: str | None
) -> None:
    stamps = frame["time"].dt.as_unit(unit)
    if zone:
        stamps = stamps.dt.tz_localize("UTC").dt.tz_convert(zone)
    column = frame.assign(time=stamps)
    named = column.set_index("time")
    unnamed = named.rename_axis(None)
    odd = named.rename_axis("when it was")
    for at, each in enumerate((column, named, unnamed, odd, named.rename(columns=str.title))):
        assert same(load_bars(each), sample)
        path = tmp_path / f"{at}.parquet"
        each.to_parquet(path)
        assert same(load_bars(path), sample)
        assert same(load_bars(pq.read_table(path)), sample)


def test_other_ways_to_hold_a_frame(frame: pd.DataFrame, sample: Bars) -> None:
    frames = {
        "text": frame.astype(str),
        "object": frame.astype(object),
        "nullable": frame.convert_dtypes(),
        "dates as text": frame.assign(time=frame["time"].astype(str).astype("category")),
        "two levels": frame.set_index("time").rename(columns=str.title).set_axis(
            pd.MultiIndex.from_product([["Open", "High", "Low", "Close", "Volume"], ["GOOG"]]),
            axis=1,
        ),
        "row numbers": frame.set_index(pd.RangeIndex(7, 11)),
        "epochs": frame.assign(time=frame["time"].astype("int64")),
    }  # fmt: skip
    for name, each in frames.items():
        assert same(load_bars(each), sample), name


def test_mappings_of_arrays(frame: pd.DataFrame, sample: Bars) -> None:
    arrays = {name: frame[name].to_numpy() for name in frame}
    assert same(load_bars(arrays), sample)
    assert same(load_bars({name: frame[name].tolist() for name in frame}), sample)
    assert same(load_bars(pa.table(arrays)), sample)
    assert same(load_bars({name: getattr(sample, name) for name in FIELDS}), sample)
    assert load_bars(sample) is sample
    hours = np.arange("2024-01-01", "2024-01-03", dtype="M8[D]")
    assert load_bars({"time": hours.astype("M8[h]"), "close": [1, 2]}).time[0] == START_NS


def test_loaded_bars_are_a_copy() -> None:
    close = np.array([1.0, 2.0])
    bars = load_bars({"time": np.array(["2024-01-01", "2024-01-02"], "M8[ns]"), "close": close})
    close[0] = 9
    assert bars.close[0] == 1


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "column", "cell", "expected"),
    [
        (3, 4, "oops", "row 3: close is 'oops', not a number"),
        (4, 1, "1,2", "row 4: has 7 columns where the header has 6"),
        (3, 4, "", "row 3: close is missing (empty or NaN): fill it in or delete the row"),
        (2, 2, "NaN", "row 2: high is missing (empty or NaN)"),
        (5, 3, "inf", "row 5: low is infinite"),
        (3, 4, "0", "row 3: close is 0: prices must be positive"),
        (3, 1, "-1.5", "row 3: open is -1.5: prices must be positive"),
        (3, 5, "-1", "row 3: volume is -1: it must be finite and not negative"),
        (3, 5, "", "row 3: volume is missing"),
        (4, 3, "1.31", "row 4: high 1.3 is below low 1.31"),
        (4, 0, "2024-01-01 00:30:00", "row 4: time 2024-01-01T00:30:00 comes after"),
        (4, 0, "2024-01-01 01:00:00", "row 4: time 2024-01-01T01:00:00 occurs twice"),
        (4, 0, "yesterday", "row 4: time 'yesterday' is no time"),
        (2, 0, "yesterday", "row 2: time 'yesterday' is not understood: write YYYY-MM-DD"),
        (4, 0, "", "row 4: time is missing"),
        (4, 0, "2024-02-30 00:00:00", "row 4: time '2024-02-30 00:00:00' is no time"),
        (5, 0, "9999-01-01 00:00:00", "row 5: time '9999-01-01 00:00:00' lies outside the years"),
        (4, 0, "2024-01-01 02:00:00Z", "row 4: time '2024-01-01 02:00:00Z' is no time"),
        (3, 4, "x" * 500, "row 3: close is 'xxx"),
    ],
)
def test_a_bad_cell_is_named(
    tmp_path: Path, line: int, column: int, cell: str, expected: str
) -> None:
    path = write_csv(tmp_path / "bad.csv", csv_with(line, column, cell))
    message = complaint(path)
    assert message.startswith(f"{path}, {expected}"), message
    assert len(message) < 400


def test_the_row_is_what_an_editor_shows(tmp_path: Path) -> None:
    text = "\n" + csv_with(4, 4, "oops").replace("\n", "\n\n", 2)
    path = write_csv(tmp_path / "bad.csv", text)
    shown = text.splitlines().index(next(t for t in text.splitlines() if "oops" in t)) + 1
    with pytest.raises(DataError) as caught:
        load_bars(path)
    assert caught.value.row == shown
    assert caught.value.path == str(path)
    clone = pickle.loads(pickle.dumps(caught.value))
    assert (str(clone), clone.row) == (str(caught.value), shown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("time,close\n", "has a header but no rows"),
        ("time,close\n2024-01-01,1\n", "has one row only: at least 2"),
        ("time,cost\n2024-01-01,1\n", "no close column among 'time', 'cost'"),
        ("close,open\n1,1\n", "no time column among 'close', 'open'"),
        ("2024-01-01,1\n2024-01-02,2\n", "no close column among '2024-01-01', '1'"),
        ("time,Close,close\n2024-01-01,1,1\n", "'Close' and 'close' could each be the close"),
        ("time,date,close\n2024-01-01,2024-01-01,1\n", "could each be the time column"),
        ("time,close\n1,1\n2,2\n", "row 2: time 1 is not a time"),
        ("time,close\n01/02/2024,1\n01/03/2024,2\n", "row 2: time '01/02/2024' is not understood"),
        ("time,close\n2024-01-01,1\n2024-01-02\n", "row 3: has 1 columns where the header has 2"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    path = write_csv(tmp_path / "bad.csv", text)
    message = complaint(path)
    assert message.startswith(str(path))
    assert expected in message


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("b.csv", os.urandom(100) + b"\0" * 100, "not"),
        ("b.csv", b"\x89PNG\r\n\x1a\n" + b"\xf0" * 500, "is not UTF-8 text"),
        ("b.csv", b"time,cl\xf4ture,close\n2024-01-01,1,1\n", "row 1: is not UTF-8"),
        ("b.csv", CSV.replace("01:00:00", "01:\xe900:00").encode("latin-1"), "row 3: is not UTF-8"),
        ("b.csv", CSV.replace("1.20,", "1.2\xe9,").encode("latin-1"), "is not UTF-8 text"),
        ("b.csv", codecs.BOM_UTF16_LE + CSV.encode("utf-16-le"), "is UTF-16 text"),
        ("b.csv", CSV.encode("utf-16-le"), "is not text"),
        ("b.csv", gzip.compress(CSV.encode(), mtime=0), "is gzip-compressed: name it .csv.gz"),
        ("b.csv", b"PAR1" + b"x" * 50, "is a Parquet file: name it .parquet"),
        ("b.csv", b"PK\x03\x04" + b"x" * 50, "zip archive"),
        ("b.csv.gz", CSV.encode(), "is not a whole gzip file"),
        ("b.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-20], "is not a whole gzip file"),
        ("b.parquet", CSV.encode(), "is not a Parquet file"),
        ("b.parquet", b"PAR1" + b"x" * 50, "is a damaged Parquet file"),
        ("b.parquet", b"", "is empty"),
        ("b.xlsx", b"PK", "use one of .csv, .csv.gz, .parquet"),
        ("b", b"time,close\n", "use one of .csv, .csv.gz, .parquet"),
    ],
)
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, name: str, raw: bytes, expected: str
) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    message = complaint(path)
    assert message.startswith(str(path))
    assert expected in message


def test_any_garbage_is_one_clear_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = CSV.encode()
    table = tmp_path / "good.parquet"
    load = pd.read_csv(io.StringIO(CSV))
    load.to_parquet(table)
    feather = tmp_path / "good.feather"
    load.to_feather(feather)
    for suffix, whole in (
        (".csv", good),
        (".parquet", table.read_bytes()),
        (".feather", feather.read_bytes()),
    ):
        path = tmp_path / f"garbage{suffix}"
        for _ in range(150):
            raw = bytearray(whole)
            for at in rng.integers(0, len(raw), rng.integers(1, 6)):
                raw[at] = rng.integers(0, 256)
            path.write_bytes(raw[: rng.integers(1, len(raw) + 1)])
            try:
                load_bars(path)
            except DataError as error:
                assert str(error).startswith(str(path))
                assert "\n" not in str(error)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "gone.csv")
    assert "is a directory" in complaint(tmp_path)
    fifo = tmp_path / "fifo.csv"
    os.mkfifo(fifo)
    assert "is not a regular file" in complaint(fifo)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "secret.csv")
    path.chmod(0)
    assert "cannot be read: Permission denied" in complaint(path)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    path = write_csv(tmp_path / "secret.csv")
    monkeypatch.setattr(files, "_opened", denied)
    assert complaint(path) == f"{path}: cannot be read: Permission denied"


def test_bad_frames_and_arrays_are_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    text = frame.astype(object)
    text.loc[2, "close"] = "oops"
    assert complaint(text) == "data, row 2: close is 'oops', not a number"
    holed = frame.assign(close=[1.1, np.nan, 1.1, 1.1])
    assert "row 1: close is missing" in complaint(holed)
    holed.to_parquet(tmp_path / "h.parquet")
    assert f"{tmp_path / 'h.parquet'}, row 1: close is missing" in complaint(tmp_path / "h.parquet")
    undated = frame.assign(time=frame["time"].where([True, False, True, True]))
    assert "row 1: time is missing" in complaint(undated)
    assert "not numbers" in complaint(frame.assign(close=frame["time"]))
    assert "not numbers" in complaint(frame.assign(close=[[1], [2], [3], [4]]))
    assert "not times" in complaint(frame.assign(time=[True, False, True, False]))
    twice = pd.concat([frame, frame[["close"]]], axis=1)
    assert "could each be the close column" in complaint(twice)
    assert "no time column" in complaint(frame.drop(columns="time"))
    assert "differ in length" in complaint({"time": frame["time"], "close": [1.0]})
    assert "has 2 dimensions" in complaint({"time": frame["time"], "close": np.ones((4, 4))})
    assert "is a float, not an array" in complaint({"time": frame["time"], "close": 1.0})
    assert "cannot use a int" in complaint(7)
    assert "cannot use a SimpleNamespace" in complaint(SimpleNamespace())
    assert "has no rows" in complaint(frame.iloc[:0])
    far = np.array(["2024-01-01", "9000-01-01"], dtype="M8[s]")
    assert "row 1: time" in complaint({"time": far, "close": [1, 2]})


def test_a_year_of_minutes_loads_fast(tmp_path: Path) -> None:
    n_bars = 525_600
    stamps = np.datetime_as_string(
        np.datetime64("2023-01-01", "s") + np.arange(n_bars) * np.timedelta64(60, "s")
    )
    text = "time,open,high,low,close,volume\n" + "".join(
        f"{stamp},1.10345,1.10355,1.10335,1.1034{i % 10},1234\n" for i, stamp in enumerate(stamps)
    )
    path = write_csv(tmp_path / "year.csv", text)
    load_bars(path)  # imports
    begin = time.process_time()
    bars = load_bars(path)
    cpu_s = time.process_time() - begin  # what others do on the machine does not count
    assert len(bars) == n_bars
    assert bars.bars_per_year == n_bars
    assert cpu_s < 1.5  # 0.2 s of an ordinary core


# --- bars themselves ---------------------------------------------------------------------------


def test_the_digest_is_of_the_columns(sample: Bars, tmp_path: Path) -> None:
    again = load_bars(write_csv(tmp_path / "again.csv"))
    other = load_bars(write_csv(tmp_path / "other.csv", csv_with(5, 5, "41")))
    assert len(sample.digest()) == 64
    assert sample.digest() == again.digest() != other.digest()


def test_pickled_bars_stay_read_only(sample: Bars) -> None:
    clone = pickle.loads(pickle.dumps(sample))
    assert same(clone, sample)
    assert clone.source == sample.source
    assert not clone.close.flags.writeable


def test_bars_are_mapped_from_a_sealed_memfd(sample: Bars) -> None:
    fd = sample.to_memfd()
    try:
        assert not os.get_inheritable(fd)
        clone = Bars.from_fd(fd)
        for tamper in (
            lambda: os.pwrite(fd, b"x", 5000),
            lambda: os.ftruncate(fd, 10),
            lambda: os.ftruncate(fd, 10**6),
        ):
            with pytest.raises(PermissionError):
                tamper()
    finally:
        os.close(fd)
    assert same(clone, sample)
    assert clone.source == sample.source
    assert clone.digest() == sample.digest()
    with pytest.raises(ValueError, match="read-only"):
        clone.close[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        clone.close.flags.writeable = True


@pytest.mark.parametrize("cut", [1, 2, 1000])
def test_bars_made_slice_by_slice_are_those_that_are_handed_out(sample: Bars, cut: int) -> None:
    n = len(sample)
    columns = {name: getattr(sample, name) for name in FIELDS}
    slices = (
        {name: column[start : start + cut] for name, column in columns.items()}
        for start in range(0, n, cut)
    )
    made = Bars.from_slices(slices, n, source=sample.source)
    assert same(made, sample)
    assert made.source == sample.source
    assert same(Bars.from_fd(made.memfd), sample)
    with pytest.raises(PermissionError):
        os.pwrite(made.memfd, b"x", 5000)
    assert not os.get_inheritable(made.memfd)


def test_slices_that_are_too_few_are_refused_and_leave_no_descriptor(sample: Bars) -> None:
    gc.collect()  # bars of other tests have descriptors too
    before = set(Path("/proc/self/fd").iterdir())
    columns = {name: getattr(sample, name)[:1] for name in FIELDS}
    with pytest.raises(ProtocolError, match="cut short"):
        Bars.from_slices([columns], len(sample), source="too few")
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_long_source_is_cut_not_fatal(sample: Bars) -> None:
    named = Bars(**{name: getattr(sample, name) for name in FIELDS}, source="é" * 5000)
    fd = named.to_memfd()
    assert same(Bars.from_fd(fd), sample)
    os.close(fd)


@pytest.mark.parametrize("damage", ["empty", "foreign", "version", "short"])
def test_a_descriptor_without_bars_is_refused(sample: Bars, tmp_path: Path, damage: str) -> None:
    fd = sample.to_memfd()
    raw = bytearray(os.pread(fd, 10**6, 0))
    os.close(fd)
    if damage == "empty":
        raw.clear()
    elif damage == "foreign":
        raw[0] ^= 1
    elif damage == "version":
        raw[8] = 9
    else:
        del raw[-1]
    path = tmp_path / "bars"
    path.write_bytes(raw)
    with path.open("rb") as file, pytest.raises(ProtocolError, match="bars"):
        Bars.from_fd(file.fileno())


def test_bars_of_unequal_columns_are_refused(sample: Bars) -> None:
    columns = {name: getattr(sample, name) for name in FIELDS}
    with pytest.raises(DataError, match="volume has shape"):
        Bars(**{**columns, "volume": np.ones(3)})
