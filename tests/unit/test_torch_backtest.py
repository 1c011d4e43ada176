"""The PyTorch backtests against the oracle, on the CPU; nothing depends on how a grid is cut."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supervisor.errors import ConfigError, DeviceLostError, RunFailedError
from supervisor.rows.grid import Grid
from supervisor.system.install import advice
from tests.support import bands
from tests.support.chunks import FakeBars, FakeChunk
from tests.unit.test_kernels import GRIDS, NAMES, SHAPES, assert_row
from workers import reference
from workers.catalog import COLUMNS, STRATEGIES
from workers.indicators.exact import ExactPrices
from workers.kernels import entries
from workers.torch_backtest import TorchBacktest, curves, tables
from workers.torch_backtest.signals import BollingerReversion

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

FEE = 0.0005


def no_poll() -> None:
    """No stop is requested."""


def started(
    bars: FakeBars, grid: Grid, name: str, fee: float = FEE, batch: int = 0
) -> TorchBacktest:
    backend = TorchBacktest(bars, STRATEGIES[name].space(grid), name, fee=fee)
    backend.batch = batch or backend.batch
    backend.prepare()
    backend.start()
    return backend


def backtest_all(
    bars: FakeBars,
    grid: Grid,
    name: str,
    fee: float = FEE,
    cuts: tuple[int, ...] = (),
    batch: int = 0,
) -> NDArray[np.float64]:
    """Rows of a whole grid; NaN where a combination is not accepted."""
    backend = started(bars, grid, name, fee, batch)
    every = np.full((grid.size, len(COLUMNS)), np.nan)
    for start, stop in pairwise([0, *cuts, grid.size]):
        chunk = FakeChunk(start, stop)
        assert backend.evaluate(chunk) == stop
        assert (
            chunk.progress[0] == len(chunk.rows) == STRATEGIES[name].space(grid).count(start, stop)
        )
        every[np.concatenate(chunk.indices)] = chunk.rows
    return every


def assert_agrees(bars: FakeBars, name: str, fee: float = FEE, every: int = 1) -> None:
    grid = GRIDS[name]
    rows = backtest_all(bars, grid, name, fee)
    accepted = STRATEGIES[name].space(grid).accepted(0, grid.size)
    for index in accepted[::every].tolist():
        params = grid.params(index)
        row = dict(zip(COLUMNS, rows[index].tolist(), strict=True))
        expected = reference.backtest(name, bars, params, fee)
        assert_row(row, expected, params)
        assert row["exposure"] == expected["exposure"], params


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 64, 65, 129, 700])
def test_agrees_at_every_length(name: str, n: int) -> None:
    assert_agrees(FakeBars.walk(n, seed=n), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [4095, 4097, 8257])
def test_agrees_across_tiles(name: str, n: int) -> None:
    assert_agrees(FakeBars.walk(n, seed=n), name, every=7)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_where_ties_abound(name: str) -> None:
    assert_agrees(FakeBars.walk(1500, seed=3, decimals=2, spread=0.01), name, every=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fee", [0.0, 0.2])
def test_agrees_without_a_fee_and_with_a_ruinous_one(name: str, fee: float) -> None:
    assert_agrees(FakeBars.walk(700, seed=4), name, fee)


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
    assert_agrees(FakeBars.of(np.array(ticks) / 10), name, fee, every=3)


@pytest.mark.parametrize("name", NAMES)
def test_equity_that_underflows_is_lost_and_no_more(name: str) -> None:
    close = np.where(np.arange(6000) % 4 < 2, 1.0, 1.01)
    rows = backtest_all(FakeBars.of(close), GRIDS[name], name, fee=0.9)
    rows = rows[rows[:, 3] > 500]
    assert len(rows) or name in ("bollinger_reversion", "donchian_breakout")
    assert (rows[:, [0, 2]] == -1.0).all()


def test_a_fall_within_one_position_counts() -> None:
    """Not the range of its prices: the highest comes last."""
    close = [1.0, 1.0, 2.0, 1.9, 2.0, 1.5, 1.6, 3.0, 4.0, 4.1]
    bars, grid = FakeBars.of(close), Grid.of({"fast": 1, "slow": 9})
    backend = started(bars, grid, "sma_cross", fee=0.0)
    held = np.zeros((1, 10), bool)
    held[0, 1:] = True
    from workers.torch_backtest.account import account
    from workers.torch_backtest.positions import positions

    enter = torch.from_numpy(held)
    row = account(backend._engine._market, positions(enter, ~enter, no_poll), no_poll)[0]  # type: ignore[union-attr]
    assert row[2] == 1.5 / 2.0 - 1.0


def test_a_window_longer_than_the_data_never_trades() -> None:
    bars = FakeBars.walk(50)
    for name, axes in {
        "sma_cross": {"fast": [3, 10**8], "slow": [49, 50, 51, 10**9]},
        "bollinger_reversion": {"window": 10**9, "width": 1.0},
        "rsi_reversion": {"window": [50, 10**9], "lower": 30, "upper": 70},
        "donchian_breakout": {"entry": [50, 10**9], "exit": 10**9},
    }.items():
        rows = backtest_all(bars, Grid.of(axes), name)
        late = rows[2:] if name == "sma_cross" else rows
        assert (np.nan_to_num(late) == 0.0).all(), name
        assert np.isnan(late[:, 1]).all(), name
    assert_agrees(bars, "sma_cross")


# --- cuts, batches, the order of axes ----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_the_cut_or_the_batch(name: str) -> None:
    bars, grid = FakeBars.walk(5000, seed=6), GRIDS[name]
    whole = backtest_all(bars, grid, name)
    assert backtest_all(bars, grid, name, cuts=(1, 7, 8, 15)).tobytes() == whole.tobytes()
    for batch in (1, 2, 7):
        assert backtest_all(bars, grid, name, batch=batch).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_the_order_of_axes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars, grid = FakeBars.walk(1000, seed=8), GRIDS[name]
    rows = backtest_all(bars, grid, name)
    monkeypatch.setattr("workers.torch_backtest.signals._CURVES_BYTES", 2 * 8 * 1000)
    turned = Grid(grid.names[::-1], grid.axes[::-1])
    others = backtest_all(bars, turned, name, batch=3)
    order = [turned.index(grid.params(i)) for i in range(grid.size)]
    assert rows.tobytes() == others[order].tobytes()


def test_a_product_does_not_depend_on_what_follows() -> None:
    from workers.torch_backtest.account import running_products

    values = torch.from_numpy(np.random.default_rng(1).uniform(0.9, 1.1, (3, 1000)))
    whole = running_products(values, no_poll)
    assert np.allclose(whole, np.cumprod(values.numpy(), axis=1), rtol=1e-13, atol=0)
    for n in (1, 2, 3, 100, 513):
        assert torch.equal(running_products(values[:1, :n], no_poll), whole[:1, :n])


# --- what rows are made of ---------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 14, 300, 5000, 8999, 9000])
@pytest.mark.parametrize("decimals", [2, 5, 17])
def test_curves_are_those_of_the_kernels_bit_for_bit(window: int, decimals: int) -> None:
    """And so in the reference's order, for RSI."""
    close = FakeBars.walk(9000, seed=window, decimals=decimals).close.copy()
    line, row = np.zeros(8, np.int64), np.empty(3 * 4096)
    assert entries.rsi(line, close, window, row)
    assert curves.rsi(close, window, no_poll).tobytes() == row[:9000].tobytes()
    exact = ExactPrices.of(close)
    narrow = exact.is_narrow(window)
    assert entries.deviations(line, exact.in_window(window), window, int(narrow), row)
    curve = curves.Deviations(exact).curve(window, no_poll)
    if narrow:
        assert curve.tobytes() == row[:9000].tobytes()
    else:  # 128 bits become a double by more than one rounding
        np.testing.assert_allclose(curve, row[:9000], rtol=2.0**-49)


@pytest.mark.parametrize("name", bands.SERIES)
def test_bands_are_those_of_the_kernels(name: str) -> None:
    close = bands.SERIES[name]
    signals = BollingerReversion(ExactPrices.of(close), torch.device("cpu"))
    window, width = (np.array(part) for part in zip(*bands.BANDS, strict=True))
    enter, leave = signals.signals({"window": window, "width": width}, no_poll)
    for row, band in enumerate(bands.BANDS):
        wanted = bands.signals(close, *band)
        assert (enter[row].numpy() == wanted[0]).all(), band
        assert (leave[row].numpy() == wanted[1]).all(), band


@settings(max_examples=60)
@given(data=st.data())
def test_ranges_are_those_of_a_loop(data: st.DataObject) -> None:
    from workers.torch_backtest.ranges import Ranges

    n = data.draw(st.sampled_from([1, 31, 32, 33, 64, 65, 96, 200, 1000]))
    seed = data.draw(st.integers(0, 10**6))
    close = np.random.default_rng(seed).integers(1, 50, n) / 10
    pair = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    bounds = np.array([(min(p), max(p) + 1) for p in data.draw(st.lists(pair, min_size=1))])
    start, end = torch.from_numpy(bounds).T
    ranges = Ranges(tables.make_tables(close, FEE, 1.0), torch.device("cpu"))
    low, high = ranges.extremes(start, end, no_poll)
    falls = ranges.falls(start, end, no_poll)
    for i, (a, b) in enumerate(bounds):
        part = close[a:b]
        assert (low[i], high[i]) == (part.min(), part.max())
        assert falls[i] == (part / np.maximum.accumulate(part)).min()
    empty_low, empty_high = ranges.extremes(end, end, no_poll)
    assert torch.isinf(empty_low).all()
    assert (empty_high == 0).all()


# --- a stop ------------------------------------------------------------------------------------


class StopsAfter(FakeChunk):
    """Requests a stop once it was polled so often."""

    polls = 0
    most = 1 << 60

    def stop_requested(self) -> bool:
        self.polls += 1
        return self.polls > self.most


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_before_the_first_batch_keeps_nothing(name: str) -> None:
    backend = started(FakeBars.walk(5000), GRIDS[name], name)
    chunk = FakeChunk(3, GRIDS[name].size)
    chunk.flag[0] = 1
    assert backend.evaluate(chunk) == 3
    assert (chunk.kept, chunk.progress[0]) == ([], 0)
    chunk.flag[0] = 0  # and the same backend goes on as if nothing had been
    assert backend.evaluate(chunk) == chunk.stop
    whole = backtest_all(FakeBars.walk(5000), GRIDS[name], name)
    assert chunk.rows.tobytes() == whole[np.concatenate(chunk.indices)].tobytes()


def test_a_stop_is_seen_where_nothing_is_accepted() -> None:
    grid = Grid.of({"fast": range(200, 0, -1), "slow": range(2, 102)})
    backend = started(FakeBars.walk(100), grid, "sma_cross")
    chunk = FakeChunk(0, 9900)
    chunk.flag[0] = 1
    assert backend.evaluate(chunk) == 0
    assert chunk.kept == []
    chunk.flag[0] = 0
    assert backend.evaluate(chunk) == 9900
    assert (len(chunk.kept), len(chunk.rows), len(chunk.indices[0])) == (1, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_at_any_poll_keeps_what_is_finished(name: str) -> None:
    bars, grid = FakeBars.walk(300, seed=2), GRIDS[name]
    whole = backtest_all(bars, grid, name)
    backend = started(bars, grid, name, batch=8)
    for _ in range(2):  # the second time, curves are known: as often as below
        chunk = StopsAfter(0, grid.size)
        assert backend.evaluate(chunk) == grid.size
    total = chunk.polls
    assert total >= 15 * (len(chunk.rows) // 8)  # between operators, not between batches
    seen = set()
    for most in range(0, total, 5):
        chunk = StopsAfter(0, grid.size)
        chunk.most = most
        until = backend.evaluate(chunk)
        n = sum(len(rows) for _, _, rows in chunk.kept)
        assert chunk.progress[0] == n
        assert until < grid.size
        seen.add(until)
        if until:
            indices = np.concatenate(chunk.indices)
            assert n % 8 == 0
            assert indices.tolist() == STRATEGIES[name].space(grid).accepted(0, until).tolist()
            assert chunk.rows.tobytes() == whole[indices].tobytes()
    assert len(seen) == -(-len(whole[~np.isnan(whole[:, 0])]) // 8)


def test_rows_of_a_long_chunk_are_kept_as_it_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.torch_backtest.backtest._KEPT_ELEMENTS", 10 * 300)
    grid = Grid.of({"window": range(2, 12), "width": [0.5, 1.0, 1.5, 2.0, 2.5]})
    backend = started(FakeBars.walk(300), grid, "bollinger_reversion", batch=4)
    chunk = FakeChunk(0, grid.size)
    assert backend.evaluate(chunk) == grid.size
    assert [(start, len(rows)) for start, _, rows in chunk.kept] == [
        (k, 10) for k in range(0, 50, 10)
    ]


# --- memory and devices ------------------------------------------------------------------------


def failing(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], BaseException | None]
) -> list[int]:
    """Let an operator of each batch fail as `fails` says of its size; return the sizes tried."""
    from workers.torch_backtest import engine

    tried: list[int] = []
    real = engine.positions

    def positions(enter: object, leave: object, poll: object) -> object:
        tried.append(len(enter))  # type: ignore[arg-type]
        if error := fails(len(enter)):  # type: ignore[arg-type]
            raise error
        return real(enter, leave, poll)

    monkeypatch.setattr(engine, "positions", positions)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
    ],
)
def test_a_batch_without_memory_is_halved(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, grid = "rsi_reversion", GRIDS["rsi_reversion"]
    bars = FakeBars.walk(500)
    whole = backtest_all(bars, grid, name)
    tried = failing(monkeypatch, lambda n: error if n > 3 else None)
    assert backtest_all(bars, grid, name, batch=8).tobytes() == whole.tobytes()
    assert tried[:3] == [8, 4, 2]
    assert max(tried[3:]) == 2


def test_without_memory_for_one_combination_the_run_fails_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = failing(monkeypatch, lambda n: torch.OutOfMemoryError("CUDA out of memory"))
    backend = started(FakeBars.walk(500), GRIDS["rsi_reversion"], "rsi_reversion", batch=4)
    chunk = FakeChunk(0, 20)
    with pytest.raises(
        RunFailedError, match="too little free memory for one combination on 500 bars"
    ):
        backend.evaluate(chunk)
    assert tried == [4, 2, 1]
    assert chunk.kept == []


def test_a_device_that_fails_is_lost_and_what_is_finished_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nSearch for"
    )
    tried = failing(monkeypatch, lambda n: error if len(tried) > 2 else None)
    backend = started(FakeBars.walk(500), GRIDS["rsi_reversion"], "rsi_reversion", batch=4)
    chunk = FakeChunk(0, 20)
    with pytest.raises(
        DeviceLostError, match=r"GPU failed: CUDA error: an illegal .* encountered$"
    ):
        backend.evaluate(chunk)
    assert len(chunk.rows) == chunk.progress[0] == 8


def test_an_error_of_our_own_is_not_blamed_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, lambda n: RuntimeError("shape mismatch"))
    backend = started(FakeBars.walk(500), GRIDS["rsi_reversion"], "rsi_reversion")
    with pytest.raises(RuntimeError, match="shape mismatch"):
        backend.evaluate(FakeChunk(0, 20))


def on_cuda(limit_bytes: int | None = None) -> TorchBacktest:
    grid = GRIDS["sma_cross"]
    backend = TorchBacktest(
        FakeBars.walk(100),
        STRATEGIES["sma_cross"].space(grid),
        "sma_cross",
        fee=FEE,
        device="cuda",
        limit_bytes=limit_bytes,
    )
    backend.prepare()
    return backend


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
def test_a_build_without_cuda_is_named() -> None:
    with pytest.raises(ConfigError, match="was built without CUDA"):
        on_cuda().start()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DeviceLostError, match="PyTorch cannot open the GPU: "):
        on_cuda().start()


def test_a_limit_counts_the_context() -> None:
    from workers.torch_backtest.device import CONTEXT_BYTES, fraction_of

    assert fraction_of(CONTEXT_BYTES + (1 << 30), 4 << 30) == 0.25
    assert fraction_of(100 << 30, 4 << 30) == 1.0
    with pytest.raises(ConfigError, match="leaves nothing to compute with"):
        fraction_of(CONTEXT_BYTES, 4 << 30)


def test_a_worker_computes_with_one_thread() -> None:
    torch.set_num_threads(2)
    started(FakeBars.walk(10), GRIDS["sma_cross"], "sma_cross")
    assert torch.get_num_threads() == 1


# --- without PyTorch ---------------------------------------------------------------------------


def test_what_runs_in_the_warden_does_not_import_torch() -> None:
    code = (
        "import sys; from tests.support.chunks import FakeBars; "
        "from workers.catalog import STRATEGIES; from supervisor.rows.grid import Grid; "
        "before = 'torch' in sys.modules; from workers.torch_backtest import TorchBacktest\n"
        "for name, s in STRATEGIES.items():\n"
        "    g = Grid.of({p.name: [i + 2] for i, p in enumerate(s.parameters)})\n"
        "    TorchBacktest(FakeBars.walk(9), s.space(g), name, fee=0.0, device='cuda').prepare()\n"
        "print('torch' in sys.modules, 'numba' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "False False\n", ended.stderr


def test_without_torch_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError) as caught:
        started(FakeBars.walk(10), GRIDS["sma_cross"], "sma_cross")
    assert str(caught.value) == f"PyTorch is not installed: {advice('torch')}"


def test_a_fee_and_a_device_are_checked() -> None:
    space = STRATEGIES["sma_cross"].space(GRIDS["sma_cross"])
    for options in ({"fee": 1.0}, {"fee": -0.1}, {"fee": 0.0, "device": "tpu"}):
        with pytest.raises(ConfigError):
            TorchBacktest(FakeBars.walk(10), space, "sma_cross", **options)  # type: ignore[arg-type]
