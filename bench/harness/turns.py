"""Taking turns: of several contenders one runs at a time, the others are suspended.

What disturbs a shared machine for some seconds changes the speed of a whole run by
10 %, more than what is to be measured here. Contenders that take turns of a second are
all disturbed alike.

Clocks run on for who is suspended: what looks at them falls due more often than it does
otherwise, and a chunk seems to take longer than it does. So what a run costs beside its work
is overstated, the more the shorter the turns are.

Whoever SIGKILLs the benchmark may leave a contender suspended; SIGCONT resumes it.
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
    """What a contender has begun."""

    @property
    def leaders(self) -> list[int]:
        """Pids whose end is the contender's."""
        ...

    def pids(self) -> list[int]:
        """Pids of all its processes just now, parents first."""
        ...


R = TypeVar("R", bound=Running)


@dataclass
class Contender(Generic[R]):
    """Who takes part.

    Attributes
    ----------
    start : callable
        Begins its work, at its first turn.
    turn_s : float
        How long its turns are, in s; in proportion to its work, so that all end together.
    first_turn_until : callable
        The first turn ends no sooner than this says that it has begun in earnest: nobody else
        works on while one starts up.
    running : Running
        What was begun.
    turns : list of (float, float)
        When it was on: Unix times, in s.
    """

    start: Callable[[], R]
    turn_s: float = TURN_S
    first_turn_until: Callable[[R], bool] = lambda _: True
    running: R = field(init=False)
    turns: list[tuple[float, float]] = field(init=False, default_factory=list)

    def seconds(self, since: float = 0.0, until: float = math.inf) -> float:
        """How long it was on between two instants, in s."""
        return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in self.turns)


def take_turns(contenders: Sequence[Contender[Any]], limit_s: float = _LIMIT_S) -> None:
    """Let all contenders work to their end, one at a time, turn by turn.

    None of their processes is left suspended, whatever is raised.

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
        # one may have been suspended in part
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
    """Suspend all of it; return when that was, as Unix time.

    Who was forked while the others were listed is found at the next look.
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
