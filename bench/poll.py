"""Cost of polling the stop flag, and the delay until a kernel sees it.

The built-in kernel without its poll is the same function, compiled with a poll that is
always false: Numba binds the name at compile time, so the kernel is not changed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bench.harness import workloads
from bench.harness.bare import prepared
from bench.harness.chunk import BareChunk
from bench.harness.interleave import interleave
from bench.harness.processes import PlainProcesses
from bench.harness.record import Comparison, Row, Target, compare
from bench.harness.shape import Shape
from bench.harness.words import BEAT, SEEN_NS, TURN
from bench.harness.workspace import Workspace, wait_until
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.bars import Bars
from supervisor.market.example import example_bars
from supervisor.rows.grid import Grid
from workers.indicators.bank import DEFAULT_BUDGET
from workers.kernels.entries import sweep_average_crosses
from workers.kernels.source import sweep as source
from workers.numba_backtest import NumbaBacktest, warm_up
from workers.strategies import sma_cross

TITLE = "Poll: cost of polling the stop flag, and the delay until a stop is seen"

STRATEGY = "sma_cross"
GRID = {"fast": range(5, 205), "slow": range(210, 610)}
_SAMPLE_COMBOS = 2_000
_BANKED = {"fast": range(5, 505), "slow": range(510, 1510)}
_WIDE_STRATEGY = "rsi_reversion"
_LEVELS = {"lower": range(10, 50, 4), "upper": range(50, 90, 4)}

_OVERHEAD_TARGET = 0.5
_HEARD_TARGET_US = 1000.0


def measure(shape: Shape, workspace: Workspace) -> list[Row]:
    """Compare kernels and flags with and without a poll, and time the hearing."""
    workloads.load_kernels()
    warm_up(STRATEGY)
    warm_up(_WIDE_STRATEGY)
    bars = example_bars(shape.bars)
    return [
        _kernel_overhead(shape, bars),
        *_polls_from_python(shape),
        *_delays(shape, workspace, bars),
    ]


# -- in a kernel -------------------------------------------------------------


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _never(line: Any) -> bool:
    return False


def without_poll(python: Any) -> Any:
    """Compile a kernel's source with a poll that is never true."""
    names = python.__globals__ | {"stop_requested": _never}
    twin = FunctionType(python.__code__, names, python.__name__, python.__defaults__)
    return njit(nogil=True, _nrt=False)(twin)


@contextmanager
def _sweeping_with(kernel: Any) -> Iterator[None]:
    module: Any = sma_cross
    usual = module.sweep_average_crosses
    module.sweep_average_crosses = kernel
    try:
        yield
    finally:
        module.sweep_average_crosses = usual


def _kernel_overhead(shape: Shape, bars: Bars) -> Row:
    grid = Grid.of(GRID)
    backtest = prepared(bars, grid, STRATEGY)
    stop = min(_SAMPLE_COMBOS, shape.combos, grid.size)
    name = f"{STRATEGY} kernel, {stop:,} combinations × {len(bars):,} bars, CPU time"
    target = Target(_OVERHEAD_TARGET)
    polling = sweep_average_crosses
    twin = without_poll(source.sweep_average_crosses)

    def run(kernel: Any) -> float:
        with _sweeping_with(kernel):
            # the time of this thread alone: what others do on the machine counts for less
            begun = time.thread_time()
            backtest.evaluate(BareChunk(0, stop))
            return time.thread_time() - begun

    run(twin)  # from here on it is compiled, and the indicators are there
    if _sees(twin, backtest) or not _sees(polling, backtest):
        reason = "the poll cannot be taken out of the kernel from outside"
        return Row(name, "ms", target=target, not_measured=reason)
    arms = {"polling": partial(run, polling), "twin": partial(run, twin)}
    seen = interleave(shape.poll_rounds, arms, warm_up=True)
    return compare(
        name,
        "ms",
        [1000 * took_s for took_s in seen["polling"].seen],
        [1000 * took_s for took_s in seen["twin"].seen],
        comparison=Comparison.OVERHEAD,
        floor_name="the same kernel without its poll",
        target=target,
        note="polls once per combination and tile of 4,096 bars",
    )


def _sees(kernel: Any, backtest: NumbaBacktest) -> bool:
    """Whether a kernel heeds a stop: the proof that one polls and its twin does not."""
    flag = StopFlag()
    flag.set()
    with _sweeping_with(kernel):
        return backtest.evaluate(BareChunk(0, 1, flag)) == 0


# -- from Python -------------------------------------------------------------


def _polls_from_python(shape: Shape) -> list[Row]:
    flag = StopFlag()
    event = multiprocessing.Event()
    value = multiprocessing.Value("q")
    view = memoryview(bytearray(64)).cast("q")
    polls: dict[str, Callable[[], object]] = {
        "memoryview[0]": lambda: view[0],
        "StopFlag.is_set": flag.is_set,
        "Value.value": lambda: value.value,
        "Event.is_set": event.is_set,
    }

    def cost_ns(poll: Callable[[], object]) -> float:
        return 1e9 * timeit.timeit(poll, number=shape.polls) / shape.polls

    seen = interleave(
        shape.poll_rounds, {name: partial(cost_ns, poll) for name, poll in polls.items()}
    )
    flag.close()
    ours = seen["StopFlag.is_set"].seen
    return [
        compare(
            f"StopFlag.is_set() from Python, against {name}",
            "ns",
            ours,
            seen[name].seen,
            comparison=Comparison.RATIO,
            floor_name=name,
            note=note,
        )
        for name, note in (
            ("memoryview[0]", "the floor: one load from shared memory, through a lambda"),
            ("Event.is_set", "multiprocessing.Event, polled by one process"),
            ("Value.value", "multiprocessing.Value, with its lock"),
        )
    ]


# -- delay until the stop is seen ----------------------------------------------


UntilStopped = Callable[[StopFlag, NDArray[np.int64]], None]
"""Compute until the flag is set, raising the line's count meanwhile."""


@dataclass(frozen=True)
class _Listener:
    """A process that repeatedly computes until it sees a stop.

    The turn of the game is in shared words: neither side waits on a lock, and both
    sides read the same clock (``CLOCK_MONOTONIC``).
    """

    flag: StopFlag
    line: NDArray[np.int64]
    until_stopped: UntilStopped

    def listen(self, shots: int) -> None:
        for turn in range(1, shots + 1):
            while workloads.read_word(self.line, TURN) != turn:
                pass
            self.flag.rearm()
            self.until_stopped(self.flag, self.line)
            self.line[SEEN_NS] = time.monotonic_ns()


def _spin(flag: StopFlag, line: NDArray[np.int64]) -> None:
    workloads.spinning_kernel(flag.array, line)


def _delays(shape: Shape, workspace: Workspace, bars: Bars) -> list[Row]:
    computing = f"{STRATEGY} on {len(bars):,} bars"
    return [
        _delay_row("a spinning kernel", shape.shots, workspace, _spin, 0.001),
        _delay_row(
            f"{computing}, indicators banked",
            shape.kernel_shots,
            workspace,
            _computing(STRATEGY, bars, Grid.of(_BANKED)),
            0.2,
        ),
        _delay_while_indicators_are_computed(shape, workspace, bars),
    ]


def _delay_while_indicators_are_computed(shape: Shape, workspace: Workspace, bars: Bars) -> Row:
    """Compute where the bank has no place for signals: they are computed again and again."""
    a_window_takes = len(_LEVELS["lower"]) * len(bars) // 8  # a bit per bar and level
    n_windows = 3 * DEFAULT_BUDGET // a_window_takes
    who = f"{_WIDE_STRATEGY} on {len(bars):,} bars, too many indicators for the bank"
    if n_windows > len(bars) // 2:
        why = "signals of so few bars have their place in the bank, whatever their windows"
        return Row(who, "µs", target=Target(_HEARD_TARGET_US), not_measured=why)
    grid = Grid.of({"window": range(2, 2 + n_windows), **_LEVELS})
    until_stopped = _computing(_WIDE_STRATEGY, bars, grid, first=grid.size // 2)
    return _delay_row(who, shape.kernel_shots, workspace, until_stopped, 0.2)


def _computing(strategy: str, bars: Bars, grid: Grid, first: int = 0) -> UntilStopped:
    backtest = prepared(bars, grid, strategy)
    backtest.evaluate(BareChunk(first, first + backtest.batch))  # what the bank holds, it has
    # goes on where the last shot came: what was computed just before is still there
    starts = itertools.cycle(range(first, grid.size, backtest.batch))

    def compute(flag: StopFlag, line: NDArray[np.int64]) -> None:
        # a batch at a time: the delay is the kernel's, without writing what it had finished
        for start in starts:
            batch = BareChunk(start, min(start + backtest.batch, grid.size), flag, line[BEAT:])
            if backtest.evaluate(batch) < batch.stop:
                return

    return compute


def _delay_row(
    who: str, shots: int, workspace: Workspace, until_stopped: UntilStopped, longest_s: float
) -> Row:
    delays_us = _shoot(workspace, shots, until_stopped, longest_s)
    p99 = statistics.quantiles([*delays_us, delays_us[-1]], n=100, method="inclusive")[98]
    return compare(
        f"flag.set() → seen by {who}, in another process",
        "µs",
        [p99],
        target=Target(_HEARD_TARGET_US),
        note=f"99th percentile of {shots:,}",
        details={"all_us": delays_us},
    )


def _shoot(
    workspace: Workspace,
    shots: int,
    until_stopped: UntilStopped,
    longest_s: float,
) -> list[float]:
    workspace.words.clear()
    line = workspace.words.lines[0]
    flag = StopFlag()
    listener = _Listener(flag, line, until_stopped)
    delays_us = []
    dice = random.Random(1)
    with PlainProcesses([partial(listener.listen, shots)]):
        for turn in range(1, shots + 1):
            flag.clear()
            line[BEAT] = line[SEEN_NS] = 0
            line[TURN] = turn
            wait_until(lambda: line[BEAT] != 0, "a kernel that computes")
            # anywhere in its work, not always at the same place: a kernel's next batch
            time.sleep(dice.uniform(0.0, longest_s))
            begun_ns = time.monotonic_ns()
            flag.set()
            wait_until(lambda: line[SEEN_NS] != 0, "a kernel that has seen the stop")
            delays_us.append((int(line[SEEN_NS]) - begun_ns) / 1000)
    flag.close()
    return delays_us
