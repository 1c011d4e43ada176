"""The progress of a run, and its display."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from supervisor.ipc.stopflag import Level
from supervisor.states import RunStatus

if TYPE_CHECKING:
    from supervisor.rows.grid import Value

_TICK_S = 0.25  # drawing a bar takes 3 ms


class Count(NamedTuple):
    """How many combinations of a run are done so far.

    Attributes
    ----------
    done, total : int
        Combinations that the strategy accepts; 0 of 0: there is nothing to count.
    failed : int
        Those of them that have failed in this attempt.
    best : (dict, float) or None
        Parameters and value of the best combination so far.
    """

    done: int = 0
    total: int = 0
    failed: int = 0
    best: tuple[dict[str, Value], float] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run.

    Attributes
    ----------
    status : RunStatus
        Where it is.
    done, total : int
        Combinations that the strategy accepts.
    failed : int
        Those of them that have failed, in this attempt.
    elapsed_s : float
        Since the first worker was forked, in s.
    ram_bytes : int
        Latest sample of what the run's processes hold.
    best : (dict, float) or None
        Parameters and value of the best combination so far.
    stop_level : Level or None
        The level of the stop that was requested.
    """

    status: RunStatus
    done: int
    total: int
    failed: int
    elapsed_s: float
    ram_bytes: int
    best: tuple[dict[str, Value], float] | None
    stop_level: Level | None


Tick = Callable[[Progress], None]
Say = Callable[[str], None]


def describe(progress: Progress) -> str:
    """One line about a sweep."""
    share = 100 * progress.done / max(1, progress.total)
    line = (
        f"{progress.status}: {progress.done:,} of {progress.total:,} combinations "
        f"({share:.1f} %), {progress.elapsed_s:.1f} s, {progress.ram_bytes / 2**20:,.0f} MB"
    )
    return line + (f", {progress.failed} failed" if progress.failed else "")


class Display:
    """Shows a run to the user, if there is a terminal or a callback to show it on.

    Parameters
    ----------
    on_tick : callable, optional
        Given the progress about four times a second.
    say : callable, optional
        Given lines: the status on SIGUSR1, stacks on SIGQUIT.
    """

    def __init__(self, on_tick: Tick | None = None, say: Say | None = None) -> None:
        self._on_tick = on_tick
        self._say = say
        self._next_tick = 0.0
        self._told = ""

    @property
    def due(self) -> float | None:
        """``time.monotonic()`` instant of the next tick; None: nothing displays it."""
        return self._next_tick if self._on_tick else None

    def tick(self, progress: Callable[[], Progress]) -> None:
        """Show the progress, if the next tick is due."""
        now = time.monotonic()
        if self._on_tick and now >= self._next_tick:
            self._next_tick = now + _TICK_S
            self._on_tick(progress())

    def show(self, progress: Progress) -> None:
        """Show the progress now."""
        if self._on_tick:
            self._on_tick(progress)

    def say(self, line: str) -> None:
        """Show a line."""
        if self._say:
            self._say(line)

    def say_once(self, line: str) -> None:
        """Show a line about the run, unless it is empty or the same as the last one."""
        if line and line != self._told:
            self._told = line
            self.say(f"allstop: {line}")
