"""Waiting for conditions under a deadline, never by sleeping and hoping; the times tests share."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 90.0
"""Far beyond what anything here takes on a machine with thirty times more to do than it can:
it only bounds a hang."""

LONG_S = 200.0
"""The same for an end that is preceded by timeouts of SLURM, or by many jobs."""

SHORT_MARGIN_S = "0.5"
"""For ``ALLSTOP_MARGIN_S``, in tests that wait until a silent warden is killed."""

_LOOK_EVERY_S = 0.002
_LOOK_AT_LEAST_EVERY_S = 0.02
"""Looks become rarer during a wait: many of them read all of ``/proc`` or ask SLURM."""


def wait_for(
    condition: Callable[[], T],
    what: str,
    *,
    tell: Callable[[], str] = str,
    timeout_s: float = DEADLINE_S,
) -> T:
    """Return the first true value of ``condition``; fail with what ``tell`` knows."""
    deadline = time.monotonic() + timeout_s
    pause_s = _LOOK_EVERY_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}\n{tell()}")
        time.sleep(pause_s)
        pause_s = min(1.1 * pause_s, _LOOK_AT_LEAST_EVERY_S)


def until(
    condition: Callable[[], object], timeout_s: float, every_s: float = _LOOK_EVERY_S
) -> bool:
    """Wait for a condition that may never hold; return whether it did."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        let_pass(every_s)
    return True


def let_pass(seconds: float) -> None:
    """Let a random instant pass: it was drawn, and synchronises nothing."""
    select.select([], [], [], seconds)
