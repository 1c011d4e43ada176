"""Pauses between two questions to a controller that has other things to do."""

from __future__ import annotations

import random
from collections.abc import Iterator

_GROWTH = 1.6
_JITTER = 0.2


def backoff(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield ever longer pauses, in s; a little different each, so that clients part company."""
    pause_s = first_s
    while True:
        yield pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)
        pause_s = min(longest_s, pause_s * _GROWTH)
