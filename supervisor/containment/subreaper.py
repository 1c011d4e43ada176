"""Containment by a subreaper: needs no privilege and works in every container.

The warden is a subreaper, so every process that its workers leave behind, daemonised
and ``setsid`` ones included, becomes its own child, and "no child left" (ECHILD) means
"no descendant left". Workers ask the kernel to kill them when the warden dies.

Limit: when the warden itself is SIGKILLed, its grandchildren live on, because the
parent-death signal reaches direct children only. They are found by the run's cookie,
see :mod:`supervisor.containment.cookie`.

References
----------
prctl(2): ``PR_SET_CHILD_SUBREAPER``, ``PR_SET_PDEATHSIG``.
"""

from __future__ import annotations

import os

from supervisor.containment import Note, PassedOver
from supervisor.system import process


class Subreaper:
    """The weakest containment, and the one that is always available."""

    name = "subreaper"
    passed_over: tuple[PassedOver, ...] = ()

    def begin(self, run_id: str, note: Note) -> None:
        """Adopt every orphan below this process from now on."""
        process.become_subreaper()

    def prepare_worker(self, warden_pid: int) -> None:
        """Die with the warden.

        ``PR_SET_PDEATHSIG`` follows the thread that forked: hence the single-threaded warden.
        """
        process.die_with_parent(warden_pid)

    def signal_all(self, *numbers: int) -> int:
        """Signal every living descendant through a pidfd."""
        return process.signal_descendants(os.getpid(), *numbers)

    def living(self) -> list[int]:
        """Pids of all descendants that are not zombies."""
        return [
            pid
            for pid in process.descendants(os.getpid())
            if process.state_letter(pid) not in (None, "Z", "X")
        ]

    def outside(self, pid: int) -> int:
        """Return the pid itself: it is the same inside and outside."""
        return pid

    def end(self) -> None:
        """Do nothing: nothing was made."""
