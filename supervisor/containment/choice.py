"""Chooses the strength of containment: the strongest that works, or the one requested."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.containment import Containment, PassedOver, cgroup, pid_namespace
from supervisor.containment.cgroup import Cgroup
from supervisor.containment.pid_namespace import PidNamespace
from supervisor.containment.subreaper import Subreaper
from supervisor.containment.unavailable import UnavailableError

STRENGTHS = (PidNamespace.name, Cgroup.name, Subreaper.name)
"""Strongest first."""

Introduce = Callable[[Containment, list[int]], None]
"""Introduces the warden to the front: its containment, and pidfds of failed attempts to reap."""


def contain(wanted: str, introduce: Introduce) -> Containment:
    """Enter a strength of containment, in the process that is to become the warden.

    For a PID namespace the calling process ends here, and a new process returns.

    Parameters
    ----------
    wanted : str
        One of :data:`STRENGTHS`, or ``auto``: the strongest that works.
    introduce : callable
        Called once, in the process that returns.

    Raises
    ------
    UnavailableError
        If the requested strength is not available.
    """
    spent: list[int] = []
    passed_over: list[PassedOver] = []
    for name in STRENGTHS if wanted == "auto" else (wanted,):
        try:
            taken = _take(name, introduce, spent)
        except UnavailableError as error:
            if error.spent is not None:
                spent.append(error.spent)
            if wanted != "auto":
                raise
            passed_over.append(PassedOver(name, error.why, error.fix))
        else:
            taken.passed_over = tuple(passed_over)
            return taken
    raise UnavailableError(f"no containment {wanted!r}", f"known: auto, {', '.join(STRENGTHS)}")


def _take(name: str, introduce: Introduce, spent: list[int]) -> Containment:
    if name == PidNamespace.name:
        return pid_namespace.enter(lambda entered: introduce(entered, spent))
    if name == Cgroup.name:
        made: Containment = cgroup.available()
    elif name == Subreaper.name:
        made = Subreaper()
    else:
        raise UnavailableError(f"no containment {name!r}", f"known: auto, {', '.join(STRENGTHS)}")
    introduce(made, spent)
    return made
