"""How soon a device's memory is back, by how much was held and how the worker ended."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.gpu.children import BACK_NS, Nursery
from bench.gpu.sizes import GB, Sizes, fitting
from bench.gpu.step import Bench
from bench.gpu.watch import NvmlDevice, none_if_nan, settled_bytes, watch_release
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Comparison, Row, Target, compare

_GOAL = 1.1
_READY_S = 30.0
_WATCH_S = 20.0
_FLOOR = "SIGKILL"


class Way(NamedTuple):
    """A way for a worker to end.

    Attributes
    ----------
    name : str
        For tables.
    kernel : str
        What runs meanwhile: ``polling``, ``deaf`` or ``idle``.
    number : int
        The signal; 0: the stop flag.
    leave : str
        What the worker does once its kernel is back, see :func:`bench.gpu.activities.hold`.
    """

    name: str
    kernel: str
    number: int = 0
    leave: str = "exit"


WAYS = (
    Way("SIGKILL", "polling", signal.SIGKILL),
    Way("flag, then _exit", "polling"),
    Way("flag, free, reset, then _exit", "polling", leave="free"),
    Way("SIGTERM", "polling", signal.SIGTERM),
)
DEAF_WAYS = (
    Way("deaf kernel, SIGKILL", "deaf", signal.SIGKILL),
    Way("deaf kernel, SIGTERM", "deaf", signal.SIGTERM),
    Way("no kernel, SIGKILL", "idle", signal.SIGKILL),
    Way("no kernel, SIGTERM", "idle", signal.SIGTERM),
)


@dataclass(frozen=True, slots=True)
class Ending:
    """One worker to be ended.

    Attributes
    ----------
    way : Way
        How.
    hold_gb, pinned_gb : int
        What it holds, in GB: VRAM, and pinned host memory.
    """

    way: Way
    hold_gb: int
    pinned_gb: int = 0

    @property
    def group(self) -> str:
        """Name of the row that it belongs to."""
        pinned = f" and {self.pinned_gb} GB pinned" if self.pinned_gb else ""
        return f"{self.hold_gb} GB{pinned}: {self.way.name}"

    @property
    def floor(self) -> str:
        """Name of the row that it is compared with."""
        return Ending(WAYS[0], self.hold_gb).group


def endings(sizes: Sizes, hold_gb: Sequence[int]) -> Iterator[Ending]:
    """Plan the endings, ways alternating: whatever disturbs the machine disturbs all alike."""
    for _ in range(sizes.endings):
        for size in hold_gb:
            yield from (Ending(way, size) for way in WAYS)
    yield Ending(WAYS[1], hold_gb[0], sizes.pinned_gb)
    yield Ending(WAYS[0], hold_gb[0], sizes.pinned_gb)
    deaf_gb = min(sizes.deaf_gb, max(hold_gb))
    for _ in range(sizes.endings):
        yield from (Ending(way, deaf_gb) for way in DEAF_WAYS)


def measure(bench: Bench) -> None:
    """End workers in all ways; every one is on disk before the next begins."""
    record = bench.record
    seen: list[dict[str, Any]] = []
    with Nursery(("cupy",)) as nursery:
        # only now: what NVML opens would be inherited by the workers
        device = NvmlDevice.first()
        free = device.total_bytes - device.used_bytes()
        hold_gb = fitting(bench.sizes.hold_gb, free)
        record.fact("hold_gb", hold_gb)
        planned = list(endings(bench.sizes, hold_gb))
        baseline = warmed_up(nursery, device, record.fact)
        for ending in planned:
            if bench.left_s() < _longest_s(ending):
                record.fact("left_out", f"{len(planned) - len(seen)} of {len(planned)}: no time")
                break
            seen.append(end_one(nursery, device, ending, baseline))
            record.fact("endings", seen)
            record.rows(rows_of(seen))


def warmed_up(nursery: Nursery, device: NvmlDevice, note: Callable[[str, Any], None]) -> int:
    """Have one worker use the device and be killed; return the used bytes after that.

    What a driver keeps once it has been used, and kernels compiled for the first time, belong
    to no ending that is measured.
    """
    note("baseline_before_first_use_bytes", settled_bytes(device))
    hold: dict[str, Any] = {"hold_gb": 1, "pinned_gb": 0, "kernel": "polling", "leave": "exit"}
    child = nursery.start("activities:hold", **hold)
    with suppress(NotMeasuredError):
        child.wait_ready(time.monotonic() + _READY_S)
    child.send(signal.SIGKILL)
    nursery.reap(child)
    baseline = settled_bytes(device)
    note("baseline_bytes", baseline)
    return baseline


def _longest_s(ending: Ending) -> float:
    return 4.0 + 0.05 * ending.hold_gb + 0.5 * ending.pinned_gb


def end_one(nursery: Nursery, device: NvmlDevice, ending: Ending, baseline: int) -> dict[str, Any]:
    """End one worker; return what was seen, or why nothing was."""
    way = ending.way
    nursery.flag.clear()
    child = nursery.start(
        "activities:hold",
        hold_gb=ending.hold_gb,
        pinned_gb=ending.pinned_gb,
        kernel=way.kernel,
        leave=way.leave,
    )
    plain: dict[str, Any] = {"group": ending.group, "floor": ending.floor}
    try:
        child.wait_ready(time.monotonic() + _READY_S)
    except NotMeasuredError as error:
        child.send(signal.SIGKILL)
        return plain | {"why": f"{error}; exit code {nursery.reap(child)}"}
    held = device.used_bytes() - baseline
    begun = time.monotonic()
    if way.number:
        child.send(way.number)
    else:
        nursery.flag.set()
    seen = watch_release(device, [child], baseline, begun, limit_s=_WATCH_S)
    back_ns = child.sign(BACK_NS)
    if not child.gone():
        child.send(signal.SIGKILL)
    code = nursery.reap(child)
    back_s = back_ns / 1e9 - begun if back_ns else math.nan
    return (
        plain
        | seen.to_json()
        | {"back_s": none_if_nan(back_s), "held_bytes": held, "exit_code": code}
    )


def rows_of(seen: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row for each way and size: time to the baseline against SIGKILL alone.

    The rest of what was seen is in the details, in ms.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in seen:
        groups.setdefault(one["group"], []).append(one)
    rows = []
    for name, ones in groups.items():
        whole = [one for one in ones if "why" not in one]
        if not whole:
            rows.append(Row(name, "ms", not_measured=ones[0]["why"]))
            continue
        times = {key: _ms(whole, key) for key in ("back_s", "gone_s", "baseline_s", "unlisted_s")}
        floor = _ms([one for one in groups.get(ones[0]["floor"], []) if "why" not in one])
        held = max(one["held_bytes"] for one in whole) / GB
        rows.append(_row(name, times, floor, held))
    return rows


def _row(name: str, times: dict[str, list[float]], floor: list[float], held_gb: float) -> Row:
    missing = sum(math.isnan(ms) for ms in times["baseline_s"])
    if missing:
        why = f"not at its baseline {missing} times of {len(times['baseline_s'])}"
        return Row(name, "ms", not_measured=why)
    is_floor = name.endswith(f"GB: {_FLOOR}")
    by_flag = name.endswith(": flag, then _exit") and "pinned" not in name
    details = {
        "kernel_back_ms": times["back_s"],
        "process_gone_ms": times["gone_s"],
        "at_baseline_ms": times["baseline_s"],
        "unlisted_ms": times["unlisted_s"],
        "held_gb": [held_gb],
    }
    if is_floor or not floor or any(map(math.isnan, floor)):
        return compare(name, "ms", times["baseline_s"], details=details)
    return compare(
        name,
        "ms",
        times["baseline_s"],
        floor,
        comparison=Comparison.RATIO,
        floor_name=_FLOOR,
        target=Target(_GOAL) if by_flag else None,
        details=details,
    )


def _ms(ones: Sequence[dict[str, Any]], key: str = "baseline_s") -> list[float]:
    # JSON has no NaN: read back from a file, it is None
    return [math.nan if one[key] is None else 1000 * one[key] for one in ones]
