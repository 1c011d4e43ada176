"""Waiting for what is to come, under a deadline; never by sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 90.0
"""Far beyond what anything here takes on a machine with thirty times more to do than it can:
it only bounds a hang."""

_LOOK_EVERY_S = 0.002


def wait_for(
    condition: Callable[[], T],
    what: str,
    *,
    tell: Callable[[], str] = str,
    timeout_s: float = DEADLINE_S,
) -> T:
    """Return the first true value of ``condition``; fail with what ``tell`` knows."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}\n{tell()}")
        time.sleep(_LOOK_EVERY_S)
