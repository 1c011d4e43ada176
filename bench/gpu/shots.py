"""Stops of running kernels, requested by one process and timed in another.

The turn of the game is in shared words: neither side waits on a lock, and both sides read the
same clock (``CLOCK_MONOTONIC``).
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.gpu.children import BACK_NS, LOOPS, READY_NS, Child, Nursery
from bench.gpu.probe import spin
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare

SHOT_S = 5.0
"""No stop takes that long."""

_TURN = LOOPS
_BEGIN_S = 20.0


def tail_row(name: str, delays_us: Sequence[float], target: Target | None) -> Row:
    """Return a row whose headline is the 99th percentile, with all values beside it."""
    return compare(
        name,
        "µs",
        [p99_of(delays_us)],
        target=target,
        note=f"99th percentile of {len(delays_us):,}",
        details={"all_us": delays_us},
    )


def p99_of(values: Sequence[float]) -> float:
    """Return the 99th percentile.

    Examples
    --------
    >>> p99_of(range(101))
    99.0
    >>> p99_of([7.0])
    7.0
    """
    if len(values) == 1:
        return float(values[0])
    return statistics.quantiles(map(float, values), n=100, method="inclusive")[98]


def shoot(
    nursery: Nursery, body: str, shots: int, longest_s: float, **arguments: Any
) -> list[float]:
    """Have a worker run kernels, and stop each at a random moment.

    Parameters
    ----------
    nursery : Nursery
        Forks the worker.
    body : str
        Its ``module:function``; it takes ``shots`` and the arguments, and uses :class:`Turns`.
    shots : int
        Stops.
    longest_s : float
        A stop comes at most so long after the kernel has begun, in s.
    **arguments
        For the body.

    Returns
    -------
    list of float
        From each request to the end of the worker's wait, in µs.
    """
    dice = random.Random(1)
    flag, signs = nursery.flag, nursery.signs
    child = nursery.start(body, shots=shots, **arguments)
    delays_us: list[float] = []
    for turn in range(1, shots + 1):
        flag.clear()
        signs.put(0, _TURN, turn)
        _await(child, lambda turn=turn: child.sign(READY_NS) == turn, _BEGIN_S)  # type: ignore[misc]
        time.sleep(dice.uniform(0.0002, longest_s))
        flag.set()
        requested_at = flag.requested_at
        _await(child, lambda: child.sign(BACK_NS) != 0, SHOT_S)
        delays_us.append((child.sign(BACK_NS) / 1e9 - (requested_at or math.nan)) * 1e6)
        signs.put(0, BACK_NS, 0)
    if not child.gone(SHOT_S):
        raise NotMeasuredError("the worker has not ended")
    nursery.reap(child)
    return delays_us


def _await(child: Child, what: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        if child.gone(0.0001):
            raise NotMeasuredError("the worker has ended")
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"no sign of the worker within {limit_s:g} s")


class Turns:
    """A worker's side: iterate over the turns, and say when each is begun and over."""

    def __init__(self, nursery: Nursery, slot: int, shots: int) -> None:
        self._nursery = nursery
        self._slot = slot
        self._shots = shots
        self._turn = 0

    def __iter__(self) -> Iterator[int]:
        """Go on when it is this side's turn, with a flag that is not set."""
        signs = self._nursery.signs
        for turn in range(1, self._shots + 1):
            self._turn = turn
            spin(lambda turn=turn: signs.get(self._slot, _TURN) == turn, 30.0)  # type: ignore[misc]
            self._nursery.flag.rearm()
            yield turn

    def begun(self) -> None:
        """Say that it computes."""
        self._nursery.signs.put(self._slot, READY_NS, self._turn)

    def over(self) -> None:
        """Say that it has ended, just now."""
        self._nursery.signs.put(self._slot, BACK_NS, time.monotonic_ns())
