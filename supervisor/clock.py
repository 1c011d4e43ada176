"""Time as a parameter, so that whoever decides can be tested without waiting."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Something that tells monotonic time."""

    def now(self) -> float:
        """Seconds since an arbitrary, fixed instant."""
        ...


class MonotonicClock:
    """``CLOCK_MONOTONIC``: the same instant in every process of this machine."""

    def now(self) -> float:
        """Seconds since boot."""
        return time.monotonic()
