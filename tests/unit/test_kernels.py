"""Every strategy against the oracle, on series made to break shortcuts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.rows.grid import Grid, Value
from supervisor.rows.space import Space
from tests.support.chunks import FakeBars, FakeChunk, backtest_all
from workers import reference
from workers.catalog import STRATEGIES
from workers.indicators.prices import running_sums, whole_prices
from workers.kernels.blocks import TILE_BARS
from workers.numba_backtest import NumbaBacktest

GRIDS: dict[str, Grid] = {
    name: Grid.of(axes)
    for name, axes in {
        "sma_cross": {"fast": [1, 2, 5, 20, 64], "slow": [2, 3, 20, 63, 65, 300]},
        "bollinger_reversion": {"window": [2, 5, 20, 64, 300], "width": [0, 0.5, 1.0, 2.0, 2.1]},
        "rsi_reversion": {"window": [1, 2, 14, 64, 300], "lower": [10, 45.5], "upper": [40, 70]},
        "donchian_breakout": {"entry": [1, 2, 20, 64, 300], "exit": [1, 3, 63, 130]},
    }.items()
}
NAMES = list(GRIDS)


def assert_agrees(bars: FakeBars, name: str, fee: float = 0.0005, every: int = 1) -> None:
    grid = GRIDS[name]
    rows = backtest_all(bars, grid, name, fee=fee)
    accepted = STRATEGIES[name].space(grid).accepted(0, grid.size)
    assert len(accepted) == np.count_nonzero(~np.isnan(rows[:, 0]))
    for index in accepted[::every].tolist():
        params = grid.params(index)
        expected = reference.backtest(name, bars, params, fee)
        assert_row(dict(zip(STRATEGIES[name].columns, rows[index], strict=True)), expected, params)


def assert_row(row: dict[str, float], expected: dict[str, float], params: dict[str, Value]) -> None:
    assert list(row) == list(expected)
    assert row["trades"] == expected["trades"], params
    for column, value in expected.items():
        same = math.isnan(value) and math.isnan(row[column])
        assert same or row[column] == pytest.approx(value, rel=1e-9, abs=1e-14), (column, params)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 127, 128, 129, 130, 700])
def test_agrees_at_every_length(name: str, n: int) -> None:
    assert_agrees(FakeBars.walk(n, seed=n), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [TILE_BARS - 1, TILE_BARS, TILE_BARS + 1, 2 * TILE_BARS + 65])
def test_agrees_across_tiles(name: str, n: int) -> None:
    assert_agrees(FakeBars.walk(n, seed=n), name, every=7)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_where_ties_abound(name: str) -> None:
    assert_agrees(FakeBars.walk(1500, seed=3, decimals=2, spread=0.01), name, every=2)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_without_a_fee(name: str) -> None:
    assert_agrees(FakeBars.walk(700, seed=4), name, fee=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_a_ruinous_fee(name: str) -> None:
    assert_agrees(FakeBars.walk(700, seed=5), name, fee=0.2)


SHAPES = {
    "constant": np.full(400, 1.25),
    "rising": (1000 + np.arange(400)) / 1000,
    "falling": (2000 - np.arange(400)) / 1000,
    "sawtooth": (100 + np.arange(900) % 7) / 100,
    "steps": (10 + np.arange(900) // 100 % 2) / 10,
    "flat, then moving": np.r_[np.full(300, 1.1), np.round(1.1 + np.sin(np.arange(300)) / 9, 4)],
    "crash and recovery": np.r_[np.linspace(2, 3, 200), np.linspace(1, 4, 300)].round(2),
    "one spike": np.r_[np.ones(200), 5.0, np.ones(200)],
    "tiny": np.array([1e-8, 2e-8, 1e-8, 3e-8] * 50),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_on_adversarial_series(name: str, shape: str) -> None:
    assert_agrees(FakeBars.of(SHAPES[shape]), name)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(data=st.data())
def test_agrees_on_whatever_hypothesis_thinks_of(name: str, data: st.DataObject) -> None:
    ticks = data.draw(st.lists(st.integers(10, 40), min_size=1, max_size=200))
    fee = data.draw(st.sampled_from([0.0, 0.0005, 0.01]))
    assert_agrees(FakeBars.of(np.array(ticks) / 10), name, fee=fee)


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_the_cut(name: str) -> None:
    bars, grid = FakeBars.walk(5000, seed=6), GRIDS[name]
    whole = backtest_all(bars, grid, name)
    assert backtest_all(bars, grid, name, cuts=(1, 7, 8, 15)).tobytes() == whole.tobytes()
    every = tuple(range(1, grid.size))
    assert backtest_all(bars, grid, name, cuts=every).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_the_bank(name: str) -> None:
    bars, grid = FakeBars.walk(5000, seed=6), GRIDS[name]
    whole = backtest_all(bars, grid, name)
    for bank_bytes in (0, 40_000):
        assert backtest_all(bars, grid, name, bank_bytes=bank_bytes).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_the_order_of_axes(name: str) -> None:
    bars, grid = FakeBars.walk(1000, seed=8), GRIDS[name]
    turned = Grid(grid.names[::-1], grid.axes[::-1])
    rows, others = backtest_all(bars, grid, name), backtest_all(bars, turned, name)
    order = [turned.index(grid.params(i)) for i in range(grid.size)]
    assert rows.tobytes() == others[order].tobytes()


def test_a_position_that_is_never_closed_is_marked_without_a_fee() -> None:
    bars = FakeBars.of([1.0, 1.0, 2.0, 3.0, 4.0])
    rows = backtest_all(bars, Grid.of({"fast": 1, "slow": 2}), "sma_cross", fee=0.1)
    assert rows[0, 0] == pytest.approx(4.0 / 2.0 / 1.1 - 1.0, rel=1e-15)
    assert rows[0, 3:].tolist() == [1.0, 0.6]


def test_a_window_longer_than_the_data_never_trades() -> None:
    bars = FakeBars.walk(50)
    for name, axes in {
        "sma_cross": {"fast": 3, "slow": 10**9},
        "bollinger_reversion": {"window": 10**9, "width": 1.0},
        "rsi_reversion": {"window": 10**9, "lower": 30, "upper": 70},
        "donchian_breakout": {"entry": 10**9, "exit": 10**9},
    }.items():
        row = backtest_all(bars, Grid.of(axes), name)[0]
        assert row[[0, 2, 3, 4]].tolist() == [0.0, 0.0, 0.0, 0.0], name
        assert math.isnan(row[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_before_the_first_batch_keeps_nothing(name: str) -> None:
    backend = NumbaBacktest(FakeBars.walk(5000), STRATEGIES[name].space(GRIDS[name]), name)
    backend.prepare()
    chunk = FakeChunk(3, GRIDS[name].size)
    chunk.flag[0] = 1
    assert backend.evaluate(chunk) == 3
    assert chunk.kept == []
    assert chunk.progress[0] == 0
    # and the same backend goes on afterwards as if nothing had been
    chunk.flag[0] = 0
    assert backend.evaluate(chunk) == chunk.stop
    whole = backtest_all(FakeBars.walk(5000), GRIDS[name], name)
    assert chunk.rows.tobytes() == whole[np.concatenate(chunk.indices)].tobytes()
    assert set(np.flatnonzero(~np.isnan(whole[:, 0]))) - {0, 1, 2} == set(chunk.indices[0])


def test_a_stop_is_seen_where_nothing_is_accepted() -> None:
    # of the first 9,900 combinations none is accepted: no kernel runs, let alone polls
    grid = Grid.of({"fast": range(200, 0, -1), "slow": range(2, 102)})
    backend = NumbaBacktest(FakeBars.walk(100), STRATEGIES["sma_cross"].space(grid), "sma_cross")
    backend.prepare()
    chunk = FakeChunk(0, grid.size)
    chunk.flag[0] = 1
    assert backend.evaluate(chunk) == 0
    assert chunk.kept == []


def test_a_stop_between_batches_keeps_what_is_finished() -> None:
    class StopsItself(FakeChunk):
        """Requests a stop as soon as some progress was reported."""

    grid = Grid.of({"fast": range(1, 101), "slow": range(101, 201)})
    bars = FakeBars.walk(300)
    backend = NumbaBacktest(bars, Space(grid), "sma_cross")
    backend.prepare()
    chunk = StopsItself(10, grid.size)
    # Progress and flag share their memory: the first batch that is finished is a request.
    chunk.progress = chunk.flag[:1]
    until = backend.evaluate(chunk)
    assert 10 < until < grid.size
    (start, columns, rows) = chunk.kept[0]
    assert len(chunk.kept) == 1
    assert (start, len(rows)) == (10, until - 10)
    assert columns == STRATEGIES["sma_cross"].columns
    assert rows.tobytes() == backtest_all(bars, grid, "sma_cross")[10:until].tobytes()


@pytest.mark.parametrize("until", [100_000, 160_000])
def test_rows_of_a_long_chunk_are_kept_as_it_goes_along(until: int) -> None:
    """A stop has no more to keep than came since."""

    class StopsThere(np.ndarray):
        """Progress that requests a stop once it is so far."""

        def __setitem__(self, key: object, value: int) -> None:
            super().__setitem__(key, value)
            chunk.flag[0] = value >= until

    grid = Grid.of({"fast": range(1, 401), "slow": range(401, 801)})
    bars = FakeBars.walk(900)
    backend = NumbaBacktest(bars, Space(grid), "sma_cross")
    backend.prepare()
    chunk = FakeChunk(0, grid.size, progress=np.zeros(1, np.int64).view(StopsThere))
    reached = backend.evaluate(chunk)
    assert until <= reached < until + backend.batch
    pieces = [(start, len(rows)) for start, _, rows in chunk.kept]
    assert [start for start, _ in pieces] == [0, *np.cumsum([n for _, n in pieces])[:-1]]
    assert max(n for _, n in pieces) <= 10 * backend.batch
    assert chunk.rows.tobytes() == backtest_all(bars, grid, "sma_cross")[:reached].tobytes()


@pytest.mark.parametrize("n_windows", [20, 50, 64, 90, 130])
def test_a_chunk_is_cut_into_even_batches(n_windows: int) -> None:
    class Steps(np.ndarray):
        """Progress that notes how far each batch takes it."""

        def __setitem__(self, key: object, value: int) -> None:
            steps.append(int(value) - int(self[0]))
            super().__setitem__(key, value)

    steps: list[int] = []
    grid = Grid.of({"fast": range(1, 101), "slow": range(101, 101 + n_windows)})
    backend = NumbaBacktest(FakeBars.walk(100), Space(grid), "sma_cross")
    backend.prepare()
    chunk = FakeChunk(0, grid.size, progress=np.zeros(1, np.int64).view(Steps))
    assert backend.evaluate(chunk) == grid.size == sum(steps)
    assert max(steps) - min(steps) <= 1
    assert len(steps) == max(1, round(grid.size / 4096))


def test_prices_become_whole_numbers_only_if_nothing_is_lost() -> None:
    assert whole_prices(np.array([1.1, 1.10012])).tolist() == [110000.0, 110012.0]
    assert whole_prices(np.array([3.0, 5.0])).tolist() == [3.0, 5.0]
    irrational = np.array([math.pi, math.e])
    assert whole_prices(irrational).tolist() == irrational.tolist()


@pytest.mark.parametrize("decimals", [2, 17])
def test_sums_do_not_depend_on_how_they_are_cut(
    decimals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (1, 63, 64, 65, 2 * 64 + 5):
        close = np.round(100.0 + np.random.default_rng(3).random(n), decimals)
        at_once = running_sums(close, 3, n + 8)
        with monkeypatch.context() as patch:
            patch.setattr("workers.indicators.prices._PART_BARS", 64)
            assert np.array_equal(running_sums(close, 3, n + 8), at_once)


@pytest.mark.parametrize("price", [1 / 3, 0.1, 7.0])
def test_a_price_that_never_moves_has_sums(price: float) -> None:
    assert running_sums(np.full(5, price), 2, 10).tolist() == [0.0] * 10


@pytest.mark.parametrize("irregular", [False, True])
def test_equal_prices_have_equal_averages_whatever_came_before(irregular: bool) -> None:
    rng = np.random.default_rng(9)
    noise = rng.random(1000) * 1e5 if irregular else np.round(rng.random(1000), 5)
    close = np.r_[noise, np.full(600, 1 / 3 if irregular else 0.1)]
    sums = running_sums(close, 0, len(close) + 1)
    last = len(close)
    for fast, slow in [(7, 300), (13, 599), (64, 65)]:
        left = (sums[last] - sums[last - fast]) * slow
        assert left == (sums[last] - sums[last - slow]) * fast
