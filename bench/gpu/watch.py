"""Watches a device get its memory back after a worker's end.

Two clocks that are independent of each other: the kernel says when the process is gone
(pidfd), the device how many bytes are used. A process list is a third, and asked rarely: it
takes milliseconds under a lock that everybody's allocations wait for.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from bench.harness.errors import NotMeasuredError

SLACK_BYTES = 32 * 2**20
"""What a device's used bytes may differ by although no process holds memory."""

_LIST_EVERY_S = 0.05
_SETTLED_READINGS, _SETTLED_EVERY_S, _SETTLED_BYTES = 15, 0.02, 2**20


class Device(Protocol):
    """What is asked of a device."""

    uuid: str

    def used_bytes(self) -> int:
        """Return the bytes used, without those the driver reserves."""
        ...

    def pids(self) -> list[int]:
        """Return the processes that the driver lists; empty where it lists none."""
        ...


@dataclass(frozen=True, slots=True)
class Release:
    """When what was back, in s since the request; NaN where it was not in time.

    Attributes
    ----------
    gone_s : float
        The last process had ended.
    baseline_s : float
        The device's used bytes were at their baseline.
    unlisted_s : float
        No process of ours was listed any more.
    left_bytes : int
        Used above the baseline when the watch ended.
    """

    gone_s: float
    baseline_s: float
    unlisted_s: float
    left_bytes: int

    def to_json(self) -> dict[str, float | None]:
        """Plain values; None where JSON has no NaN."""
        return {name: none_if_nan(value) for name, value in dataclasses.asdict(self).items()}


def none_if_nan(value: float) -> float | None:
    """Return the value, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


class Gone(Protocol):
    """A process whose end is awaited."""

    pid: int

    def gone(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, waiting for at most this long."""
        ...


def watch_release(
    device: Device,
    children: Sequence[Gone],
    baseline: int,
    begun: float,
    *,
    limit_s: float = 10.0,
    slack: int = SLACK_BYTES,
    clock: Callable[[], float] = time.monotonic,
) -> Release:
    """Watch until the processes are gone, unlisted, and the device is at its baseline.

    Parameters
    ----------
    device : Device
        Asked all the time.
    children : sequence of Gone
        The processes.
    baseline : int
        Bytes used before they were started.
    begun : float
        Time of the request, by ``clock``.
    limit_s : float
        When to give up, in s after the request.
    slack : int
        Bytes above the baseline that count as back.
    clock : callable, optional
        Replaced in tests.
    """
    at: dict[str, float] = {}
    ours = {child.pid for child in children}
    living = list(children)
    listed_at = -_LIST_EVERY_S
    used = baseline
    while len(at) < _WATCHED and clock() - begun < limit_s:
        living = [child for child in living if not child.gone()]
        if not living:
            at.setdefault("gone", clock() - begun)
        if living or "baseline" not in at:
            used = device.used_bytes()
            if used <= baseline + slack:
                at.setdefault("baseline", clock() - begun)
            else:  # it was killed while it still took memory
                at.pop("baseline", None)
        now = clock() - begun
        if not living and "unlisted" not in at and now - listed_at >= _LIST_EVERY_S:
            listed_at = now
            if not ours.intersection(device.pids()):
                at["unlisted"] = clock() - begun
    gone, back, unlisted = (at.get(name, math.nan) for name in ("gone", "baseline", "unlisted"))
    return Release(gone, back, unlisted, max(0, used - baseline))


_WATCHED = 3


def settled_bytes(
    device: Device,
    *,
    limit_s: float = 3.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Return the used bytes once they stay as they are; as they are then, after ``limit_s``."""
    deadline = clock() + limit_s
    seen: list[int] = []
    while len(seen) < _SETTLED_READINGS and clock() < deadline:
        used = device.used_bytes()
        seen = [*seen, used] if not seen or abs(used - seen[0]) < _SETTLED_BYTES else [used]
        sleep(_SETTLED_EVERY_S)
    return seen[-1] if seen else device.used_bytes()


class NvmlDevice:
    """A device as the front of a run sees it: through NVML, without a context."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        self.uuid = uuid

    @classmethod
    def first(cls) -> Self:
        """Open the first device.

        Raises
        ------
        NotMeasuredError
            If there is none.
        """
        from supervisor.system.nvml import Nvml
        from supervisor.system.nvml_errors import NvmlUnavailable

        try:
            nvml = Nvml.open()
            devices = nvml.devices()
        except NvmlUnavailable as error:
            raise NotMeasuredError(str(error)) from None
        if not devices:
            raise NotMeasuredError("NVML lists no device")
        return cls(nvml, devices[0].uuid)

    @property
    def total_bytes(self) -> int:
        """Bytes of the device."""
        return next(int(gpu.total_bytes) for gpu in self._nvml.devices() if gpu.uuid == self.uuid)

    def used_bytes(self) -> int:
        """Return the bytes used, without those the driver reserves."""
        return int(self._nvml.used_bytes(self.uuid))

    def pids(self) -> list[int]:
        """Return the processes that the driver lists."""
        return list(self.bytes_of())

    def bytes_of(self) -> dict[int, int | None]:
        """Return the bytes of each listed process; None where the driver does not tell."""
        return dict(self._nvml.processes(self.uuid).bytes_of)
