"""Options that a user gives, each checked on its own."""

from __future__ import annotations

import os

from supervisor.errors import ConfigError
from supervisor.records.plan import CONTAINMENTS

MAX_WORKERS = 1024
DEVICES = "auto, cpu"


def check_workers(workers: int | None) -> int:
    """Return the number of workers to use: as asked, or one per usable core.

    Raises
    ------
    ConfigError
        If it is not between 1 and :data:`MAX_WORKERS`.
    """
    if workers is None:
        return min(usable_cores(), MAX_WORKERS)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(
            f"workers must be at least 1, not {workers!r}; leave it out for one per core",
            key="workers",
        )
    if workers > MAX_WORKERS:
        raise ConfigError(f"workers must be at most {MAX_WORKERS}, not {workers}", key="workers")
    return workers


def check_fee(fee: float) -> float:
    """Return the fee, or raise :class:`ConfigError` unless 0 ≤ fee < 1."""
    if isinstance(fee, bool) or not isinstance(fee, (int, float)) or not 0 <= fee < 1:
        raise ConfigError(
            f"fee is a fraction of the traded value, 0 ≤ fee < 1 (0.0005 is 5 bps), not {fee!r}",
            key="fee",
        )
    return float(fee)


def check_device(device: str) -> str:
    """Return the device, or raise :class:`ConfigError` when it cannot be used."""
    if device in ("auto", "cpu"):
        return device
    if device == "cuda" or (device.startswith("cuda:") and device[5:].isdigit()):
        raise ConfigError(
            f"device {device!r}: the built-in strategies compute on the CPU so far "
            f"(known: {DEVICES}); a strategy function of your own may use the GPU itself",
            key="device",
        )
    raise ConfigError(f"device {device!r} is unknown; known: {DEVICES}", key="device")


def check_containment(containment: str) -> str:
    """Return the containment, or raise :class:`ConfigError` when there is none of that name."""
    if containment not in CONTAINMENTS:
        known = ", ".join(CONTAINMENTS)
        raise ConfigError(
            f"containment {containment!r} is unknown; known: {known}", key="containment"
        )
    return containment


def usable_cores() -> int:
    """Cores this process may use: its affinity mask, not the machine's size."""
    return len(os.sched_getaffinity(0))
