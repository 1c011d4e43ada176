"""Containment: keeps every process of a run within reach, so that none escapes a stop.

One strength a file, behind one protocol, strongest first: :mod:`pid_namespace`,
:mod:`cgroup`, :mod:`subreaper`. :mod:`choice` takes the strongest one that works on
this machine, or the one that was requested; the run's report names it. Processes that
outlive the warden all the same are found by :mod:`cookie` and killed by :mod:`leftovers`.

The modules that take part in the choice import the standard library and little else:
the warden chooses before it loads anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

Note = Callable[..., Any]
"""Records a fact before it is acted on: ``note("cgroup_made", path=…)``."""


class PassedOver(NamedTuple):
    """A stronger containment that is not available.

    Attributes
    ----------
    strength : str
        Its name.
    why, fix : str
        What was refused, and what the user can do about it.
    """

    strength: str
    why: str
    fix: str


class Containment(Protocol):
    """Holds every descendant of the warden within reach.

    Attributes
    ----------
    name : str
        As ``report.json`` and ``doctor`` name it.
    passed_over : tuple of PassedOver
        Stronger ones that were tried before it, strongest first.
    """

    name: str
    passed_over: tuple[PassedOver, ...]

    def begin(self, run_id: str, note: Note) -> None:
        """Set up; called in the warden before it forks a run's first worker."""
        ...

    def prepare_worker(self, warden_pid: int) -> None:
        """Enter the containment; called in each worker right after the fork."""
        ...

    def signal_all(self, *numbers: int) -> int:
        """Send signals, in order, to every descendant; return how many received them."""
        ...

    def living(self) -> list[int]:
        """Pids of the descendants that are still alive, as the warden sees them."""
        ...

    def outside(self, pid: int) -> int:
        """Pid by which the front and the user know the process that the warden sees as ``pid``."""
        ...

    def end(self) -> None:
        """Remove what :meth:`begin` made; called when the run is over."""
        ...
