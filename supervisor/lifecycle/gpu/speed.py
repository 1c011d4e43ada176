"""What this machine's runs have measured, by which ``auto`` chooses a device.

A few numbers in a file of their own in the private cache directory, one file a machine: a home
directory may be shared by many. A file that is damaged, or of another version, is ignored and
written anew by the next measurement.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError
from supervisor.system import durable, private_dir

_VERSION = 1
_LONGEST_S = 3_600.0

_UNREADABLE = (
    ConfigError, OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError,
    OverflowError,  # a number of hundreds of digits
    RuntimeError,  # a user without a home directory
)  # fmt: skip

START_FACTOR = 1.5
"""A GPU is used where the CPU would take this many times as long as a GPU worker takes to start."""

LEAST_WORK = 200_000 * 525_600
"""Bars times combinations from which a GPU is expected to pay, where none was measured yet."""

BARS_PER_S = 10_000 * 525_600.0
"""Bars times combinations that one core computes in a second, where that was not measured."""


@dataclass(slots=True)
class DeviceSpeed:
    """Measurements of this machine.

    Attributes
    ----------
    gpu_start_s : float or None
        From the fork of a GPU worker until it is ready for its first chunk, in s.
    cpu_bars_per_s : dict of str to float
        Bars times combinations that one worker on the CPU computes in a second, by strategy.
    """

    gpu_start_s: float | None = None
    cpu_bars_per_s: dict[str, float] = field(default_factory=dict)

    def cpu_s(self, strategy: str, work: float, workers: int) -> float:
        """Estimate how long the CPU takes for ``work`` bars times combinations, in s."""
        return work / (self.cpu_bars_per_s.get(strategy, BARS_PER_S) * workers)


def _path() -> Path:
    machine = hashlib.blake2b(platform.node().encode(), digest_size=8).hexdigest()
    return private_dir.cache_home() / f"device-speed-{machine}.json"


def recall() -> DeviceSpeed:
    """Read this machine's measurements; those that cannot be read, or true, are left out."""
    found = DeviceSpeed()
    with contextlib.suppress(*_UNREADABLE):
        os.close(private_dir.open_dir(_path().parent))  # others may not say how fast we are
        plain: dict[str, Any] = durable.read_json(_path())
        if plain["version"] != _VERSION:
            return found
        start_s: Any = plain.get("gpu_start_s")
        if _positive(start_s) and start_s <= _LONGEST_S:
            found.gpu_start_s = float(start_s)
        for strategy, rate in plain.get("cpu_bars_per_s", {}).items():
            if _positive(rate):
                found.cpu_bars_per_s[str(strategy)] = float(rate)
    return found


def remember_gpu_start(seconds: float) -> None:
    """Remember how long a GPU worker took to start; a cache that cannot be written is left."""
    speed = recall()
    speed.gpu_start_s = seconds
    _write(speed)


def remember_cpu_rate(strategy: str, bars_per_s: float) -> None:
    """Remember how many bars times combinations one CPU worker computes in a second."""
    speed = recall()
    speed.cpu_bars_per_s[strategy] = bars_per_s
    _write(speed)


def _write(speed: DeviceSpeed) -> None:
    plain = {
        "version": _VERSION,
        "gpu_start_s": None if speed.gpu_start_s is None else round(speed.gpu_start_s, 3),
        "cpu_bars_per_s": {name: round(rate) for name, rate in speed.cpu_bars_per_s.items()},
    }
    with contextlib.suppress(OSError, RuntimeError, private_dir.UntrustedPlaceError):
        private_dir.make(_path().parent)
        durable.write_json(_path(), plain, named=False)


def _positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf  # type: ignore[operator]
