"""SLURM's names for what a job is doing, sorted by what they mean for a stop.

References
----------
squeue(1), "JOB STATE CODES"; ``slurm/slurm.h``, ``enum job_states`` and the
``JOB_*`` flags.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """What a job is doing, as far as the controller says."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETING = "completing"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    GONE = "gone"
    """The controller has forgotten it, as it does some minutes after a job's end."""
    UNKNOWN = "unknown"
    """Nobody could say, or in a word that we do not know: it counts as alive."""

    @classmethod
    def of(cls, value: str) -> JobState:
        """Return the state that was written down; a later version's is unknown here."""
        try:
            return cls(value)
        except ValueError:
            return cls.UNKNOWN

    @property
    def ended(self) -> bool:
        """Whether it holds nothing any more and never will again by itself."""
        return self in _ENDED


_ENDED = frozenset(
    {
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.PREEMPTED,
        JobState.GONE,
    }
)

_STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.RUNNING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.COMPLETING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "COMPLETING": JobState.COMPLETING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "COMPLETED": JobState.COMPLETED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "FAILED": JobState.FAILED,
    "BOOT_FAIL": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "DEADLINE": JobState.TIMEOUT,
    "TIMEOUT": JobState.TIMEOUT,
    "PREEMPTED": JobState.PREEMPTED,
}


def job_state(word: str) -> JobState:
    """Sort one of SLURM's long state names, as ``squeue -o %T`` gives it.

    A word that is not known stays unknown: to call it ended would leave a ghost.
    """
    return _STATES.get(word.split(" ", 1)[0].rstrip("+").upper(), JobState.UNKNOWN)
