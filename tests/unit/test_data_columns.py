"""Which columns are taken, what is said about it, and what is refused in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supervisor.errors import ConfigError, DataError
from supervisor.market import files, tables
from supervisor.market.bars import Bars, load_bars
from tests.support.data import write_csv
from tests.support.formats import two_tickers, zstd


def load(tmp_path: Path, text: str, **asked: Any) -> Bars:
    return load_bars(write_csv(tmp_path / "data.csv", text), **asked)


def refused(source: Any, **asked: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_bars(source, **asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- which column ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "cells", "taken"),
    [
        ("<VOL>,<TICKVOL>", "0,7", "<TICKVOL>"),
        ("<TICKVOL>,<VOL>", "7,5", "<VOL>"),
        ("Volume,Tick Volume", ",7", "Tick Volume"),
        ("Volume BTC,Volume USD", "7,9", "Volume BTC"),
        ("Volume BTC,Volume USD", "0,9", "Volume USD"),
        ("Volume (BTC),Volume (USDT)", "7,9", None),
        ("quote_volume,volume", "9,7", "volume"),
        ("Vol.,Change", "7,1", "Vol."),
    ],
)
def test_the_volume_that_has_values(
    tmp_path: Path, names: str, cells: str, taken: str | None
) -> None:
    text = f"time,close,{names}\n2024-01-16,1,{cells}\n2024-01-17,2,{cells}\n"
    if taken is None:
        assert "could each be the volume column" in refused(write_csv(tmp_path / "v.csv", text))
        return
    bars = load(tmp_path, text)
    right = float(cells.split(",")[names.split(",").index(taken)])
    assert bars.volume.tolist() == [right, right]
    assert f"volume from {taken}" in bars.notes[0]


@pytest.mark.parametrize(
    ("header", "close"),
    [
        ("Date,Last", "Last"), ("Date,Price", "Price"), ("Date,Close/Last", "Close/Last"),
        ("ts_event,Close", "Close"), ("window_start,close", "close"), ("trade_date,c", "c"),
        ("timestamp_utc,Adj Close", "Adj Close"), ("Date,Settle", "Settle"),
        ("Timestamp (UTC),Close ($)", "Close ($)"), ("kline,Date,Close", "Close"),
    ],
)  # fmt: skip
def test_names(tmp_path: Path, header: str, close: str) -> None:
    lead = "x," * (header.count(",") - 1)
    bars = load(tmp_path, f"{header}\n{lead}2024-01-16,1\n{lead}2024-01-17,2\n")
    assert bars.close.tolist() == [1, 2]
    assert f"close from {close}" in bars.notes[0]


def test_a_column_without_any_value_is_left_out(tmp_path: Path) -> None:
    text = "time,open,high,low,close,volume\n2024-01-16,,,,1,-\n2024-01-17,,,,2,-\n"
    bars = load(tmp_path, text)
    assert bars.high.tolist() == bars.close.tolist() == [1, 2]
    assert bars.volume.tolist() == [0, 0]
    assert "volume has no values and was left out" in bars.notes


def test_closes_that_highs_and_lows_do_not_hold_are_refused(tmp_path: Path) -> None:
    rows = "2024-01-16,100,101,99,100\n2024-01-17,100,101,99,102\n2024-01-18,100,101,99,98\n"
    path = write_csv(tmp_path / "h.csv", f"time,open,high,low,close\n{rows}")
    assert refused(path) == (
        f"{path}, row 3: high 101 is below the close 102 in this row: correct the data, or take "
        "another column with --columns high=NAME"
    )
    low = write_csv(tmp_path / "l.csv", f"time,open,high,low,close\n{rows}".replace("102", "101"))
    assert "row 4: low 99 is above the close 98 in this row" in refused(low)
    adjusted = f"Date,Open,High,Low,Adj Close\n{rows}".replace(",100\n", ",50\n")
    message = refused(write_csv(tmp_path / "a.csv", adjusted))
    assert "in 1 of 3" not in message
    assert "row 3" in message
    assert "Adj Close is adjusted and high is not" in message
    assert load(tmp_path, adjusted, columns="high=Adj Close,low=Adj Close").high.tolist() == [
        50, 102, 98,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("high", "close", "good"),
    [
        ("101.12", "101.1234", True), ("101.12", "101.1251", False), ("101", "101.4", True),
        ("101.0000000", "101.00000001", True), ("1.10345", "1.10346", False),
        (str(float(np.float32(101.123))), "101.123", True),
    ],
)  # fmt: skip
def test_rounding_is_no_fault(tmp_path: Path, high: str, close: str, good: bool) -> None:
    text = f"time,high,low,close\n2024-01-16,{high},0.5,{close}\n2024-01-17,{high},0.5,1\n"
    if good:
        load(tmp_path, text)
    else:
        assert "is below the close" in refused(write_csv(tmp_path / "r.csv", text))


def test_an_adjusted_close_that_is_chosen_scales_the_others(tmp_path: Path) -> None:
    text = "Date,Open,High,Low,Close,Adj Close\n2024-01-16,99,102,98,100,50\n2024-01-17,4,8,2,4,3\n"
    raw = load(tmp_path, text)
    assert raw.close.tolist() == [100, 4]
    assert "not from Adj Close" in raw.notes[0]
    bars = load(tmp_path, text, columns={"close": "adj close"})
    assert bars.close.tolist() == [50, 3]
    assert bars.open.tolist() == [49.5, 3]
    assert bars.high.tolist() == [51, 6]
    assert "open, high, low scaled by Adj Close / Close" in bars.notes


# --- what the user says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("time,close,volume", "names 3 columns where there are 2"),
        ("close=Settle", "there is no such column, only '2024-01-16', '1'"),
        ("time=2,close=3", "there is no such column"),
    ],
)
def test_columns_that_the_file_has_not(tmp_path: Path, columns: str, words: str) -> None:
    path = write_csv(tmp_path / "b.csv", "2024-01-16,1\n2024-01-17,2\n")
    assert words in refused(path, columns=columns)
    assert load_bars(path, columns="time=1,close=2").close.tolist() == [1, 2]
    assert load_bars(path, columns=["time", "close"]).close.tolist() == [1, 2]


@pytest.mark.parametrize(
    "columns",
    ["time,open", "close", "klose=Close", "close=", "time,close,close", "close=a,close=b", 7,
     {"shut": "Close"}, "close=a,b"],
)  # fmt: skip
def test_columns_that_say_nothing(columns: Any) -> None:
    with pytest.raises(ConfigError, match="columns"):
        load_bars({"time": [20240116, 20240117], "close": [1, 2]}, columns=columns)


def test_a_file_without_header_says_how_to_name_its_columns(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "b.csv", "2024-01-16,1,2,3,4\n2024-01-17,1,2,3,4\n")
    assert "name its 5 columns in their order, as in --columns time,open,high" in refused(path)


@pytest.mark.parametrize(
    ("row", "words"),
    [("1", "time,close,volume"), ("1,0", "time,close,volume,-")],
)
def test_what_is_shown_for_few_columns_can_be_used(tmp_path: Path, row: str, words: str) -> None:
    path = write_csv(tmp_path / "b.csv", f"2024-01-16,{row},5\n2024-01-17,{row},5\n")
    assert refused(path).endswith(f"as in --columns {words}")
    assert load_bars(path, columns=words).close.tolist() == [1, 1]


def test_the_column_shown_for_the_close_has_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "b.csv", "Data,Otwarcie,Kurs\n2024-01-16,1,2\n2024-01-17,1,2\n")
    assert refused(path, columns="time=Data").endswith("as in --columns close=Otwarcie")


@pytest.mark.parametrize("index", ["Date", ""])
def test_levels_of_a_header_that_pandas_wrote_as_tuples(tmp_path: Path, index: str) -> None:
    frame = two_tickers(ticker_first=False)
    frame.columns = frame.columns.to_flat_index()
    frame.index.name = index or None
    frame.to_csv(tmp_path / "b.csv")
    expected = load_bars(two_tickers(ticker_first=False), symbol="AAPL")
    bars = load_bars(tmp_path / "b.csv", symbol="AAPL")
    assert bars.close.tolist() == expected.close.tolist()
    assert bars.volume.tolist() == expected.volume.tolist()


@pytest.mark.parametrize(
    "names", ["Volume USDT,Volume ETH", "volume_usd,volume_eth", "volumeto,volumefrom"]
)
def test_the_volume_is_the_things_own_wherever_it_stands(tmp_path: Path, names: str) -> None:
    text = f"Date,Close,{names}\n2024-01-16,1,100,50\n2024-01-17,1,100,50\n"
    assert load(tmp_path, text).volume.tolist() == [50, 50]


def test_a_first_time_that_there_is_not(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "b.csv", "Date,Close\n2024-01-16 23:59:60,1\n2024-01-17 0:00,2\n")
    assert "row 2: Date '2024-01-16 23:59:60' is no time that there is" in refused(path)


LONG = "time,ticker,close\n" + "".join(
    f"2024-01-{day},{name},{day if name == 'A' else 1}\n" for day in (16, 17) for name in "AB"
)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Month,Close", "--columns time=Month"),
        ("Date,Schluss Kurs", "--columns 'close=Schluss Kurs'".replace("'close=", "close='")),
        ("Date,High", "no close column among 'Date', 'High': add one"),
        ("time,timestamp,Close", "--columns time=timestamp"),
        ("Date,Close,close", "'Close' and 'close' could each be the close column"),
    ],
)
def test_the_fix_is_in_the_words_of_the_file(tmp_path: Path, header: str, words: str) -> None:
    cells = ",".join("1" for _ in header.split(",")[1:])
    path = write_csv(tmp_path / "w.csv", f"{header}\n2024-01-16,{cells}\n2024-01-17,{cells}\n")
    assert words in refused(path)


def test_columns_of_the_same_name_are_told_apart_by_their_number() -> None:
    table = pd.DataFrame([["2024-01-16", 1.0, 2.0], ["2024-01-17", 1.0, 2.0]],
                         columns=["time", "close", "close"])  # fmt: skip
    assert "--columns close=3" in refused(table)
    assert load_bars(table, columns="close=3").close.tolist() == [2, 2]


def test_several_instruments(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "s.csv", LONG)
    assert refused(path) == f"{path}: holds 2 instruments, A, B: choose one with --symbol A"
    bars = load_bars(path, symbol="a")
    assert bars.close.tolist() == [16, 17]
    assert "instrument: A, 2 in the data" in bars.notes
    assert "--symbol 'C' is not in it: A, B" in refused(path, symbol="C")
    bad = write_csv(tmp_path / "bad.csv", LONG.replace("A,17", "A,-17"))
    assert refused(bad, symbol="A").startswith(f"{bad}, row 4: close is -17")
    table = pd.read_csv(path)
    for source in (table, pa.Table.from_pandas(table), table.to_dict("list")):
        assert load_bars(source, symbol="A").close.tolist() == [16, 17]


def test_several_instruments_side_by_side() -> None:
    both = two_tickers(ticker_first=True)
    assert "holds 2 instruments, AAPL, MSFT: choose one with --symbol AAPL" in refused(both)
    both.iloc[1, :5] = np.nan
    bars = load_bars(both, symbol="AAPL")
    assert len(bars) == 2
    assert any("1 row without prices" in note for note in bars.notes)


def test_no_instrument_where_one_is_asked_for() -> None:
    data = {"time": [20240116, 20240117], "close": [1, 2]}
    assert "leave --symbol A out" in refused(data, symbol="A")


def test_newest_first_is_reversed_and_rows_keep_their_names(tmp_path: Path) -> None:
    text = "time,high,low,close\n2024-01-18,3,3,3\n2024-01-17,2,2,2\n2024-01-16,1,1,1\n"
    bars = load(tmp_path, text)
    assert bars.close.tolist() == bars.high.tolist() == [1, 2, 3]
    assert "newest first: the rows were reversed" in bars.notes
    twice = write_csv(tmp_path / "t.csv", text.replace("-16", "-17"))
    assert refused(twice).startswith(f"{twice}, row 3: time 2024-01-17T00:00:00 occurs twice")


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (('"1,234.5"', '"2,345.5"'), (1234.5, 2345.5)), (("$1.5", "$2.5"), (1.5, 2.5)),
        (('"1,234"', '"2,345"'), (1234, 2345)), (("1.5K", "2.5M"), (1500, 2_500_000)),
        (("65.6M", "1.1B"), (65_600_000, 1_100_000_000)), (("1e3", "2e3"), (1000, 2000)),
        (("1 234,5", "2\u00a0345,5"), (1234.5, 2345.5)),
    ],
)  # fmt: skip
def test_written_numbers(tmp_path: Path, cells: tuple[str, str], right: tuple[float, ...]) -> None:
    sign = ";" if "5K" not in cells[0] and '"' not in cells[0] else ","
    rows = [f"2024-01-1{6 + at}{sign}{cell}" for at, cell in enumerate(cells)]
    text = "\n".join([f"time{sign}close", *rows])
    assert load(tmp_path, text).close.tolist() == list(right)


def test_commas_are_the_same_in_all_columns(tmp_path: Path) -> None:
    text = "Date;Close;Volume\n16.01.2024;1.105,5;12.345\n17.01.2024;999,5;1.000\n"
    bars = load(tmp_path, text)
    assert bars.close.tolist() == [1105.5, 999.5]
    assert bars.volume.tolist() == [12345, 1000]
    assert "commas read as decimal points" in bars.notes


def test_notes_travel_and_show_no_control_characters(tmp_path: Path) -> None:
    bars = load(tmp_path, "time,close,Volume \x1b[31m\n2024-01-16,1,1\n2024-01-17,2,1\n")
    assert all(note.isprintable() for note in bars.notes)
    assert Bars.from_fd(bars.memfd).notes == bars.notes
    assert Bars.from_fd(bars.memfd).source == bars.source


# --- bounded memory ----------------------------------------------------------------------------

LINE = b"2024-01-16 00:00:00,1,1,1,1,1\n"
HEAD = b"time,open,high,low,close,volume\n"


def zipped(raw: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.csv", raw)
    return made.getvalue()


PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    ".csv": bytes, ".csv.gz": gzip.compress, ".csv.bz2": bz2.compress, ".csv.xz": lzma.compress,
    ".csv.zst": zstd, ".zip": zipped,
}  # fmt: skip


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_unpacks_to_more_than_memory_allows(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(PACKERS[suffix](HEAD + LINE * 100_000))  # 3 MB
    monkeypatch.setattr(files, "byte_limit", lambda: 2 << 20)
    assert "more than 2 MiB, a sixth of the memory that is free" in refused(path)
    monkeypatch.undo()
    assert "occurs twice" in refused(path)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_tables_that_unpack_to_more_than_memory_allows(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = np.zeros(2_000_000)
    table = pa.table({"time": zeros.astype(np.int64), "close": zeros})
    path = tmp_path / f"bomb{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        table.to_pandas().to_feather(path, compression="zstd")
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(tables, "byte_limit", lambda: 10 << 20)
    assert "memory" in refused(path)


def test_a_bomb_takes_no_more_memory_than_its_limit(tmp_path: Path) -> None:
    """In a process of its own, whose address space is limited: 450 MB unpacked."""
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEAD)
        for _ in range(12):
            file.write(LINE * 1_000_000)
    code = (
        "import sys; from supervisor.errors import DataError\n"
        "from supervisor.market.bars import load_bars\n"
        "try: load_bars(sys.argv[1])\n"
        "except DataError as error: print(error)"
    )
    most = 3 << 29
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )  # fmt: skip
    assert done.stderr == ""
    assert "unpacks to more than" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".zip", ".feather"])
def test_pipes_and_devices_are_refused(tmp_path: Path, suffix: str) -> None:
    endless = tmp_path / f"zero{suffix}"
    endless.symlink_to("/dev/zero")
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    for path in (endless, pipe):
        assert refused(path) == (
            f"{path}: is not a regular file but a pipe or a device: save it as a file"
        )


@pytest.mark.parametrize(
    "suffix", [".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zst", ".zip", ".feather"]
)
@pytest.mark.parametrize("damage", ["junk", "cut"])
def test_damaged_files(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"d{suffix}"
    pack = PACKERS.get(suffix, bytes)
    path.write_bytes(b"junk" * 40 if damage == "junk" else pack(HEAD + os.urandom(5000))[:-9])
    assert "fetch it again" in refused(path)


def test_archives_of_several_files(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    assert "holds 2 data files, 'a.csv', 'b.csv': unpack it and name one of them" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.md", "x")
    assert "holds no data file, but 'readme.md'" in refused(path)


def test_lines_and_headers_without_end(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(b"a," * 2_000_000)
    assert "row 1: has a line of more than 1 MiB" in refused(path)
    path.write_bytes(b",".join(b"c%d" % at for at in range(20_000)) + b"\n")
    assert "has 20,000 columns" in refused(path)
