from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from supervisor.market import cache, ohlcv
from supervisor.market.asked import Asked
from supervisor.market.bars import Bars, load_bars
from tests.support.data import write_csv

ANCIENT = 1_000_000_000.0


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache.directory()


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = write_csv(tmp_path / "bars.csv")
    os.utime(path, (ANCIENT, ANCIENT))
    return path


def kept(path: Path) -> Bars:
    """Load a file's bars and keep them."""
    bars = cache.load(path)
    cache.keep(bars)
    return bars


def never_read(*_: object) -> None:
    raise AssertionError("the file was read")


def test_kept_bars_are_not_read_again(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(csv)
    monkeypatch.setattr(ohlcv, "read_market", never_read)
    monkeypatch.chdir(csv.parent)
    again = cache.load("bars.csv")
    assert again.digest() == first.digest()
    assert again.source == "bars.csv"
    assert Bars.from_fd(again.memfd).digest() == first.digest()
    with pytest.raises(ValueError, match="read-only"):
        again.close[0] = 1.0


def test_bars_are_kept_apart_for_each_way_of_reading(tmp_path: Path) -> None:
    text = "time,ticker,close,settle\n" + "".join(
        f"2024-01-1{day},{name},{price}{day},{price}\n"
        for day in (6, 7) for name, price in (("A", 1), ("B", 2))
    )  # fmt: skip
    path = write_csv(tmp_path / "several.csv", text)
    os.utime(path, (ANCIENT, ANCIENT))
    ways = {
        Asked(symbol="A"): [16, 17], Asked(symbol="B"): [26, 27],
        Asked("close=settle", "A"): [1, 1],
    }  # fmt: skip
    for _ in range(2):
        for asked, right in ways.items():
            bars = cache.load(path, asked)
            assert bars.close.tolist() == right
            assert bars.notes[0].startswith("columns: time from time")
            cache.keep(bars)
    assert len(list(cache.directory().iterdir())) == len(ways)


def test_a_file_that_was_touched_in_any_way_is_read_anew(csv: Path) -> None:
    first = kept(csv)
    text = csv.read_text()
    csv.write_text(text.replace("1.15,10", "1.16,10"))
    os.utime(csv, (ANCIENT, ANCIENT))  # same size and same time: only the change time tells
    assert len(csv.read_text()) == len(text)
    assert cache.load(csv).digest() == load_bars(csv).digest() != first.digest()


def test_a_file_put_in_the_place_of_another_is_read_anew(csv: Path, tmp_path: Path) -> None:
    kept(csv)
    other = tmp_path / "other.csv"
    other.write_text(csv.read_text().replace("1.15,10", "1.17,10"))
    os.utime(other, (ANCIENT, ANCIENT))
    other.replace(csv)
    assert cache.load(csv).digest() == load_bars(csv).digest()


def test_a_file_written_just_now_is_not_kept(csv: Path, private_cache: Path) -> None:
    os.utime(csv)
    kept(csv)
    assert not private_cache.exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept(csv: Path, private_cache: Path) -> None:
    bars = cache.load(csv)
    csv.write_text(csv.read_text() + "\n")
    os.utime(csv, (ANCIENT, ANCIENT))
    cache.keep(bars)
    assert not private_cache.exists()


def test_bars_from_memory_are_not_kept(csv: Path, private_cache: Path) -> None:
    cache.keep(cache.load(load_bars(csv)))
    assert not private_cache.exists()


@pytest.mark.parametrize("damage", [b"", b"fs-bars\0", b"something else"])
def test_a_damaged_copy_is_no_copy(csv: Path, private_cache: Path, damage: bytes) -> None:
    first = kept(csv)
    (copy,) = private_cache.iterdir()
    copy.write_bytes(damage)
    assert cache.load(csv).digest() == first.digest()


def test_a_cache_that_cannot_be_written_is_done_without(
    csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert kept(csv).digest() == load_bars(csv).digest()


def test_what_is_old_or_too_much_goes_first(csv: Path, private_cache: Path) -> None:
    kept(csv)
    (copy,) = private_cache.iterdir()
    size = copy.stat().st_size
    twin = copy.with_name(f"another{copy.suffix}")
    twin.write_bytes(copy.read_bytes())
    now = time.time()
    os.utime(twin, (now - 60, now - 60))
    stranger = private_cache / "readme"
    stranger.touch()
    assert cache.cleanup(private_cache, max_bytes=size) == size
    assert {path.name for path in private_cache.iterdir()} == {copy.name, "readme"}
    assert cache.cleanup(private_cache, max_age_s=-1.0) == size
    assert cache.clear() == 0
    assert stranger.exists()
