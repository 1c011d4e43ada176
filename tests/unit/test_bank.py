from __future__ import annotations

import gc
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from supervisor.rows.grid import Grid
from tests.support.chunks import FakeBars, backtest_all
from workers.indicators import disk
from workers.indicators.bank import Bank, _in_random_order
from workers.indicators.disk import DiskCache, default_directory, digest_of
from workers.indicators.prices import _summable
from workers.indicators.region import shared_then_private
from workers.kernels.blocks import TILE, TILE_BARS
from workers.kernels.entries import publish
from workers.kernels.prefix_tables import make_prefix_tables
from workers.strategies import bollinger_reversion, rsi_reversion, sma_cross
from workers.strategies.market import Market

LINE = np.zeros(8, np.int64)
LENGTH = 1000
Row = NDArray[np.float64]


class Squares:
    """Fills row `slot` with slot², and counts how often it had to."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, line: NDArray[np.int64], slot: int, row: Row) -> bool:
        if line[0] != 0:
            return False
        self.calls.append(slot)
        row[:] = slot * slot
        return True


def bank(fill: object, slots: int = 10, shared: int = 10, **options: object) -> Bank:
    budget = shared * LENGTH * 8
    return Bank(slots, LENGTH, np.float64, fill, budget=budget, **options)  # type: ignore[arg-type]


def row_of(of: Bank, slot: int) -> Row:
    row = of.row(LINE, slot)
    assert row is not None
    return row


def in_child(work: object) -> int:
    """Run in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child must not return into pytest
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def test_a_row_is_computed_once() -> None:
    fill = Squares()
    shared = bank(fill)
    assert np.all(row_of(shared, 3) == 9)
    assert np.all(row_of(shared, 3) == 9)
    assert fill.calls == [3]


def test_what_one_process_computes_the_others_find() -> None:
    fill = Squares()
    shared = bank(fill)
    assert in_child(lambda: shared.row(LINE, 4)) == 0
    assert np.all(row_of(shared, 4) == 16)
    assert fill.calls == []  # the child's list is the child's


def test_who_needs_the_same_rows_at_once_shares_the_work() -> None:
    """Another worker is at it all the time: whenever this one computes a row, it has one more."""
    n = 400
    others: list[int] = []

    def compute(line: NDArray[np.int64], slot: int, row: Row) -> bool:
        mine.append(slot)
        theirs = next(other for other in order if not shared._written[other])
        if theirs != slot:  # else both are at the same one
            others.append(theirs)
            shared._rows[theirs * LENGTH : (theirs + 1) * LENGTH] = theirs
            publish(shared._written, theirs)
        row[:] = slot
        return True

    mine: list[int] = []
    shared = bank(compute, slots=n, shared=n)
    order = list(_in_random_order(list(range(n)), family=1))
    found = shared.rows(LINE, np.arange(n))
    assert found is not None
    flat, at = found
    assert [flat[a] for a in at] == list(range(n))
    assert len(set(mine)) == len(mine), "none is computed anew"
    assert set(mine) | set(others) == set(range(n))
    assert len(mine) + len(others) < 1.2 * n
    assert len(others) > n / 4, "where both begin at the first, they stay together"


@pytest.mark.parametrize("family", [1, 10, 400])
def test_an_order_of_ones_own_has_everything_once_and_families_together(family: int) -> None:
    slots = list(range(7, 3_000, 3))
    one, other = (list(_in_random_order(slots, family)) for _ in range(2))
    assert one != other
    assert sorted(one) == sorted(other) == slots
    whose = [slot // family for slot in one]
    assert sum(a != b for a, b in pairwise(whose)) == len(set(whose)) - 1


@pytest.mark.parametrize(
    ("module", "levels"),
    [(bollinger_reversion, ["width"]), (rsi_reversion, ["lower", "upper"])],
)
def test_curves_that_cannot_all_be_kept_are_computed_once_each(
    module: ModuleType, levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals in any order at all would need a curve again and again."""
    monkeypatch.setattr("workers.indicators.bank._PRIVATE_BUDGET", 0)
    bars = FakeBars.walk(1_000)
    kept_curves, n_windows, n_levels = 8, 20, 25
    market = Market(bars, make_prefix_tables(bars.close, 0.0, 1.0), kept_curves * 8 * TILE_BARS)
    axes = {"window": np.arange(5, 5 + n_windows)}
    strategy = module.Strategy(market, axes | {name: np.arange(1.0, 26.0) for name in levels})
    (curves,) = (bank for bank in vars(strategy).values() if is_bank_of_curves(bank))
    computed, fill = [], curves._fill

    def counted(line: NDArray[np.int64], slot: int, row: Row) -> bool:
        computed.append(slot)
        return bool(fill(line, slot, row))

    curves._fill = counted
    assert curves.shared == kept_curves
    assert strategy._enter.rows(LINE, np.arange(n_windows * n_levels)) is not None
    assert sorted(computed) == list(range(n_windows))


def is_bank_of_curves(thing: object) -> bool:
    return isinstance(thing, Bank) and thing.length == TILE_BARS


def test_killed_half_way_leaves_a_row_that_does_not_count_as_written() -> None:
    def die_half_way(line: NDArray[np.int64], slot: int, row: Row) -> bool:
        row[: LENGTH // 2] = -1
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    fill = Squares()
    shared = bank(die_half_way)
    assert os.WTERMSIG(in_child(lambda: shared.row(LINE, 5))) == signal.SIGKILL
    shared._fill = fill
    assert np.all(row_of(shared, 5) == 25)
    assert fill.calls == [5]


def test_killed_between_data_and_word_only_means_computing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill = Squares()
    shared = bank(fill)

    def die(written: object, slot: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("workers.indicators.bank.publish", die)
        assert os.WTERMSIG(in_child(lambda: shared.row(LINE, 6))) == signal.SIGKILL
    assert np.all(row_of(shared, 6) == 36)
    assert fill.calls == [6]


def test_rows_for_a_batch_point_into_the_bank() -> None:
    slots = np.array([7, 2, 7, 2, 9])
    found = bank(Squares()).rows(LINE, slots)
    assert found is not None
    flat, at = found
    assert [flat[a + LENGTH - 1] for a in at] == (slots**2).tolist()


def test_where_all_is_shared_a_batch_may_be_of_any_size() -> None:
    assert bank(Squares()).most > 10**9


@pytest.mark.parametrize("shared", [0, 3])
def test_beyond_the_budget_rows_are_private_and_the_same(shared: int) -> None:
    fill = Squares()
    small = bank(fill, shared=shared)
    assert small.shared == shared
    slots = np.array([1, 8, 8, 5, 1])
    for _ in range(2):
        found = small.rows(LINE, slots)
        assert found is not None
        flat, at = found
        assert [flat[a] for a in at] == (slots**2).tolist()
    assert sorted(set(fill.calls)) == [1, 5, 8]


@pytest.mark.parametrize("too_many", range(5))
def test_where_all_that_is_not_shared_fits_any_number_can_be_asked_for(
    too_many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.indicators.bank._PRIVATE_BUDGET", 0)
    small = bank(Squares(), slots=9 + too_many, shared=9)
    assert small.most == sys.maxsize
    every = np.arange(9 + too_many)
    found = small.rows(LINE, every)
    assert found is not None
    flat, at = found
    assert [flat[a] for a in at] == (every**2).tolist()


@pytest.mark.parametrize("too_many", [1, 2, 3, 5, 9, 11, 15, 20])
def test_a_grid_with_a_few_windows_more_than_the_bank_holds_is_computed(too_many: int) -> None:
    grid = Grid.of({"fast": range(1, 11), "slow": range(11, 21)})
    bars = FakeBars.walk(300)
    row_bytes = 2 * 64 * 8
    small = backtest_all(bars, grid, "sma_cross", bank_bytes=(20 - too_many) * row_bytes)
    assert small.tobytes() == backtest_all(bars, grid, "sma_cross").tobytes()


@pytest.mark.parametrize("names", [("fast", "slow"), ("slow", "fast")])
@pytest.mark.parametrize("places", [0, 8])
def test_windows_without_a_place_are_not_computed_for_every_combination(
    names: tuple[str, str], places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.indicators.bank._PRIVATE_BUDGET", 0)
    bars = FakeBars.walk(1_000)
    market = Market(bars, make_prefix_tables(bars.close, 0.0, 1.0), budget=places * 2 * TILE * 8)
    windows = {"fast": np.arange(2, 22), "slow": np.arange(30, 50)}
    strategy = sma_cross.Strategy(market, {name: windows[name] for name in names})
    first, last = names
    computed, fill = [], strategy._extremes._fill

    def counted(line: NDArray[np.int64], slot: int, row: Row) -> bool:
        computed.append(slot)
        return bool(fill(line, slot, row))

    strategy._extremes._fill = counted
    for window in range(20):
        digits = {first: np.full(20, window), last: np.arange(20)}
        assert strategy.backtest(LINE, digits, np.empty((20, 5)))
    assert strategy._extremes.shared == places
    assert len(computed) == places + 20 + 1, "each once, and the one for all that have no place"


def test_what_fits_is_computed_once_though_it_is_not_shared() -> None:
    bars = FakeBars.walk(1_000)
    market = Market(bars, make_prefix_tables(bars.close, 0.0, 1.0), budget=5 * 2 * TILE * 8)
    strategy = sma_cross.Strategy(market, {"fast": np.arange(2, 5), "slow": np.arange(10, 30)})
    digits = {"fast": np.zeros(20, np.int64), "slow": np.arange(20)}
    assert strategy.backtest(LINE, digits, np.empty((20, 5)))
    assert len(strategy._extremes._places) == 20 + 3 + 1 - 5
    assert sum(place >= 5 for place in strategy._extremes._places) == 15 + 1


def test_how_much_fits_decides_no_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two averages of long windows differ, but their products are rounded to the same."""
    monkeypatch.setattr("workers.indicators.bank._PRIVATE_BUDGET", 0)
    grid = Grid.of({"fast": [121], "slow": range(401, 411)})
    base = np.full(2_000, 3.0000000001234567)
    base[0] = 1 / 3
    _, _, step = _summable(base)
    rng = np.random.default_rng(0)
    for _ in range(8):  # it is so in the last of them
        steps = rng.integers(0, 3, len(base))
        steps[0] = 0
        bars = FakeBars.of(base + step * steps)
        with_ranges = backtest_all(bars, grid, "sma_cross")
        without = backtest_all(bars, grid, "sma_cross", bank_bytes=0)
        assert with_ranges.tobytes() == without.tobytes()


def test_own_rows_are_kept_as_long_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.indicators.bank._PRIVATE_BUDGET", 5 * LENGTH * 8)
    fill = Squares()
    small = bank(fill, slots=20, shared=2)
    assert small.most == 5
    for slots in ([10, 11, 12], [1, 13, 14], [10, 12, 11], [15, 16, 0, 10], [11, 13]):
        found = small.rows(LINE, np.array(slots))
        assert found is not None
        flat, at = found
        assert [flat[a + LENGTH - 1] for a in at] == [slot**2 for slot in slots]
    # 15 and 16 took the places of 13 and 14, the least recently requested; 13 that of 12
    assert fill.calls == [10, 11, 12, 1, 13, 14, 0, 15, 16, 13]


def test_own_rows_are_each_process_its_own() -> None:
    fill = Squares()
    small = bank(fill, shared=0)
    assert in_child(lambda: small.row(LINE, 4)) == 0
    assert np.all(row_of(small, 4) == 16)
    assert fill.calls == [4]


def test_all_rows_lie_in_one_stretch_of_memory() -> None:
    words, private_at = shared_then_private(700, 300)
    assert len(words) >= private_at + 300
    assert private_at >= 700
    assert not words.any()

    def write() -> None:
        words[699] = words[private_at] = 7

    assert in_child(write) == 0
    assert (words[699], words[private_at]) == (7, 0)


def test_the_memory_goes_with_the_last_view() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("allstop-bank")

    gc.collect()  # what earlier tests have left
    before = mapped()
    view = shared_then_private(5000, 5000)[0][10:20]
    assert mapped() == before + 1
    view[:] = 1
    del view
    gc.collect()
    assert mapped() == before


def test_a_stop_is_passed_on_and_leaves_nothing_half_done() -> None:
    fill = Squares()
    shared = bank(fill, shared=5)
    line = np.ones(8, np.int64)
    assert shared.row(line, 1) is None
    assert shared.row(line, 9) is None
    assert shared.rows(line, np.array([1, 2])) is None
    assert shared.rows(line, np.array([1, 9])) is None
    assert np.all(row_of(shared, 1) == 1)
    assert np.all(row_of(shared, 9) == 81)


def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "indicators", "digest")


def test_disk_keeps_rows_between_runs(tmp_path: Path) -> None:
    first, second = Squares(), Squares()
    row_of(bank(first, disk=cache(tmp_path)), 3)
    assert np.all(row_of(bank(second, disk=cache(tmp_path)), 3) == 9)
    assert (first.calls, second.calls) == ([3], [])


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "grow", "directory"])
def test_a_damaged_file_is_ignored_and_replaced(tmp_path: Path, damage: str) -> None:
    row_of(bank(Squares(), disk=cache(tmp_path)), 3)
    (path,) = (tmp_path / "indicators").iterdir()
    data = bytearray(path.read_bytes())
    if damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        if damage == "flip":
            data[100] ^= 1
        path.write_bytes({"cut": data[:-9], "empty": b"", "grow": data + b"x"}.get(damage, data))
    fill = Squares()
    assert np.all(row_of(bank(fill, disk=cache(tmp_path)), 3) == 9)
    assert fill.calls == [3]
    if damage != "directory":
        row_of(bank(fill, disk=cache(tmp_path)), 3)
        assert fill.calls == [3]


def test_other_bars_have_other_rows(tmp_path: Path) -> None:
    one, other = FakeBars.walk(100, seed=1), FakeBars.walk(100, seed=2)
    assert digest_of(one) == digest_of(FakeBars.walk(100, seed=1))
    assert digest_of(one) != digest_of(other)


def test_an_unwritable_directory_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "indicators").write_text("a file where the directory should be")
    assert np.all(row_of(bank(Squares(), disk=cache(tmp_path)), 3) == 9)


def test_expiry_and_clear_return_the_bytes_freed(tmp_path: Path) -> None:
    here = tmp_path / "indicators"
    assert disk.clear(here) == 0  # not there yet
    rows = bank(Squares(), disk=cache(tmp_path))
    for slot in (1, 2, 3):
        row_of(rows, slot)
    (here / "notes.txt").write_text("not ours")
    old = sorted(here.glob("*.row"))[0]
    os.utime(old, (0, 0))
    size = old.stat().st_size
    assert size == LENGTH * 8 + 4
    assert disk.cleanup_expired(here, max_age_s=3600) == size
    assert disk.cleanup_expired(here, max_age_s=3600) == 0
    assert disk.clear(here) == 2 * size
    assert [path.name for path in here.iterdir()] == ["notes.txt"]


def test_the_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "allstop" / "indicators"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "allstop" / "indicators"


def test_results_are_the_same_with_a_disk_cache_cold_and_warm(tmp_path: Path) -> None:
    bars = FakeBars.walk(3000)
    grid = Grid.of({"window": [5, 14], "lower": [30], "upper": [60, 70]})
    plain = backtest_all(bars, grid, "rsi_reversion")
    for _ in range(2):
        cached = backtest_all(bars, grid, "rsi_reversion", cache_dir=tmp_path)
        assert cached.tobytes() == plain.tobytes()
    assert len(list(tmp_path.glob("*.row"))) == 2
