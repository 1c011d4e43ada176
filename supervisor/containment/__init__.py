"""How a run's processes are held together, so that none escapes a stop.

One strength a file, behind one protocol; the run's report names the one in use.
"""

from __future__ import annotations

from typing import Protocol


class Containment(Protocol):
    """Holds every descendant of the warden within reach.

    Attributes
    ----------
    name : str
        As ``report.json`` and ``doctor`` name it.
    """

    name: str

    def prepare_warden(self) -> None:
        """Called once in the warden, before it forks anything."""
        ...

    def prepare_worker(self, warden_pid: int) -> None:
        """Called in each worker right after the fork."""
        ...

    def signal_all(self, *numbers: int) -> int:
        """Send signals, in order, to every descendant; return how many were reached."""
        ...

    def living(self) -> list[int]:
        """Pids of the descendants that are still alive."""
        ...
