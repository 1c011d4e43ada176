"""How a run ended: one pure function of what was observed.

The front, the process that finishes a run in its place, the ``report`` command and the
Python API all ask :func:`verdict`, so status, reason and exit code of a run do not depend
on which of them writes the report. Two tables decide: one has a cell for each way in which
the work and the cluster jobs can end, the other for each state of the results.
"""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from supervisor.states import ExitCode, RunStatus
from supervisor.system.shape import read_as


class Work(StrEnum):
    """How the work on this machine ended."""

    DONE = "done"
    """Everything was computed, or the command ended with status 0."""
    ELSEWHERE = "elsewhere"
    """There was none on this machine: cluster jobs compute the sweep."""
    STOPPED = "stopped"
    """It was ended on request."""
    FAILED = "failed"
    """It could not start, or could not continue."""
    LOST = "lost"
    """Its end was not observed: the warden died."""


class Jobs(StrEnum):
    """How the run's cluster jobs ended."""

    SETTLED = "settled"
    """There were none, or none is left and none of those awaited failed."""
    FAILED = "failed"
    """None is left; some that were awaited failed."""
    CUT_SHORT = "cut_short"
    """allstop cancelled some of them."""
    REFUSED = "refused"
    """They could not be submitted."""
    UNGUARDED = "unguarded"
    """The warden died while they were awaited, so they were cancelled."""
    DETACHED = "detached"
    """They keep running, as requested."""


class Results(StrEnum):
    """The results of the combinations that the plan asks for."""

    WHOLE = "whole"
    """All are there, at least one succeeded; or the work has none to write."""
    MISSING = "missing"
    """Some combinations are in no journal."""
    UNWRITTEN = "unwritten"
    """``results.parquet`` could not be written."""
    ALL_FAILED = "all_failed"
    """All are there, and every combination failed."""


class Cause(StrEnum):
    """Which observation decided, so which reason is given."""

    NONE = "none"
    """Nothing went wrong and no stop was requested."""
    STOP = "stop"
    """A stop was requested."""
    WORK = "work"
    JOBS = "jobs"
    DETACHED = "detached"
    """Cluster jobs were left running on request."""
    MISSING = "missing"
    UNWRITTEN = "unwritten"
    ALL_FAILED = "all_failed"


@dataclass(frozen=True, slots=True)
class Observed:
    """What was observed of a run's end.

    Attributes
    ----------
    work, jobs, results
        How each of them ended.
    stop_reason : str
        Why a stop was requested; empty: none was.
    signal : int
        The last signal that requested a stop; 0: none did.
    work_reason, jobs_reason : str
        Explanations of how work and jobs ended.
    unwritten_reason : str
        Why ``results.parquet`` could not be written.
    missing : int
        Combinations that the plan asks for and that no journal holds.
    usage : bool
        What failed can be fixed by the user: an option, a file, a strategy.
    left : bool
        A process or a cluster job of the run was not seen to end.
    """

    work: Work
    jobs: Jobs = Jobs.SETTLED
    results: Results = Results.WHOLE
    stop_reason: str = ""
    signal: int = 0
    work_reason: str = ""
    jobs_reason: str = ""
    unwritten_reason: str = ""
    missing: int = 0
    usage: bool = False
    left: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Observed:
        """Rebuild what :meth:`to_json` gave; unknown keys are left out.

        Raises
        ------
        ValueError
            If it is not what :meth:`to_json` gave; names the field.
        """
        return read_as(cls, plain)


class Verdict(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    status : RunStatus
        ``completed``, ``stopped`` or ``failed``.
    reason : str
        Why it is not ``completed``; empty: it is.
    exit_code : int
        See :class:`~supervisor.states.ExitCode`.
    cause : Cause
        Which observation decided.
    """

    status: RunStatus
    reason: str
    exit_code: int
    cause: Cause


_COMPLETED = (RunStatus.COMPLETED, Cause.NONE)
_STOPPED = (RunStatus.STOPPED, Cause.STOP)
_WORK_FAILED = (RunStatus.FAILED, Cause.WORK)
_JOBS_FAILED = (RunStatus.FAILED, Cause.JOBS)
_LEFT_RUNNING = (RunStatus.STOPPED, Cause.DETACHED)

WORK_AND_JOBS: dict[tuple[Work, Jobs], tuple[RunStatus, Cause]] = {
    (Work.DONE, Jobs.SETTLED): _COMPLETED,
    (Work.DONE, Jobs.FAILED): _JOBS_FAILED,
    (Work.DONE, Jobs.CUT_SHORT): _STOPPED,
    (Work.DONE, Jobs.REFUSED): _JOBS_FAILED,
    (Work.DONE, Jobs.UNGUARDED): _JOBS_FAILED,
    (Work.DONE, Jobs.DETACHED): _COMPLETED,
    # the results tell whether the jobs have done the work: a job may fail and be run again
    (Work.ELSEWHERE, Jobs.SETTLED): _COMPLETED,
    (Work.ELSEWHERE, Jobs.FAILED): _COMPLETED,
    (Work.ELSEWHERE, Jobs.CUT_SHORT): _STOPPED,
    (Work.ELSEWHERE, Jobs.REFUSED): _JOBS_FAILED,
    (Work.ELSEWHERE, Jobs.UNGUARDED): _JOBS_FAILED,
    (Work.ELSEWHERE, Jobs.DETACHED): _LEFT_RUNNING,
    (Work.STOPPED, Jobs.SETTLED): _STOPPED,
    (Work.STOPPED, Jobs.FAILED): _STOPPED,
    (Work.STOPPED, Jobs.CUT_SHORT): _STOPPED,
    (Work.STOPPED, Jobs.REFUSED): _JOBS_FAILED,
    (Work.STOPPED, Jobs.UNGUARDED): _STOPPED,
    (Work.STOPPED, Jobs.DETACHED): _STOPPED,
    **{(Work.FAILED, jobs): _WORK_FAILED for jobs in Jobs},
    **{(Work.LOST, jobs): _WORK_FAILED for jobs in Jobs},
}
"""Status and cause, before the results are looked at."""

OF_COMPLETED: dict[Results, tuple[RunStatus, Cause]] = {
    Results.WHOLE: _COMPLETED,
    Results.MISSING: (RunStatus.FAILED, Cause.MISSING),
    Results.UNWRITTEN: (RunStatus.FAILED, Cause.UNWRITTEN),
    Results.ALL_FAILED: (RunStatus.FAILED, Cause.ALL_FAILED),
}
"""Status and cause of a run whose work and jobs are all done."""

OF_DETACHED: dict[Results, tuple[RunStatus, Cause]] = {
    **OF_COMPLETED,
    Results.MISSING: _LEFT_RUNNING,
}
"""The same, if jobs that compute were left running: what is missing will still be computed."""


def verdict(observed: Observed) -> Verdict:
    """Judge how a run ended."""
    status, cause = WORK_AND_JOBS[observed.work, observed.jobs]
    if cause is Cause.NONE:
        status, cause = OF_COMPLETED[observed.results]
    elif cause is Cause.DETACHED:
        status, cause = OF_DETACHED[observed.results]
    return Verdict(status, _reason(observed, cause), _exit_code(observed, status), cause)


def _reason(observed: Observed, cause: Cause) -> str:
    match cause:
        case Cause.NONE:
            return ""
        case Cause.STOP:
            return observed.stop_reason or observed.work_reason
        case Cause.WORK:
            return observed.work_reason or observed.stop_reason
        case Cause.JOBS:
            return observed.jobs_reason
        case Cause.DETACHED:
            return f"{observed.jobs_reason}; collect with allstop resume"
        case Cause.MISSING:
            return _missing(observed)
        case Cause.UNWRITTEN:
            return observed.unwritten_reason
        case Cause.ALL_FAILED:
            return "every combination failed; see the column 'error' in results.parquet"


def _missing(observed: Observed) -> str:
    if observed.work is Work.ELSEWHERE:
        why = observed.jobs_reason or "its jobs have ended"
        return (
            f"{observed.missing:,} combinations have no result ({why}): see logs/shard-*.log, "
            "and resume the run with allstop resume"
        )
    return (
        f"{observed.missing:,} combinations were computed, but are in no journal any more: "
        "resume the run with allstop resume"
    )


def _exit_code(observed: Observed, status: RunStatus) -> int:
    if observed.left:
        return ExitCode.INCOMPLETE
    if status is RunStatus.STOPPED:
        return ExitCode.from_signal(observed.signal or signal.SIGTERM)
    if status is RunStatus.FAILED:
        return ExitCode.USAGE if observed.usage else ExitCode.FAILED
    return ExitCode.DONE
