"""How a run's processes are held together, so that none escapes a stop.

One strength a file, behind one protocol, strongest first: :mod:`pid_namespace`,
:mod:`cgroup`, :mod:`subreaper`. :mod:`choice` takes the strongest that works
here, or the one that was asked for; the run's report names it. What outlives
the warden all the same is found by :mod:`cookie` and cleared by :mod:`leftovers`.

What takes part in the choice imports the standard library and little else: the
warden chooses before it loads anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

Note = Callable[..., Any]
"""Writes a fact down before it is acted on: ``note("cgroup_made", path=…)``."""


class PassedOver(NamedTuple):
    """A stronger containment that was not to be had.

    Attributes
    ----------
    strength : str
        Its name.
    why, mend : str
        What was refused, and what the user can do about it.
    """

    strength: str
    why: str
    mend: str


class Containment(Protocol):
    """Holds every descendant of the warden within reach.

    Attributes
    ----------
    name : str
        As ``report.json`` and ``doctor`` name it.
    passed_over : tuple of PassedOver
        What would have been taken instead, strongest first.
    """

    name: str
    passed_over: tuple[PassedOver, ...]

    def begin(self, run_id: str, note: Note) -> None:
        """Called in the warden before it forks a run's first worker."""
        ...

    def prepare_worker(self, warden_pid: int) -> None:
        """Called in each worker right after the fork."""
        ...

    def signal_all(self, *numbers: int) -> int:
        """Send signals, in order, to every descendant; return how many were reached."""
        ...

    def living(self) -> list[int]:
        """Pids of the descendants that are still alive, as the warden knows them."""
        ...

    def outside(self, pid: int) -> int:
        """Pid by which the front and the user know the process that we know as ``pid``."""
        ...

    def end(self) -> None:
        """Called when the run is over; takes back what :meth:`begin` made."""
        ...
