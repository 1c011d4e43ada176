"""The workforce of a run whose work is done elsewhere: it has no processes.

Such a run ends for its warden as soon as it has begun. But the warden outlives the front:
if the front dies before it has finished the run, the warden finishes it, so that cluster
jobs are cancelled, results collected and the report written.
"""

from __future__ import annotations

from supervisor.ipc import messages


class Guard:
    """No processes at all (see :class:`supervisor.warden.workforce.Workforce`)."""

    size = 0
    exhausted = True
    idle = True
    report_due = None

    def prepare(self) -> None:
        """Nothing to load."""

    def start(self) -> None:
        """Nothing to fork."""

    def report(self, *, force: bool = False) -> None:
        """No progress to report."""

    def ask_to_end(self) -> int:
        """No process to notify."""
        return 0

    def outlived(self) -> None:
        """No process of its own."""

    def reaped(self, pid: int, status: int) -> None:
        """No process of its own."""

    def status(self) -> messages.Status:
        """Nothing is counted here."""
        return messages.Status("", "", 0, 0, [])

    def dump(self) -> None:
        """No process of its own."""

    def close(self) -> None:
        """Nothing to release."""
