"""Turns: one of several contenders runs at a time, the others are suspended.

Disturbances of some seconds on a shared machine change the speed of a whole run by 10 %,
which is more than the differences measured here. Contenders that take turns of a second
are all disturbed alike.

Clocks run on for a suspended contender: its timers expire more often per unit of work, and
a chunk seems to take longer. So the overhead of a run is overstated, the more the shorter
the turns are.

SIGKILL of the benchmark may leave a contender suspended; SIGCONT resumes it.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from bench.harness.errors import NotMeasuredError
from bench.harness.processes import Watch
from bench.harness.workspace import wait_until

TURN_S = 1.0
_LIMIT_S = 600.0  # bounds a hang
_LOOK_EVERY_S = 0.01


class Running(Protocol):
    """The processes of a contender."""

    @property
    def leaders(self) -> list[int]:
        """Pids of the processes whose end is the contender's end."""
        ...

    def pids(self) -> list[int]:
        """Pids of all its current processes, parents first."""
        ...


R = TypeVar("R", bound=Running)


@dataclass
class Contender(Generic[R]):
    """One participant.

    Attributes
    ----------
    start : callable
        Starts its work, at its first turn.
    turn_s : float
        How long its turns are, in s; in proportion to its work, so that all end together.
    first_turn_until : callable
        The first turn lasts at least until this is true, so that no other contender runs
        while this one starts up.
    running : Running
        Its processes.
    turns : list of (float, float)
        When it ran: Unix times, in s.
    """

    start: Callable[[], R]
    turn_s: float = TURN_S
    first_turn_until: Callable[[R], bool] = lambda _: True
    running: R = field(init=False)
    turns: list[tuple[float, float]] = field(init=False, default_factory=list)

    def seconds(self, since: float = 0.0, until: float = math.inf) -> float:
        """Return how long it ran between two instants, in s."""
        return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in self.turns)


def take_turns(contenders: Sequence[Contender[Any]], limit_s: float = _LIMIT_S) -> None:
    """Run all contenders to their end, one at a time, in turns.

    None of their processes is left suspended, also after an error.

    Raises
    ------
    NotMeasuredError
        If one has not ended after `limit_s` of turns.
    """
    suspended: dict[int, Watch] = {}
    begun: list[Running] = []
    playing = dict(enumerate(contenders))
    try:
        while playing:
            for place, contender in tuple(playing.items()):
                begins = time.time()
                if contender.turns:
                    _resume(suspended.pop(place))
                else:
                    contender.running = contender.start()
                    begun.append(contender.running)
                    _await_beginning(contender)
                with Watch(contender.running.leaders) as leaders:
                    lives = leaders.living_after(contender.turn_s)
                if lives:
                    suspended[place], ends = _suspend(contender.running)
                else:
                    ends = time.time()
                    del playing[place]
                contender.turns.append((begins, ends))
                if lives and contender.seconds() > limit_s:
                    raise NotMeasuredError(f"not within {limit_s:g} s of turns: its end")
    finally:
        # a contender may have been suspended in part
        for watch in (*suspended.values(), *(Watch(running.pids()) for running in begun)):
            _resume(watch)


def _await_beginning(contender: Contender[Any]) -> None:
    running = contender.running
    with Watch(running.leaders) as leaders:
        wait_until(
            lambda: contender.first_turn_until(running) or not leaders.living_after(0.0),
            "a contender at work",
            every_s=_LOOK_EVERY_S,
        )


def _suspend(running: Running) -> tuple[Watch, float]:
    """Suspend all processes of a contender; return when that was, as Unix time.

    Processes that were forked while the others were listed are found by the next listing.
    """
    watch = Watch(running.pids())
    watch.send(signal.SIGSTOP)
    at = time.time()
    while fresh := [pid for pid in running.pids() if pid not in watch.pids]:
        watch.add(fresh)
        watch.send(signal.SIGSTOP)
    return watch, at


def _resume(watch: Watch) -> None:
    with watch:
        watch.send(signal.SIGCONT)
