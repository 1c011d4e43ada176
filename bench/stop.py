"""Time from the request to stop until no process is left.

The workers hold private memory and are inside a compiled kernel. The floor is SIGKILL and
wait on the same processes, forked plainly: no stop is faster, and this one loses results.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path

from bench.harness import workloads
from bench.harness.interleave import Arm, interleave
from bench.harness.machine import available_bytes
from bench.harness.processes import PlainProcesses, Watch
from bench.harness.record import Comparison, Row, Target, compare
from bench.harness.shape import Shape
from bench.harness.words import BEAT, PID
from bench.harness.workspace import DEADLINE_S, CommandRun, Workspace, wait_until
from supervisor import sweep
from supervisor.errors import AllstopError
from supervisor.front.link import release_wardens
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.example import example_bars
from supervisor.system import process

TITLE = "Stop: from the request until every process is gone"

FLOOR = "SIGKILL + wait"
_OVER_FLOOR_MS = 50.0
_MB = 2**20


@dataclass(frozen=True, slots=True)
class Stopped:
    """One stop as it was seen.

    Attributes
    ----------
    took_s : float
        From the request until the last process was gone.
    details : dict of str to float
        NaN: not seen.
    """

    took_s: float
    details: dict[str, float] = field(default_factory=dict)


def measure(shape: Shape, workspace: Workspace) -> list[Row]:
    """Stop a run in every way there is, in rounds with the floor."""
    workloads.load_kernels()
    workspace.hold(shape.hold_mb * _MB)
    bars = workspace.root / "few-bars.csv"
    _write_bars(bars)
    bench = _Bench(shape, workspace, str(bars))
    arms: dict[str, Callable[[], Stopped]] = {
        "floor": bench.floor,
        "polling": partial(bench.command, "polling"),
        "python": bench.python,
        "front killed": partial(bench.command, "polling", signal.SIGKILL),
        "deaf": partial(bench.command, "deaf"),
        "stubborn": partial(bench.command, "stubborn"),
        "front killed, stubborn": partial(bench.command, "stubborn", signal.SIGKILL),
    }
    try:
        seen = interleave(shape.stop_rounds, arms)
    finally:
        release_wardens()
    held = f"{shape.workers} × {shape.hold_mb:,} MB"
    row = partial(_row, seen, floor=seen["floor"])
    grace, terminate = 1000 * shape.grace_s, 1000 * shape.terminate_s
    return [
        row("polling", f"polling kernel, {held}, Ctrl+C"),
        row("python", f"polling kernel, {held}, run.stop()", note="until it has returned"),
        row(
            "front killed",
            f"polling kernel, {held}, kill -9 of the front",
            note="until the workers are gone; the warden then writes results and report",
        ),
        row(
            "deaf",
            f"deaf kernel, {held}, Ctrl+C",
            timers_ms=grace,
            note=f"less grace ({grace:g} ms), after which SIGTERM ends it",
        ),
        row(
            "stubborn",
            f"deaf kernel that ignores SIGTERM, {held}, Ctrl+C",
            timers_ms=grace + terminate,
            note=f"less grace + terminate ({grace + terminate:g} ms)",
        ),
        row(
            "front killed, stubborn",
            f"deaf kernel that ignores SIGTERM, {held}, kill -9 of the front",
            timers_ms=grace + terminate,
            note=f"until the workers are gone, less grace + terminate ({grace + terminate:g} ms)",
        ),
    ]


def _row(
    seen: dict[str, Arm[Stopped]],
    arm: str,
    name: str,
    *,
    floor: Arm[Stopped],
    timers_ms: float = 0.0,
    note: str = "",
) -> Row:
    target = Target(_OVER_FLOOR_MS)
    reason = seen[arm].not_measured or floor.not_measured
    if reason:
        return Row(name, "ms", target=target, not_measured=reason)
    details: dict[str, list[float]] = {}
    for stopped in seen[arm].seen:
        for key, value in stopped.details.items():
            details.setdefault(key, []).append(value)
    return compare(
        name,
        "ms",
        [1000 * stopped.took_s - timers_ms for stopped in seen[arm].seen],
        [1000 * stopped.took_s for stopped in floor.seen],
        comparison=Comparison.DIFFERENCE,
        floor_name=FLOOR,
        target=target,
        note=note,
        details=details,
    )


class _Bench:
    def __init__(self, shape: Shape, workspace: Workspace, bars: str) -> None:
        self._shape = shape
        self._workspace = workspace
        self._bars = bars
        self._slots = range(shape.workers)

    def floor(self) -> Stopped:
        """SIGKILL the same work in plain processes."""
        self._workspace.words.clear()
        bodies = [
            partial(workloads.polling, None, {"slot": slot}, StopFlag()) for slot in self._slots
        ]
        available = available_bytes()
        with PlainProcesses(bodies) as plain:
            self._wait_inside()
            took_s = plain.kill_and_wait()
        return Stopped(took_s, {"ram_missing_mb": _missing_mb(available)})

    def command(self, function: str, number: int = signal.SIGINT) -> Stopped:
        """Signal the front of a run that was started from the command line."""
        self._workspace.words.clear()
        available = available_bytes()
        with self._workspace.command(*self._arguments(function)) as run:
            self._wait_inside()
            # a front that was killed needs the warden to write its results and report
            with run.watch_workers() if number == signal.SIGKILL else run.watch() as gone:
                self._check_all_seen(gone)
                begun = time.monotonic()
                run.send(number)
                took_s = gone.wait_gone(DEADLINE_S) - begun
            missing_mb = _missing_mb(available)
            run.wait()
            return Stopped(took_s, {"ram_missing_mb": missing_mb} | _from_report(run))

    def python(self) -> Stopped:
        """Call ``run.stop()`` on a run that was started in this process."""
        self._workspace.words.clear()
        available = available_bytes()
        shape = self._shape
        with sweep(
            "bench.harness.workloads:polling",
            {"slot": self._slots},
            self._bars,
            workers=shape.workers,
            grace_s=shape.grace_s,
            terminate_s=shape.terminate_s,
            run_dir=self._workspace.new_run_dir(),
        ) as run:
            self._wait_inside()
            inside = {int(self._workspace.words.lines[slot, PID]) for slot in self._slots}
            below = process.descendants(os.getpid())
            pids = [pid for pid in below if process.own_pid(pid) in inside]
            with Watch(pids) as gone:
                begun = time.monotonic()
                report = run.stop()
                took_s = time.monotonic() - begun
                gone.wait_gone(0.0)
        memory = report.memory
        settled_s = memory.settled_s if memory else None
        return Stopped(
            took_s,
            {
                "ram_missing_mb": _missing_mb(available),
                "memory_settled_ms": nan if settled_s is None else 1000 * settled_s,
                "reported_ms": 1000 * report.stop.elapsed_s if report.stop else nan,
            },
        )

    def _arguments(self, function: str) -> list[str]:
        shape = self._shape
        return [
            *("--strategy", f"bench.harness.workloads:{function}"),
            *("--grid", f"slot=0:{shape.workers}"),
            *("--data", self._bars),
            *("--workers", str(shape.workers)),
            *("--grace", str(shape.grace_s)),
            *("--terminate", str(shape.terminate_s)),
        ]

    def _wait_inside(self) -> None:
        """Wait until every worker is inside its kernel: the kernels themselves count."""
        beats = self._workspace.words.lines[: self._shape.workers, BEAT]
        wait_until(lambda: bool((beats > 0).all()), "every worker inside its kernel")

    def _check_all_seen(self, watch: Watch) -> None:
        inside = {int(self._workspace.words.lines[slot, PID]) for slot in self._slots}
        if not inside <= set(map(process.own_pid, watch.pids)):
            raise AllstopError("a worker is not among its front's descendants")


def _from_report(run: CommandRun) -> dict[str, float]:
    report = run.report()
    settled_s = (report["memory"] or {}).get("settled_s")
    return {
        "memory_settled_ms": nan if settled_s is None else 1000 * settled_s,
        "reported_ms": 1000 * report["stop"]["elapsed_s"],
    }


def _missing_mb(available_before: int) -> float:
    """How much less memory there is than before, in MB; others come and go as well."""
    return (available_before - available_bytes()) / _MB


def _write_bars(path: Path) -> None:
    bars = example_bars(100)
    columns = ("time", "open", "high", "low", "close", "volume")
    lines = [",".join(columns)]
    for values in zip(*(getattr(bars, name).tolist() for name in columns), strict=True):
        lines.append(",".join(map(str, values)))
    path.write_text("\n".join(lines) + "\n")
