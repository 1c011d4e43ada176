"""Workers of CuPy and PyTorch killed at random moments; the device is at its baseline after each.

Four are killed at a time, each somewhere in what it does: in a kernel, an allocation, a copy, a
load of code, or its first use of the device. The plan is the same in every call, so a second
call makes the kills that the first one had no time for.
"""

from __future__ import annotations

import math
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from bench.gpu.activities import ACTIVITIES
from bench.gpu.children import LOOPS, Child, Nursery
from bench.gpu.release import warmed_up
from bench.gpu.step import Bench
from bench.gpu.watch import NvmlDevice, watch_release
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.system import process

PLANNED = 200

_SEED = 20261128
_LONGEST_DELAY_S = 0.15
_LONGEST_START_S = 1.0
_READY_S = 20.0
_WATCH_S = 10.0
_VOLLEY_S = 6.0

HARMLESS = frozenset({45})
"""Xids that only say that a channel of a killed process was removed."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One planned kill.

    Attributes
    ----------
    index : int
        Its place in the plan.
    library, activity : str
        Who is killed, doing what.
    delay_s : float
        How long after the worker says that it is inside.
    """

    index: int
    library: str
    activity: str
    delay_s: float


def plan(n: int = PLANNED, seed: int = _SEED) -> list[Kill]:
    """Return the kills: every library and activity equally often, in random order and moments."""
    dice = random.Random(seed)
    kinds = [ACTIVITIES[index % len(ACTIVITIES)] for index in range(n)]
    dice.shuffle(kinds)
    longest = {"start": _LONGEST_START_S}
    return [
        Kill(
            index,
            library,
            activity,
            round(dice.uniform(0, longest.get(activity, _LONGEST_DELAY_S)), 4),
        )
        for index, (library, activity) in enumerate(kinds)
    ]


def volleys(kills: Sequence[Kill], size: int) -> list[list[Kill]]:
    """Cut kills into groups that are made together."""
    return [list(kills[first : first + size]) for first in range(0, len(kills), size)]


def measure(bench: Bench) -> None:
    """Kill as many as fit into the time; each is on disk before the next begins."""
    record = bench.record
    first, last = bench.sizes.kills
    kills = plan()[first:last]
    xids = Xids()
    seen: list[dict[str, Any]] = []
    with _nurseries() as nurseries:
        device = NvmlDevice.first()
        usable = [nursery for nursery in nurseries.values() if isinstance(nursery, Nursery)]
        if not usable:
            record.rows([Row("kills at random moments", "", not_measured=str(nurseries))])
            return
        baseline = warmed_up(usable[0], device, record.fact)
        record.fact("planned", [first, last])
        for volley in volleys(kills, bench.sizes.parallel):
            if bench.left_s() < _VOLLEY_S:
                break
            seen += shoot(nurseries, device, volley, baseline)
            record.fact("kills", seen)
            record.fact("xids", xids.new())
            record.rows(rows_of(seen, record.finding.facts["xids"]))


class _nurseries:
    """A nursery for each library: one that cannot be imported is left out."""

    def __init__(self) -> None:
        self._made: dict[str, Nursery | str] = {}

    def __enter__(self) -> dict[str, Nursery | str]:
        for library in dict.fromkeys(library for library, _ in ACTIVITIES):
            try:
                self._made[library] = Nursery((library,))
            except NotMeasuredError as error:
                self._made[library] = str(error)
        return self._made

    def __exit__(self, *_: object) -> None:
        for nursery in self._made.values():
            if isinstance(nursery, Nursery):
                nursery.close()


def shoot(
    nurseries: dict[str, Nursery | str],
    device: NvmlDevice,
    volley: Sequence[Kill],
    baseline: int,
) -> list[dict[str, Any]]:
    """Start workers, kill each at its moment, and watch the device; return what was seen."""
    started: list[tuple[Kill, Nursery, Child]] = []
    seen: list[dict[str, Any]] = []
    for slot, kill in enumerate(volley):
        nursery = nurseries[kill.library]
        if isinstance(nursery, str):
            seen.append(asdict(kill) | {"why": nursery})
            continue
        child = nursery.start("activities:busy", slot, library=kill.library, activity=kill.activity)
        started.append((kill, nursery, child))
    ready = []
    for kill, nursery, child in started:
        try:
            child.wait_ready(time.monotonic() + _READY_S)
        except NotMeasuredError as error:
            child.send(signal.SIGKILL)
            seen.append(asdict(kill) | {"why": f"{error}; exit code {nursery.reap(child)}"})
        else:
            ready.append((kill, nursery, child))
    begun = time.monotonic()
    for kill, _, child in sorted(ready, key=lambda one: one[0].delay_s):
        time.sleep(max(0.0, begun + kill.delay_s - time.monotonic()))
        child.send(signal.SIGKILL)
    killed = time.monotonic()
    release = watch_release(
        device, [child for _, _, child in ready], baseline, killed, limit_s=_WATCH_S
    )
    for kill, nursery, child in ready:
        loops = child.sign(LOOPS)
        outcome: dict[str, Any] = {
            **release.to_json(), "loops": loops, "stuck": not child.gone(),
        }  # fmt: skip
        if child.gone():
            code = nursery.reap(child)
            outcome["exit_code"] = code
            if code != -signal.SIGKILL:
                outcome["why"] = f"it had ended by itself: {process.describe_exit(code)}"
        seen.append(asdict(kill) | outcome)
    return seen


def rows_of(seen: Sequence[dict[str, Any]], xids: Sequence[int] | None) -> list[Row]:
    """Return what the kills came to.

    Parameters
    ----------
    seen : sequence of dict
        One for each kill.
    xids : sequence of int or None
        Errors that the driver logged meanwhile; None: the log cannot be read.
    """
    made = [one for one in seen if "why" not in one]
    if not made:
        why = seen[0]["why"] if seen else "no time"
        return [Row("kills at random moments", "kills", not_measured=why)]
    at_baseline = [one for one in made if not _missing(one["baseline_s"])]
    rows = [
        compare("kills at random moments", "kills", [len(made)]),
        _count("after which the device is not at its baseline", len(made) - len(at_baseline)),
        _count("after which a process is left", sum(_missing(one["gone_s"]) for one in made)),
    ]
    if at_baseline:
        took_ms = [1000 * one["baseline_s"] for one in at_baseline]
        rows.append(compare("kill → the device at its baseline", "ms", took_ms))
    name = "errors in the driver's log that matter"
    if xids is None:
        rows.append(Row(name, "", target=Target(0), not_measured="the log cannot be read"))
    else:
        rows.append(_count(name, sum(xid not in HARMLESS for xid in xids)))
    return rows


def _count(name: str, n: int) -> Row:
    return compare(name, "", [n], target=Target(0))


def _missing(seconds: float | None) -> bool:
    return seconds is None or math.isnan(seconds)


class Xids:
    """The driver's errors in the kernel's log since this object was made."""

    def __init__(self) -> None:
        self._before = len(xids_in(_kernel_log() or ""))

    def new(self) -> list[int] | None:
        """Return the numbers of the errors since then; None: the log cannot be read."""
        log = _kernel_log()
        return None if log is None else xids_in(log)[self._before :]


def xids_in(log: str) -> list[int]:
    """Return the numbers of the driver's errors in a kernel log.

    Examples
    --------
    >>> xids_in("[1.0] NVRM: Xid (PCI:0000:01:00): 45, pid=7, name=python, Ch 00000008")
    [45]
    """
    return [int(number) for number in re.findall(r"NVRM: Xid \([^)]*\): (\d+)", log)]


def _kernel_log() -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=5, check=False)
        if done.returncode == 0:
            return done.stdout
    return None


def merged(calls: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the kills of several calls, each planned kill once, in the plan's order."""
    by_index = {one["index"]: one for call in calls for one in call}
    return [by_index[index] for index in sorted(by_index)]
