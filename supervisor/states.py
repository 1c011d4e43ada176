"""The status of a run, as `status` and reports show it, and the exit codes."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """A run as ``status`` and ``report.json`` name it."""

    STARTING = "starting"
    """The warden is making ready; no worker exists yet."""
    RUNNING = "running"
    """Workers compute."""
    STOPPING = "stopping"
    """A stop, a drain or the end of the work is under way."""
    COMPLETED = "completed"
    """Every combination has its row (or is recorded as failed); nothing is left running."""
    STOPPED = "stopped"
    """Ended on request; what was finished is in ``results.parquet``."""
    FAILED = "failed"
    """Could not go on; what was finished is in ``results.parquet``."""
    ELSEWHERE = "elsewhere"
    """Begun on another host, and not ended as far as its files tell."""
    DEAD = "dead"
    """Front and warden are gone without a report: they were killed, or the power failed."""

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
    """A process or a cluster job was not seen to end: survivors are listed."""

    @staticmethod
    def from_signal(number: int) -> int:
        """Exit code of a run stopped by a signal, as shells have it: 128 + N."""
        return 128 + number
