"""The workforce of a run whose work is done elsewhere: nobody.

Such a run ends for its warden as soon as it has begun. But the warden stays with its
front, and when that dies without having struck the run off, has it finished: cluster
jobs cancelled, results put together, report written.
"""

from __future__ import annotations

from supervisor.ipc import messages


class Guard:
    """Nobody works here (see :class:`supervisor.warden.workforce.Workforce`)."""

    size = 0
    exhausted = True
    idle = True
    report_due = None

    def prepare(self) -> None:
        """There is nothing to load."""

    def start(self) -> None:
        """There is nobody to fork."""

    def report(self, *, force: bool = False) -> None:
        """There is no progress here."""

    def ask_to_end(self) -> int:
        """There is nobody to ask."""
        return 0

    def outlived(self) -> None:
        """There is nobody."""

    def reaped(self, pid: int, status: int) -> None:
        """There is nobody."""

    def standing(self) -> messages.Status:
        """Nothing is known here."""
        return messages.Status("", "", 0, 0, [])

    def dump(self) -> None:
        """There is nobody."""

    def close(self) -> None:
        """There is nothing to let go of."""
