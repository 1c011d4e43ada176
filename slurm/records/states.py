"""SLURM's job states, grouped by what they mean for a stop.

References
----------
squeue(1), "JOB STATE CODES"; ``slurm/slurm.h``, ``enum job_states`` and the
``JOB_*`` flags.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """A job's state, as the controller shows it."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETING = "completing"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    GONE = "gone"
    """The controller does not list it any more, as some minutes after a job's end."""
    UNKNOWN = "unknown"
    """Not known, or a word that is not known here: it counts as alive."""

    @classmethod
    def of(cls, value: str) -> JobState:
        """Return a recorded state; one that a later version wrote is unknown here."""
        try:
            return cls(value)
        except ValueError:
            return cls.UNKNOWN

    @property
    def ended(self) -> bool:
        """Whether it has released its resources and will not start again by itself."""
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
    """Classify one of SLURM's long state names, as ``squeue -o %T`` prints it.

    A word that is not known means unknown: to call it ended would leave a ghost job.
    """
    return _STATES.get(word.split(" ", 1)[0].rstrip("+").upper(), JobState.UNKNOWN)
