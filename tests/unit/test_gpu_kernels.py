"""The GPU kernels' source, compiled for the CPU: rows, stops, memory, races; and by nvcc."""

from __future__ import annotations

import functools
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supervisor.rows.grid import Grid
from tests.support import bands
from tests.support.chunks import FakeBars, backtest_all
from tests.support.gpu import device_code, kernels, sanitized
from tests.support.gpu.kernels import Build
from tests.support.gpu.launches import CROSS_KERNELS, Columns, Launches
from workers.catalog import STRATEGIES
from workers.cupy_backtest import layout, tables
from workers.indicators.prices import running_sums
from workers.kernels import prefix_tables
from workers.kernels.blocks import TILE_BARS, WORD
from workers.kernels.entries import rsi

needs_compiler = pytest.mark.skipif(bool(kernels.missing()), reason=kernels.missing() or "-")
needs_nvcc = pytest.mark.skipif(bool(device_code.why_not()), reason=device_code.why_not() or "-")
needs_disassembler = pytest.mark.skipif(
    device_code.nvdisasm() is None, reason="no nvdisasm on this machine"
)

AXES: dict[str, dict[str, list[Any]]] = {
    "sma_cross": {"fast": [1, 2, 5, 20, 64], "slow": [2, 3, 20, 63, 65, 300]},
    "bollinger_reversion": {"window": [2, 5, 20, 300], "width": [0, 0.5, 1.0, 2.1]},
    "rsi_reversion": {"window": [1, 2, 14, 90], "lower": [20, 30, 50], "upper": [40, 50, 80.5]},
    "donchian_breakout": {"entry": [1, 2, 20, 63, 300], "exit": [1, 5, 64, 100]},
}
SERIES: dict[str, FakeBars] = {
    name: FakeBars.of(close)
    for name, close in {
        "constant": np.full(400, 1.25),
        "rising": (1000 + np.arange(400)) / 1000,
        "falling": (2000 - np.arange(400)) / 1000,
        "sawtooth": (100 + np.arange(900) % 7) / 100,
        "steps": (10 + np.arange(900) // 100 % 2) / 10,
        "flat-then-waves": np.r_[np.full(300, 1.1), np.round(1.1 + np.sin(np.arange(300)) / 9, 4)],
        "crash": np.r_[np.linspace(2, 3, 200), np.linspace(1, 4, 300)].round(2),
        "spike": np.r_[np.ones(200), 5.0, np.ones(200)],
        "tiny": np.array([1e-8, 2e-8, 1e-8, 3e-8] * 50),
        "fractions": np.exp(np.sin(np.arange(700.0))),
        "eighteen-decades": 10.0 ** np.linspace(-9, 9, 900),
    }.items()
}
SERIES |= {
    f"walk-{n}": FakeBars.walk(n, seed=n) for n in (1, 2, 63, 64, 65, 700, 4095, 4096, 4097, 8257)
}
SERIES["ties"] = FakeBars.walk(1500, seed=3, decimals=2, spread=0.01)

FEES = 0.0005, 0.2, 0.9  # at 0.9 what is held becomes 0 in a few hundred trades


@pytest.fixture(scope="module")
def serial() -> Launches:
    return Launches(kernels.load(kernels.built()))


def accepted(axes: dict[str, list[Any]], strategy: str) -> tuple[Grid, NDArray[np.int64], Columns]:
    """A grid, the combinations of it that count, and their parameters."""
    grid = Grid.of(axes)
    at = STRATEGIES[strategy].space(grid).accepted(0, grid.size)
    return grid, at, {name: values[at] for name, values in grid.columns(0, grid.size).items()}


def bits(rows: NDArray[Any]) -> list[Any]:
    return rows.view(np.int64).tolist()


def fits(bars: FakeBars, columns: Columns) -> bool:
    front = int(columns["slow"].max())
    length = front + len(bars.close) + 1
    close = np.array(bars.close)
    return tables.wrapped_sums(close, columns["fast"], columns["slow"], front, length) is not None


def ways(strategy: str, bars: FakeBars, columns: Columns) -> list[dict[str, Any]]:
    """Every way in which rows of these bars can be computed."""
    if strategy != "sma_cross":
        return [{}]
    allowed = CROSS_KERNELS if fits(bars, columns) else CROSS_KERNELS[2:]
    return [{"kernel": kernel, "ranged": ranged} for kernel in allowed for ranged in (True, False)]


# -- rows ------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("strategy", AXES)
@pytest.mark.parametrize("name", SERIES)
def test_rows_are_bit_for_bit_those_of_the_cpu(serial: Launches, strategy: str, name: str) -> None:
    bars = SERIES[name]
    grid, at, columns = accepted(AXES[strategy], strategy)
    for fee in FEES if len(bars.close) == 8257 else FEES[:1]:
        wanted = backtest_all(bars, grid, strategy, fee=fee)[at]
        for way in ways(strategy, bars, columns):
            assert bits(serial.rows(strategy, bars, columns, fee, **way)) == bits(wanted), way
    assert serial.unfinished[0] == 0


PRICES = st.integers(1, 400) | st.integers(90, 110)


@st.composite
def cases(draw: st.DrawFn) -> tuple[FakeBars, str, dict[str, list[Any]], float]:
    """Bars with ties, jumps and repeats, and a small grid over them."""
    pieces = draw(st.lists(st.tuples(st.lists(PRICES, min_size=1, max_size=9), st.integers(1, 40))))
    whole = [price for prices, times in pieces for price in prices * times] or [1]
    scale = 10.0 ** draw(st.integers(-2, 8))
    reach = draw(st.integers(0, 3)) / scale
    strategy = draw(st.sampled_from(list(AXES)))
    window = st.integers(2, 80) | st.sampled_from([1, 63, 64, 65, 128, 1000])
    level = st.floats(0, 100) | st.sampled_from([0.0, 50.0, 100.0])
    kinds = {"width": st.floats(0, 3), "lower": level, "upper": level}
    least = {p.name: p.minimum for p in STRATEGIES[strategy].parameters}
    axes = {
        name: sorted(
            draw(
                st.lists(
                    kinds.get(name, window.filter(lambda value, least=least[name]: value >= least)),
                    min_size=1,
                    max_size=4,
                    unique=True,
                )
            )
        )
        for name in AXES[strategy]
    }
    bars = FakeBars.of(np.array(whole) / scale, spread=reach)
    return bars, strategy, axes, draw(st.sampled_from([0.0, 0.0005, 0.3]))


@needs_compiler
@settings(max_examples=150)
@given(case=cases())
def test_rows_of_any_series(serial: Launches, case: Any) -> None:
    bars, strategy, axes, fee = case
    grid, at, columns = accepted(axes, strategy)
    if len(at) == 0:
        return
    wanted = backtest_all(bars, grid, strategy, fee=fee)[at]
    for way in ways(strategy, bars, columns):
        assert bits(serial.rows(strategy, bars, columns, fee, **way)) == bits(wanted), way


@needs_compiler
@pytest.mark.parametrize("strategy", AXES)
def test_rows_with_real_threads_and_barriers(strategy: str) -> None:
    bars = SERIES["walk-8257"]
    grid, at, columns = accepted(AXES[strategy], strategy)
    wanted = backtest_all(bars, grid, strategy)[at]
    launches = Launches(kernels.load(kernels.built(Build.THREADS)), threads=64)
    assert bits(launches.rows(strategy, bars, columns, 0.0005)) == bits(wanted)


@needs_compiler
def test_ranges_settle_words_without_their_sums(serial: Launches) -> None:
    bars = FakeBars.of((1000 + np.arange(141 * WORD)) / 1000)  # whole blocks: no padding in one
    columns = {"fast": np.array([1, 2, 20]), "slow": np.array([200, 300, 300])}
    wanted = serial.rows("sma_cross", bars, columns, 0.0005)
    spoilt = {"kernel": "sweep_crosses_wide", "spoilt_from": 1000}
    assert bits(serial.rows("sma_cross", bars, columns, 0.0005, **spoilt)) == bits(wanted)
    unsettled = serial.rows("sma_cross", bars, columns, 0.0005, ranged=False, **spoilt)
    assert bits(unsettled) != bits(wanted)


def fractions(n: int) -> NDArray[np.float64]:
    """Prices whose sums are rounded."""
    return np.exp(np.cumsum(np.random.default_rng(1).normal(0.0, 1e-3, n)))


CLOSES = {"any": fractions(8257), "whole": np.array(SERIES["walk-8257"].close)}


def bits_of(words: NDArray[np.uint64], at: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A row of bits per combination."""
    return np.unpackbits(words.T.copy().view(np.uint8), axis=1, bitorder="little")[at]


@needs_compiler
@pytest.mark.parametrize("close", CLOSES.values(), ids=CLOSES)
def test_the_rsi_has_the_bits_of_the_cpu(serial: Launches, close: NDArray[np.float64]) -> None:
    """A curve is neither above nor below its own value: a bit of difference would show."""
    line, windows = np.zeros(8, np.int64), np.array([2, 3, 14, 90, 300])
    bars = np.linspace(400, len(close) - 1, 40).astype(int)
    for window in windows:
        values = np.empty(3 * TILE_BARS)
        assert rsi(line, close, int(window), values)
        bounds = values[bars]
        for above in (False, True):
            beyond = values > bounds[:, None] if above else values < bounds[:, None]
            found = bits_of(*serial.levels(close, np.full(40, window), bounds, above=above))
            assert (found[:, : len(close)] == beyond[:, : len(close)]).all()
            assert not found[:, len(close) :].any()


@needs_compiler
@pytest.mark.parametrize(
    "close", [*CLOSES.values(), *bands.SERIES.values()], ids=[*CLOSES, *bands.SERIES]
)
def test_bands_have_the_bits_of_the_cpu(serial: Launches, close: NDArray[np.float64]) -> None:
    window, width = (np.array(part) for part in zip(*bands.BANDS, strict=True))
    below = bits_of(*serial.bands(close, window, width, above=False))
    above = bits_of(*serial.bands(close, window, width, above=True))
    for row, band in enumerate(bands.BANDS):
        enter, leave = bands.signals(close, *band)
        assert (below[row, : len(close)] == enter).all(), band
        assert (above[row, : len(close)] == leave).all(), band


# -- tables ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SERIES)
def test_prefix_tables_have_the_bits_of_the_compiled_ones(name: str) -> None:
    for fee in (0.0, *FEES):
        close = np.array(SERIES[name].close)
        wanted = prefix_tables.make_prefix_tables(close, fee, 3.0)
        made = tables.make_prefix_tables(close, fee, 3.0)
        for field in wanted._fields:
            a, b = np.asarray(getattr(made, field)), np.asarray(getattr(wanted, field))
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes(), field


@example([0] * 40 + [17_500_000] * 40, [35], [70], 1)
@example([0] * 40 + [17_600_000] * 40, [35], [70], 1)
@given(
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=60),
    st.lists(st.integers(1, 70), min_size=1, max_size=5),
    st.lists(st.integers(2, 70), min_size=1, max_size=5),
    st.integers(1, 12),
)
def test_what_fits_in_32_bits_does(
    whole: list[int], fast: list[int], slow: list[int], cut: int
) -> None:
    prices = [price // 10**cut for price in whole]
    sums = np.cumsum([0, *prices])
    furthest = max(
        (
            abs(s * int(sums[e] - sums[e - f]) - f * int(sums[e] - sums[e - s]))
            for f in fast
            for s in slow
            for e in range(s, len(sums))
            if f < s
        ),
        default=0,
    )
    said = tables.fits_in_32_bits(np.array(prices, float), np.array(fast), np.array(slow))
    if said:
        assert furthest < 2**31
    if furthest * 4 < 2**31 and max(map(abs, prices)) * 70 * 70 < 2**31:
        assert said


def test_sums_that_do_not_fit_are_told_apart(serial: Launches) -> None:
    """The guard's control: without it, rows would be others."""
    bars = SERIES["fractions"]
    grid, at, columns = accepted(AXES["sma_cross"], "sma_cross")
    assert not fits(bars, columns)
    assert fits(SERIES["walk-8257"], columns)
    wanted = backtest_all(bars, grid, "sma_cross")[at]
    assert bits(serial.rows("sma_cross", bars, columns, 0.0005)) != bits(wanted)


def test_products_that_float64_rounds_do_not_fit() -> None:
    """The CPU may tie where whole numbers do not, however small their difference is."""
    prices = np.array([2.0**50, 2.0**50 + 1.0] * 40)
    assert not tables.fits_in_32_bits(prices, np.array([3]), np.array([50]))
    assert tables.fits_in_32_bits(prices - 2.0**50, np.array([3]), np.array([50]))


def test_wrapped_sums_are_the_running_sums_modulo_32_bits() -> None:
    close = np.full(200_000, 60_000.01)
    close[::2] = 59_999.99
    windows = np.array([2, 5])
    wrapped = tables.wrapped_sums(close, windows, windows, 7, 200_008)
    sums = running_sums(close, 7, 200_008)
    assert wrapped is not None
    assert ((sums.astype(np.int64) - wrapped) % 2**32 == 0).all()


# -- stops -----------------------------------------------------------------------

TURNS = 16  # of poll.cuh
TILES = TURNS + 6
LONG = FakeBars.walk(TILES * TILE_BARS - 5, seed=1)
KERNELS_OF = {
    "sma_cross": ("fill_ranges", *CROSS_KERNELS),
    "bollinger_reversion": ("fill_bands", "sweep_signals"),
    "rsi_reversion": ("fill_rsi", "sweep_signals"),
    "donchian_breakout": ("raise_ladder", "fill_breakouts", "sweep_signals"),
}
PER_TILE = {*CROSS_KERNELS, "sweep_signals", "fill_bands", "fill_rsi"}


def test_every_kernel_is_tried() -> None:
    assert {kernel for some in KERNELS_OF.values() for kernel in some} == set(layout.KERNELS)


class StopInside(Launches):
    """Requests a stop when one kernel's blocks have polled so often."""

    def __init__(self, library: Any, threads: int, kernel: str, poll: int) -> None:
        super().__init__(library, threads)
        self.kernel, self.poll = kernel, poll
        self.polls = 0

    def launch(self, kernel: str, blocks: int, *arguments: Any) -> None:
        if kernel != self.kernel or self.unfinished[0]:
            super().launch(kernel, blocks, *arguments)
            return
        self.flag[0] = self.poll == 0
        flag = np.ctypeslib.as_ctypes(self.flag)
        self.library.stop_at_poll(self.poll, flag)
        super().launch(kernel, blocks, *arguments)
        self.polls = self.library.polls_seen()


@needs_compiler
@pytest.mark.parametrize(
    ("strategy", "kernel"), [(name, kernel) for name, some in KERNELS_OF.items() for kernel in some]
)
def test_a_kernel_launched_after_a_request_leaves_at_its_first_poll(
    strategy: str, kernel: str
) -> None:
    _, _, columns = accepted(AXES[strategy], strategy)
    columns = {name: values[:5] for name, values in columns.items()}
    library = kernels.load(kernels.built(Build.THREADS))
    way = {"kernel": kernel} if kernel in CROSS_KERNELS else {}
    launches = StopInside(library, 64, kernel, poll=0)
    rows = launches.rows(strategy, LONG, columns, 0.0005, **way)
    assert launches.unfinished[0] == 1
    assert (rows == -1.0).all()
    blocks = 1 if kernel in PER_TILE else TILES
    assert launches.polls == blocks


@needs_compiler
@pytest.mark.parametrize(
    ("strategy", "kernel"),
    [(name, kernel) for name, some in KERNELS_OF.items() for kernel in some if kernel in PER_TILE],
)
@pytest.mark.parametrize("poll", [1, 3])
def test_a_stop_inside_a_kernel_is_seen_when_it_is_the_blocks_turn(
    strategy: str, kernel: str, poll: int
) -> None:
    _, _, columns = accepted(AXES[strategy], strategy)
    columns = {name: values[:5] for name, values in columns.items()}
    library = kernels.load(kernels.built(Build.THREADS))
    way = {"kernel": kernel} if kernel in CROSS_KERNELS else {}
    launches = StopInside(library, 64, kernel, poll)
    rows = launches.rows(strategy, LONG, columns, 0.0005, **way)
    assert launches.unfinished[0] == 1
    assert (rows == -1.0).all()
    # at its next turn; the first one is in the first tile, after which some look for the first time
    assert launches.polls in (poll + 1, TURNS + 1, TURNS + 2)


@needs_compiler
@pytest.mark.parametrize("kernel", ["sweep_crosses", "sweep_crosses_far", "sweep_crosses_wide"])
def test_what_one_block_has_seen_the_others_learn(kernel: str) -> None:
    """Blocks run one after the other here: no turn of the second one's comes so early."""
    _, _, columns = accepted(AXES["sma_cross"], "sma_cross")
    columns = {name: values[:5] for name, values in columns.items()}
    launches = StopInside(kernels.load(kernels.built(Build.THREADS)), 64, kernel, poll=-1)
    launches.seen[0] = 1
    rows = launches.rows("sma_cross", LONG, columns, 0.0005, kernel=kernel, ranged=False)
    assert (rows == -1.0).all()
    assert launches.unfinished[0] == 1


@needs_compiler
def test_a_stop_from_another_thread_ends_a_sweep() -> None:
    bars = FakeBars.walk(60 * TILE_BARS, seed=2)
    library = kernels.load(kernels.built(Build.THREADS))
    launches = Launches(library, threads=32)
    columns = {"fast": np.arange(1, 33), "slow": np.arange(101, 133)}
    library.stop_at_poll(0, np.ctypeslib.as_ctypes(launches.flag))
    sweep = threading.Thread(
        target=launches.rows, args=("sma_cross", bars, columns, 0.0005), kwargs={"ranged": False}
    )
    sweep.start()
    fills = 60 * 2  # fill_ranges: a block per tile and 32 windows
    while library.polls_seen() < fills + 2 and sweep.is_alive():
        pass
    launches.flag[0] = 1
    sweep.join(60)
    assert not sweep.is_alive()
    assert launches.unfinished[0] == 1
    assert library.polls_seen() < fills + 60


# -- memory and races --------------------------------------------------------------

WATCHED = FakeBars.walk(8257, seed=4)


@functools.cache
def cpu_rows(strategy: str) -> tuple[Columns, NDArray[np.float64]]:
    grid, at, columns = accepted(AXES[strategy], strategy)
    return columns, backtest_all(WATCHED, grid, strategy)[at]


@needs_compiler
@pytest.mark.parametrize("strategy", AXES)
def test_no_kernel_leaves_its_arrays_or_the_language(tmp_path: Path, strategy: str) -> None:
    columns, wanted = cpu_rows(strategy)
    for way in ways(strategy, WATCHED, columns)[::2]:
        rows, done = sanitized.run(Build.ADDRESS, tmp_path, strategy, WATCHED, columns, **way)
        assert done.returncode == 0, done.stderr
        assert bits(rows) == bits(wanted)


@needs_compiler
@pytest.mark.parametrize("strategy", AXES)
def test_threads_of_a_block_do_not_race(tmp_path: Path, strategy: str) -> None:
    columns, wanted = cpu_rows(strategy)
    rows, done = sanitized.run(Build.RACES, tmp_path, strategy, WATCHED, columns, threads=64)
    assert done.returncode == 0, done.stderr
    assert bits(rows) == bits(wanted)


@needs_compiler
@pytest.mark.parametrize("build", [Build.RACES_WITHOUT_BARRIER, Build.RACES_WITHOUT_LEAVING])
def test_without_one_of_the_barriers_they_race(tmp_path: Path, build: Build) -> None:
    columns, _ = cpu_rows("sma_cross")
    _, done = sanitized.run(build, tmp_path, "sma_cross", WATCHED, columns, threads=64)
    assert done.returncode != 0
    assert "data race" in done.stderr
    assert "word_above" in done.stderr or "stage" in done.stderr


# -- device code -----------------------------------------------------------------

LOOKING_WHILE = sorted(PER_TILE)


@needs_nvcc
@pytest.mark.parametrize("name", layout.SOURCES)
def test_nvcc_compiles_without_warnings_spills_or_stack(tmp_path: Path, name: str) -> None:
    code = device_code.compiled(name, tmp_path / "code.cubin")
    assert set(code.registers) == set(layout.SOURCES[name])
    assert set(code.in_memory.values()) == {0}
    assert max(code.registers.values()) <= 128  # two blocks of 256 threads to a multiprocessor


@needs_nvcc
@pytest.mark.parametrize("name", layout.SOURCES)
def test_the_flag_is_read_from_memory_in_the_loop_over_tiles(tmp_path: Path, name: str) -> None:
    for kernel, text in device_code.ptx(name, tmp_path / "code.ptx").items():
        assert "ld.volatile.global" in text
        if kernel in PER_TILE:
            assert any("ld.volatile.global" in loop for loop in device_code.loops(text)), kernel


@needs_nvcc
@needs_disassembler
@pytest.mark.parametrize("name", layout.SOURCES)
def test_the_machine_reads_the_flag_at_system_scope(tmp_path: Path, name: str) -> None:
    device_code.compiled(name, tmp_path / "code.cubin")
    for kernel, text in device_code.sass(tmp_path / "code.cubin").items():
        if kernel in PER_TILE:
            assert any("LDG.E.64.STRONG.SYS" in loop for loop in device_code.loops(text)), kernel


@needs_nvcc
@needs_disassembler
@pytest.mark.parametrize("name", layout.SOURCES)
def test_no_thread_waits_where_the_flag_is_read(tmp_path: Path, name: str) -> None:
    """The machine waits for a load where its register is first used: not before the next label."""
    device_code.compiled(name, tmp_path / "code.cubin")
    for kernel, text in device_code.sass(tmp_path / "code.cubin").items():
        if kernel not in PER_TILE:
            continue
        *_, (register, after) = re.findall(
            r"LDG\.E\.64\.STRONG\.SYS (R\d+),[^\n]*\n(.*?)^\.L", text, re.DOTALL | re.MULTILINE
        )
        assert not re.search(rf"\b{register}\b", after), kernel


_PARAMETER = re.compile(r"ld\.param(?:\.v\d)?\.(\w)(\d+)\s.*\[(\w+)_param_(\d+)(?:\+(\d+))?\]")


@needs_nvcc
@pytest.mark.parametrize("name", layout.SOURCES)
def test_every_argument_is_read_as_what_it_is(tmp_path: Path, name: str) -> None:
    """nvcc 13.0 once took a struct that begins as the argument does for the argument itself.

    Then a curve's window was half of a pointer, and its gain the other ones.
    """
    text = "".join(device_code.ptx(name, tmp_path / "code.ptx").values())
    found = [match for match in _PARAMETER.findall(text) if match[2] in layout.KERNELS]
    assert found
    for kind, bits, kernel, number, offset in found:
        struct = layout.KERNELS[kernel][int(number)]
        by_offset = {at: dtype for dtype, at, *_ in (struct.fields or {}).values()}
        field = by_offset.get(int(offset or 0))
        assert field is not None, (kernel, number, offset)
        assert (8 * field.itemsize, field.kind == "f") == (int(bits), kind == "f"), (
            kernel, number, offset,
        )  # fmt: skip


@needs_nvcc
@needs_disassembler
def test_sums_are_read_from_shared_memory(tmp_path: Path) -> None:
    """Once the pointer could be to either, and every read was one that looks where it points."""
    device_code.compiled("crosses", tmp_path / "code.cubin")
    code = device_code.sass(tmp_path / "code.cubin")["sweep_crosses"]
    assert len(re.findall(r"\bLDS\b", code)) >= 3 * 8
    assert not re.search(r"\bLD\.E R\d", code)  # 32 bits from anywhere


@needs_nvcc
@pytest.mark.parametrize("name", layout.SOURCES)
def test_products_and_sums_are_rounded_apart(tmp_path: Path, name: str) -> None:
    """Without ``.rn`` the assembler may fuse what the compiler has not."""
    may_fuse = re.compile(r"fma\.rn\.f64|\b(?:mul|add|sub)\.f64")
    ours = "".join(device_code.ptx(name, tmp_path / "ours.ptx").values())
    assert "mul.rn.f64" in ours or "sub.rn.f64" in ours
    assert not may_fuse.search(ours)
    fused = "".join(device_code.ptx(name, tmp_path / "fused.ptx", "--fmad=true").values())
    assert may_fuse.search(fused)


def test_compilers_that_should_be_here_are() -> None:
    """A machine that has nvcc has a C++ compiler: nothing above is then left out by accident."""
    assert kernels.missing() == "" or shutil.which("nvcc") is None
