"""Time from the end of a stop until the next run computes.

Each round starts a run, stops it, and times the next one. The floors are the start-up
times of plain Python programs.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from bench.harness.interleave import Arm, interleave
from bench.harness.record import Comparison, Row, Target, compare
from bench.harness.shape import Shape
from bench.harness.workspace import DEADLINE_S, Workspace
from bench.harness.zygote import GRID, STRATEGY, Zygote
from supervisor import sweep
from supervisor.front.link import release_wardens
from supervisor.market.bars import Bars
from supervisor.market.example import example_bars
from workers.numba_backtest import warm_up

TITLE = "Relaunch: from a stop's end to the next run's first result"

_COMMAND_TARGET_MS = 500.0
_PYTHON_TARGET_MS = 50.0
_WORKER_TARGET_MS = 10.0  # until it computes; what its first row takes depends on the work


def measure(shape: Shape, workspace: Workspace) -> list[Row]:
    """Time the next run after a stop, as a command and inside one process."""
    warm_up(STRATEGY)
    bench = _Bench(shape, workspace)
    with Zygote(workspace.root, shape.bars) as zygote, _no_warm_warden_left():
        arms: dict[str, Callable[[], float]] = {
            "command": bench.command,
            "python -c pass": partial(_python, "pass"),
            "import numba": partial(_python, "import numba"),
            "sweep": partial(bench.sweep, bench.bars),
            "sweep, example": partial(bench.sweep, None),
            "computing": zygote.computing,
            "worker": zygote.worker,
            "fork + wait": zygote.fork_and_wait,
        }
        seen = interleave(shape.relaunch_rounds, arms)
    bars = f"{shape.bars:,} bars"
    return [
        _row(
            seen,
            "command",
            "python -c pass",
            f"new command: {STRATEGY}, embedded example",
            target=_COMMAND_TARGET_MS,
        ),
        _row(seen, "import numba", "python -c pass", "for comparison: python -c 'import numba'"),
        _row(
            seen,
            "sweep",
            "fork + wait",
            f"sweep(…) again in one process, {bars} in memory",
            target=_PYTHON_TARGET_MS,
        ),
        _row(
            seen,
            "sweep, example",
            "fork + wait",
            "sweep(…) again in one process, embedded example made anew",
        ),
        _row(
            seen,
            "computing",
            "fork + wait",
            f"worker: fork → computing its first chunk, {bars}",
            target=_WORKER_TARGET_MS,
        ),
        _row(
            seen,
            "worker",
            "fork + wait",
            f"worker: fork → first row of {STRATEGY} in its journal",
        ),
    ]


@contextmanager
def _no_warm_warden_left() -> Iterator[None]:
    try:
        yield
    finally:
        release_wardens()


def _row(
    seen: dict[str, Arm[float]], arm: str, floor: str, name: str, *, target: float | None = None
) -> Row:
    """Make a row whose target, as promised, is for the whole time and not for the difference."""
    wanted = None if target is None else Target(target)
    reason = seen[arm].not_measured or seen[floor].not_measured
    if reason:
        return Row(name, "ms", target=wanted, not_measured=reason)
    ours = [1000 * took_s for took_s in seen[arm].seen]
    above = [1000 * took_s for took_s in seen[floor].seen]
    return compare(
        name,
        "ms",
        ours,
        above,
        comparison=Comparison.WHOLE,
        floor_name=floor,
        target=wanted,
        details={"above_floor_ms": [a - b for a, b in zip(ours, above, strict=True)]},
    )


class _Bench:
    def __init__(self, shape: Shape, workspace: Workspace) -> None:
        self._workspace = workspace
        self.bars = example_bars(shape.bars)

    def command(self) -> float:
        """Stop a run, then time the next command from its start to its first row."""
        self._run_and_stop()
        return self._run_and_stop()

    def _run_and_stop(self) -> float:
        axes = [f"{name}={r.start}:{r.stop}:{r.step}" for name, r in GRID.items()]
        grid = [word for axis in axes for word in ("--grid", axis)]
        with self._workspace.command("--strategy", STRATEGY, *grid) as run:
            run.first_rows()
            took_s = time.monotonic() - run.begun_at
            with run.watch() as gone:
                run.send(signal.SIGINT)
                gone.wait_gone(DEADLINE_S)
        return took_s

    def sweep(self, bars: Bars | None) -> float:
        """Stop a sweep, then time the next one from its call to its first row."""
        self._sweep_and_stop(bars)
        return self._sweep_and_stop(bars)

    def _sweep_and_stop(self, bars: Bars | None) -> float:
        begun = time.monotonic()
        with sweep(STRATEGY, GRID, bars, run_dir=self._workspace.new_run_dir()) as run:
            next(run.rows())
            took_s = time.monotonic() - begun
            run.stop()
        return took_s


def _python(code: str) -> float:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - begun
