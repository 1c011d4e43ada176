"""Throughput of whole runs, and the share of it that supervision costs.

Ours is the command from its start to its last result on disk. The floor is the same
kernels in as many plain processes as there are cores. A single process times the number
of cores is shown beside it: a bound that no program reaches where cores share memory and
caches.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan

import numpy as np

from bench.harness.bare import bare_processes, prepared, reap
from bench.harness.chunk import BareChunk
from bench.harness.errors import NotMeasuredError
from bench.harness.interleave import interleave
from bench.harness.machine import peak_rss_bytes
from bench.harness.peer import Pair
from bench.harness.processes import PlainProcesses
from bench.harness.record import Comparison, Row, Target, compare
from bench.harness.shape import Shape
from bench.harness.turns import TURN_S, Contender, take_turns
from bench.harness.workspace import CommandRun, Workspace, wait_until
from bench.peers import Listed, list_peers
from supervisor.market.example import example_bars
from supervisor.records.events import read_events
from supervisor.rows.grid import Grid
from workers.numba_backtest import DEFAULT_FEE, warm_up

TITLE = "Sweep: throughput from data to results"

STRATEGY = "sma_cross"
_BIG_STRATEGY = "rsi_reversion"
"""In a grid of 10 million all windows are shorter than 2,000 bars, so that it trades. (A
quarter has ``lower ≥ upper`` and gets no row.)"""

_LOOK_AT_PEAK_EVERY_S = 0.02
_LEAST_SIDE, _MOST_SIDE = 100, 1_000  # of a square grid: the indicator bank holds no more windows
_FIRST_COMBOS = 2_000  # sample from which the rate is estimated; it sets the long grid's size
_TYPICAL_COMBOS = 500_000  # size of the grid that the sample is the middle of
_LEARN_S = 0.05  # the sample is repeated for this long
_LEAST_TURNS = 4  # of a run, however short

_LOSS = Target(1.0)
_PEER_TARGET = 1000.0
_RSS_TARGET_MB = 300.0
_FIRST_ROW_TARGET_MS = 1000.0
_SAME_WORK = 0.02
"""Tolerated difference of a peer's total returns: floating-point sums of prices decide some
ties of two averages by rounding, and each tie is one trade more or less."""
_MB = 2**20

Axes = dict[str, range]


@dataclass(frozen=True, slots=True)
class Swept:
    """One sweep: combinations, wall time, and time without start-up and results, in s."""

    combos: int
    wall_s: float
    computing_s: float = nan


@dataclass(frozen=True, slots=True)
class _Load:
    """A grid that keeps workers busy for a given time, and the length of a turn, in s."""

    axes: Axes
    workers: int
    turn_s: float

    @classmethod
    def of(cls, seconds: float, rate: float, workers: int) -> _Load:
        """Choose a grid that takes about this long at a rate in combinations/s/core.

        It takes less on many cores, but always several turns.
        """
        axes = _axes_of(rate * workers * seconds)
        lasts = Grid.of(axes).size / (rate * workers)
        return cls(axes, workers, min(TURN_S, lasts / _LEAST_TURNS))

    @property
    def grid(self) -> Grid:
        """The combinations."""
        return Grid.of(self.axes)


def measure(shape: Shape, workspace: Workspace) -> list[Row]:
    """Take the throughput, supervision's share, the peers and the big grid."""
    warm_up(STRATEGY)
    warm_up(_BIG_STRATEGY)
    bench = _Bench(shape, workspace)
    return [*bench.supervision(), *bench.throughput(), *bench.big_grid()]


class _Bench:
    def __init__(self, shape: Shape, workspace: Workspace) -> None:
        self._shape = shape
        self._workspace = workspace
        self._bars = example_bars(shape.bars)
        self._data = _parquet(workspace, "bars", shape.bars)

    # -- supervision's share -------------------------------------------------

    def supervision(self) -> list[Row]:
        """Compare runs with bare processes on a long grid, and these with a single process."""
        compute_s, rate = self._shape.compute_s, self._learn_rate()
        rows = []
        for n in sorted({1, self._shape.cores}):
            load = _Load.of(compute_s, rate, n)
            title, many = f"supervision, {n} worker(s), start-up excluded", f"{n} bare process(es)"
            rows.append(self._share(title, many, load, self._ours_and_bare, _LOSS))
            if n > 1:
                load = _Load.of(compute_s / 3, rate, n)
                title, one = f"for comparison: {many}", f"1 bare process × {n}"
                rows.append(self._share(title, one, load, self._bare_and_alone))
        return rows

    def _learn_rate(self) -> float:
        grid = Grid.of(_axes_of(_TYPICAL_COMBOS))
        backtest = prepared(self._bars, grid, STRATEGY)
        middle = grid.size // 2
        backtest.evaluate(BareChunk(middle - _FIRST_COMBOS, middle))  # fills the bank
        begun, times = time.monotonic(), 0
        while time.monotonic() - begun < _LEARN_S:
            backtest.evaluate(BareChunk(middle, middle + _FIRST_COMBOS))
            times += 1
        return times * _FIRST_COMBOS / (time.monotonic() - begun)

    def _share(
        self,
        title: str,
        floor: str,
        load: _Load,
        rates: Callable[[_Load], tuple[float, float]],
        target: Target | None = None,
    ) -> Row:
        """Measure the loss of one rate against the other; both per core."""
        try:
            seen = [rates(load) for _ in range(self._shape.sweep_rounds)]
        except NotMeasuredError as error:
            return Row(title, "combos/s/core", target=target, not_measured=str(error))
        return compare(
            title,
            "combos/s/core",
            [ours for ours, _ in seen],
            [floor for _, floor in seen],
            comparison=Comparison.LOSS,
            floor_name=floor,
            target=target,
            note=f"in turns of {load.turn_s:.2g} s",
        )

    def _ours_and_bare(self, load: _Load) -> tuple[float, float]:
        """Alternate turns of a run and of as many plain processes on the same grid."""
        size, n = load.grid.size, load.workers
        with contextlib.ExitStack() as stack:
            ours = Contender(
                lambda: stack.enter_context(self._command(load.axes, self._data, n)),
                load.turn_s,
                first_turn_until=lambda run: run.computes,
            )
            bare = self._plain(stack, load.grid, n, load.turn_s)
            take_turns([ours, bare])
            if ours.running.wait() != 0 or ours.running.report()["combos_done"] != size:
                raise NotMeasuredError(f"the run did not compute all: {ours.running.said()}")
            reap(bare.running)
            at = {fact.name: fact.at for fact in read_events(ours.running.run_dir)}
        ours_s = ours.seconds(at["warden.run_started"], at["warden.run_ended"])
        return size / ours_s / n, size / bare.seconds() / n

    def _bare_and_alone(self, load: _Load) -> tuple[float, float]:
        """Alternate turns of plain processes and of a single one on the same grid."""
        size, n = load.grid.size, load.workers
        with contextlib.ExitStack() as stack:
            bare = self._plain(stack, load.grid, n, load.turn_s)
            alone = self._plain(stack, load.grid, 1, n * load.turn_s)
            take_turns([bare, alone])
            reap(bare.running)
            reap(alone.running)
        return size / bare.seconds() / n, size / alone.seconds()

    def _plain(
        self, stack: contextlib.ExitStack, grid: Grid, n: int, turn_s: float
    ) -> Contender[PlainProcesses]:
        fork = bare_processes(self._bars, grid, STRATEGY, n)
        return Contender(lambda: stack.enter_context(fork()), turn_s)

    # -- throughput and peers ------------------------------------------------

    def throughput(self) -> list[Row]:
        """Run the grid of the published figures and every peer in the same rounds."""
        side = max(2, math.isqrt(self._shape.combos))
        axes = {"fast": range(5, 5 + side), "slow": range(10 + side, 10 + 3 * side, 2)}
        cores = self._shape.cores
        pairs = _pairs_across(axes, self._shape.peer_combos)
        peers = list_peers()
        arms: dict[str, Callable[[], Swept]] = {
            "ours": partial(self._run, axes, cores),
            "bare": partial(self._bare, axes, cores),
        }
        problems: dict[str, str] = {}
        notes: dict[str, str] = {}
        for listed in peers:
            problems[listed.module], notes[listed.module] = self._try(listed, pairs)
            if not problems[listed.module]:
                arms[listed.module] = partial(_run_peer, listed, pairs)
        seen = interleave(self._shape.sweep_rounds, arms)
        runs = seen["ours"]
        what = f"{side * side:,} combinations × {len(self._bars):,} bars"
        if runs.not_measured:
            return [Row(what, "combos/s/core", not_measured=runs.not_measured)]
        whole = [sweep.combos / sweep.wall_s / cores for sweep in runs.seen]
        computing = [sweep.combos / sweep.computing_s / cores for sweep in runs.seen]
        rows = [
            compare(
                f"{what}, command to results on disk",
                "combos/s/core",
                whole,
                details={"wall_s": [sweep.wall_s for sweep in runs.seen]},
            ),
            compare(
                f"{what}, start-up and results excluded",
                "combos/s/core",
                computing,
                [sweep.combos / sweep.computing_s / cores for sweep in seen["bare"].seen],
                comparison=Comparison.LOSS,
                floor_name=f"{cores} bare process(es)",
            ),
        ]
        for listed in peers:
            reason = problems[listed.module] or seen[listed.module].not_measured
            theirs = [] if reason else seen[listed.module].seen
            for rates, how in ((whole, "command to results"), (computing, "computing")):
                name = f"against {listed.peer.name}, {how}"
                floor = f"{listed.peer.name}, {len(pairs)} combinations"
                note = notes[listed.module]
                rows.append(_against_peer(name, rates, theirs, floor, note=note, reason=reason))
        return rows

    def _try(self, listed: Listed, pairs: Sequence[Pair]) -> tuple[str, str]:
        """Compile a peer and check its results; return what is wrong, and how they differ."""
        if listed.missing:
            return listed.missing, ""
        if not self._shape.peers:
            return "left out (--no-peers)", ""
        listed.peer.prepare(self._bars, DEFAULT_FEE)
        theirs = listed.peer.run(pairs)
        ours = [self._total_return(pair) for pair in pairs]
        difference = float(np.max(np.abs(theirs / ours - 1)))
        found = f"total returns differ from ours by up to {difference:.2g}"
        return ("", found) if difference <= _SAME_WORK else (found, "")

    def _total_return(self, pair: Pair) -> float:
        grid = Grid.of({"fast": [pair[0]], "slow": [pair[1]]})
        chunk = BareChunk(0, 1)
        backtest = prepared(self._bars, grid, STRATEGY)
        backtest.evaluate(chunk)
        return float(chunk.rows[0][0, backtest.columns.index("total_return")])

    # -- the big grid --------------------------------------------------------

    def big_grid(self) -> list[Row]:
        """Start a grid that is too large to list, and stop it."""
        shape = self._shape
        lower, upper = range(1, 76), range(25, 100)
        n_windows = max(1, shape.big_combos // (len(lower) * len(upper)))
        axes = {"window": range(2, 2 + n_windows), "lower": lower, "upper": upper}
        size = n_windows * len(lower) * len(upper)
        data = _parquet(self._workspace, "few-bars", shape.big_bars)
        seen = interleave(shape.sweep_rounds, {"big": partial(self._until_stopped, axes, data)})
        what = f"{_BIG_STRATEGY}, a grid of {size:,} × {shape.big_bars:,} bars"
        arm = seen["big"]
        if arm.not_measured:
            return [Row(what, "ms", not_measured=arm.not_measured)]
        return [
            compare(
                f"{what}, command to first row",
                "ms",
                [found["first_row_ms"] for found in arm.seen],
                target=Target(_FIRST_ROW_TARGET_MS),
            ),
            compare(
                f"{what}, front's peak RSS, results included",
                "MB",
                [found["peak_rss_mb"] for found in arm.seen],
                target=Target(_RSS_TARGET_MB),
                note=f"stopped after {shape.big_s:g} s unless it had ended",
                details={
                    name: [found[name] for found in arm.seen if name in found]
                    for name in ("rows", "stop_ms")
                },
            ),
        ]

    def _until_stopped(self, axes: Axes, data: str) -> dict[str, float]:
        with self._command(axes, data, self._shape.cores, _BIG_STRATEGY) as run:
            run.first_rows()
            found = {"first_row_ms": 1000 * (time.monotonic() - run.begun_at)}
            stop_at = time.monotonic() + self._shape.big_s
            peak = 0

            def ended() -> bool:
                nonlocal peak
                peak = max(peak, peak_rss_bytes(run.pid))
                return run.ended

            wait_until(
                lambda: ended() or time.monotonic() >= stop_at,
                "the time of the stop",
                every_s=_LOOK_AT_PEAK_EVERY_S,
            )
            if not run.ended:
                begun = time.monotonic()
                run.send(signal.SIGINT)
                wait_until(ended, "the front's end")
                stop_ms = 1000 * (time.monotonic() - begun)
                if run.report()["stop"]:  # otherwise it had just ended by itself
                    found["stop_ms"] = stop_ms
            # after the report is written, the signal kills the front like any process
            if run.wait() not in (0, 128 + signal.SIGINT, -signal.SIGINT) or peak == 0:
                raise NotMeasuredError(f"the run failed before the stop: {run.said()}")
            found["peak_rss_mb"] = peak / _MB
            found["rows"] = run.report()["combos_done"]
        return found

    # -- runs ----------------------------------------------------------------

    def _command(self, axes: Axes, data: str, workers: int, strategy: str = STRATEGY) -> CommandRun:
        grid = [
            word
            for name, axis in axes.items()
            for word in ("--grid", f"{name}={axis[0]}:{axis[-1]}:{axis.step}")
        ]
        return self._workspace.command(
            *("--strategy", strategy, "--data", data, "--workers", str(workers)), *grid
        )

    def _run(self, axes: Axes, workers: int) -> Swept:
        with self._command(axes, self._data, workers) as run:
            code = run.wait()
            wall_s = time.monotonic() - run.begun_at
            if code != 0:
                raise NotMeasuredError(f"the run ended with {code}: {run.said()}")
            report = run.report()
        return Swept(report["combos_done"], wall_s, report["elapsed_s"])

    def _bare(self, axes: Axes, n: int) -> Swept:
        grid = Grid.of(axes)
        fork = bare_processes(self._bars, grid, STRATEGY, n)
        begun = time.monotonic()
        with fork() as plain:
            reap(plain)
        seconds = time.monotonic() - begun
        return Swept(grid.size, seconds, seconds)


def _axes_of(combos: float) -> Axes:
    """Return axes of about this many combinations, within what the indicator bank holds."""
    side = min(max(math.ceil(math.sqrt(combos)), _LEAST_SIDE), _MOST_SIDE)
    return {"fast": range(5, 5 + side), "slow": range(10 + side, 10 + 2 * side)}


def _against_peer(
    name: str, rates: list[float], theirs: list[Swept], floor: str, *, note: str, reason: str
) -> Row:
    """Compare our rates with a peer's; ``reason``: why it was not measured."""
    unit, target = "combos/s/core", Target(_PEER_TARGET, at_most=False)
    if reason:
        return Row(name, unit, target=target, not_measured=reason)
    return compare(
        name,
        unit,
        rates,
        [sweep.combos / sweep.wall_s for sweep in theirs],
        comparison=Comparison.RATIO,
        floor_name=floor,
        target=target,
        note=note,
    )


def _run_peer(listed: Listed, pairs: Sequence[Pair]) -> Swept:
    begun = time.monotonic()
    listed.peer.run(pairs)
    return Swept(len(pairs), time.monotonic() - begun)


def _pairs_across(axes: Axes, n: int) -> list[Pair]:
    """Return pairs spread evenly over the grid's diagonal, from short windows to long ones."""
    fast, slow = axes["fast"], axes["slow"]
    n = min(n, len(fast))
    places = [(len(fast) - 1) * i // max(1, n - 1) for i in range(n)]
    return [(fast[place], slow[place]) for place in places]


def _parquet(workspace: Workspace, name: str, n_bars: int) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bars = example_bars(n_bars)
    columns = {field: getattr(bars, field) for field in ("open", "high", "low", "close", "volume")}
    times = pa.array(bars.time, pa.timestamp("ns", "UTC"))
    path = workspace.root / f"{name}.parquet"
    pq.write_table(pa.table({"time": times, **columns}), path)
    return str(path)
