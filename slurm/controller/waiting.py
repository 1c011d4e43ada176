"""Pauses between repeated calls to a busy controller."""

from __future__ import annotations

import random
from collections.abc import Iterator

_GROWTH = 1.6
_JITTER = 0.2


def backoff(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield growing pauses, in s, with jitter so that clients do not call in step."""
    pause_s = first_s
    while True:
        yield pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)
        pause_s = min(longest_s, pause_s * _GROWTH)
