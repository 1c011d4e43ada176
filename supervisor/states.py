"""How a run can stand, as everybody else is told."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """A run as ``status`` and ``report.json`` name it."""

    STARTING = "starting"
    """The warden is making ready; no worker exists yet."""
    RUNNING = "running"
    """Workers compute."""
    STOPPING = "stopping"
    """A stop, a drain or the end of the work is being carried out."""
    COMPLETED = "completed"
    """Every combination has its row (or is recorded as failed); nothing is left running."""
    STOPPED = "stopped"
    """Ended on request; what was finished is in ``results.parquet``."""
    FAILED = "failed"
    """Could not go on; what was finished is in ``results.parquet``."""
    DEAD = "dead"
    """Nobody of ours is alive, and no report was written: killed, or the power went."""

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the run by itself."""
        return self in (RunStatus.COMPLETED, RunStatus.STOPPED, RunStatus.FAILED, RunStatus.DEAD)


class ExitCode:
    """Exit codes of the command line (a contract)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    """The stop was not complete: survivors are listed."""

    @staticmethod
    def from_signal(number: int) -> int:
        """Exit code of a run stopped by a signal, as shells have it: 128 + N."""
        return 128 + number
