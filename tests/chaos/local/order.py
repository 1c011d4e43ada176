"""What a round asks of ``allstop``, the data and strategy for it, and the results to expect."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from tests.chaos.engine import ViolationError
from tests.chaos.local.marks import Marks
from tests.chaos.local.scenario import Scenario
from tests.chaos.local.workload import Behaviour, Hold, source
from tests.support.cli import Place
from tests.support.processes import COOKIE

VERIFY_S = 5.0

_BUILT_IN_BARS = 100_000  # so many that blows find built-in kernels at work


class Expected:
    """Results of runs that were left alone, each computed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._known: dict[tuple[bool, bool, int, int], tuple[bytes, int]] = {}

    def of(self, scenario: Scenario) -> tuple[bytes, int]:
        """Bytes of ``results.parquet``, and how many combinations fail."""
        with self._lock:
            if scenario.key not in self._known:
                self._known[scenario.key] = self._compute(scenario)
            return self._known[scenario.key]

    def _compute(self, scenario: Scenario) -> tuple[bytes, int]:
        root = self._root / f"expected-{len(self._known)}"
        root.mkdir()
        place = furnished(root, scenario, steady=True)
        marks = Marks(place)
        try:
            ended = place.command(*order(place, scenario, containment="auto"))
            if ended.returncode != 0:
                raise ViolationError(f"a run that is left alone fails: {ended}")
            failed = json.loads(ended.stdout.splitlines()[-1])["combos_failed"]
            return (root / "run" / "results.parquet").read_bytes(), failed
        finally:
            marks.close()
            place.clear()


def furnished(root: Path, scenario: Scenario, *, steady: bool = False) -> Place:
    """Make a place with the round's data and strategy."""
    place = Place(root)
    place.data.write_text(_walk(scenario.data) if scenario.built_in else _bars(scenario.data))
    behaviour, hold, step_s = scenario.behaviour, scenario.hold, scenario.step_s
    if steady:
        behaviour, hold, step_s = Behaviour.STEADY, Hold.NONE, 0.0
    text = source(behaviour, hold, step_s, fails=scenario.fails, cookie=COOKIE)
    (root / "strategy.py").write_text(text)
    return place


def order(place: Place, scenario: Scenario, *, containment: str) -> list[str]:
    """Arguments of ``allstop`` that begin the round's run, or resume it."""
    if scenario.built_in:
        what = ["sma_cross", "--grid", "fast=2:101", "--grid", f"slow=2:{1 + scenario.n // 100}"]
    else:
        what = [f"{place.root / 'strategy.py'}:f", "--grid", f"a=0:{scenario.n - 1}"]
    return [
        "run", "--resume", "--json", "--data", str(place.data), "--strategy", *what,
        "--workers", str(scenario.workers), "--containment", containment,
        "--grace", str(scenario.grace_s), "--terminate", str(scenario.terminate_s),
        "--verify", str(VERIFY_S), "--run-dir", str(place.root / "run"),
    ]  # fmt: skip


def _bars(number: int) -> str:
    lines = ["time,close"]
    lines += [f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,1.1{5 + number}" for i in range(30)]
    return "\n".join(lines) + "\n"


def _walk(number: int) -> str:
    lines, close = ["time,close"], 10_000
    for minute in range(_BUILT_IN_BARS):
        close += (minute * minute * 7919 + number * 104_729) % 11 - 5
        lines.append(f"{1_700_000_000 + 60 * minute},{close / 100:.2f}")
    return "\n".join(lines) + "\n"
