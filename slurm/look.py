"""Looks at a run's jobs: which of the user's jobs are ours, and in which state."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from slurm.controller.calls import ASK_TIMEOUT_S, Cluster
from slurm.controller.query import Row, jobs_of_user, restarts
from slurm.errors import SlurmError
from slurm.records.book import Keeper
from slurm.records.states import JobState
from slurm.records.tokens import bears, number_in_name

UNLIKELY_S = 5.0
"""Patience with a controller that does not answer, if no submission is known."""

_MISSED_S = 1.0

# message of a command if no cluster is configured at all
_NO_CLUSTER = "establish a configuration source"

# an array has the state of the task that matters most for a stop
_WEIGHT = {
    state: weight
    for weight, state in enumerate(
        (
            JobState.UNKNOWN,
            JobState.RUNNING,
            JobState.COMPLETING,
            JobState.PENDING,
            JobState.FAILED,
            JobState.TIMEOUT,
            JobState.CANCELLED,
            JobState.PREEMPTED,
            JobState.COMPLETED,
            JobState.GONE,
        )
    )
}


class Seen(NamedTuple):
    """One of the run's jobs; an array is one job.

    Attributes
    ----------
    job_id : str
        Its id.
    state : JobState
        Its state; for an array, that of the task that matters most.
    submitted_at : str
        Its time of submission, as the controller shows it.
    pending : bool
        Whether some of its tasks are pending.
    """

    job_id: str
    state: JobState
    submitted_at: str
    pending: bool


def look(cluster: Cluster, keeper: Keeper, timeout_s: float = ASK_TIMEOUT_S) -> list[Seen]:
    """Ask for the run's jobs, and record what is new.

    A known job that is not shown any more is gone: the controller forgets a job some
    minutes after its end, never before. But a job that was alive when last seen has to be
    missing from two looks: a controller that was just started may not have read all of its
    state yet.

    Raises
    ------
    SlurmError, TransportError
        If there was no answer; then nothing is concluded.
    """
    if not keeper.book.token:
        return []
    everything = _rows(cluster, keeper, timeout_s)
    rows = [row for row in everything if _ours(cluster, keeper, row, timeout_s)]
    _learn_numbers(keeper, rows)
    seen = _together(rows)
    doubtful = keeper.book.unproven & {row.job_id for row in everything}
    known = keeper.book.ids - {job.job_id for job in seen} - doubtful
    seen += [
        Seen(job_id, JobState.GONE, keeper.book.submitted_at.get(job_id, ""), pending=False)
        for job_id in sorted(known)
        if not keeper.book.states[job_id].ended and keeper.missed(job_id) >= _MISSED_S
    ]
    keeper.shown(job.job_id for job in seen)
    news = [
        (job.job_id, str(job.state), job.submitted_at)
        for job in seen
        if keeper.book.states.get(job.job_id) is not job.state
        or keeper.book.submitted_at.get(job.job_id) != job.submitted_at
    ]
    if news:
        keeper.remark("jobs_seen", jobs=news)
    return seen


def _rows(cluster: Cluster, keeper: Keeper, timeout_s: float) -> list[Row]:
    if keeper.book.submitted:
        return jobs_of_user(cluster, timeout_s)
    try:
        return jobs_of_user(cluster, min(timeout_s, UNLIKELY_S))
    except SlurmError as error:
        if _NO_CLUSTER in error.said:
            return []  # SLURM's commands are installed, but there is no cluster
        raise


def _ours(cluster: Cluster, keeper: Keeper, row: Row, timeout_s: float) -> bool:
    """Whether a job is the run's: by its token, or by its id and time of submission."""
    book = keeper.book
    if bears(book.token, wckey=row.wckey, name=row.name):
        return True
    # a job with a wckey of its own was registered by the shim. A controller that has lost its
    # state may reuse the id, but not with the same time of submission. An id alone proves
    # nothing; a requeue changes the time
    known = book.submitted_at.get(row.job_id)
    if known is None or row.state.ended or known == row.submitted_at:
        return known == row.submitted_at
    return row.job_id in book.registered and restarts(cluster, row.job_id, timeout_s) > 0


def _learn_numbers(keeper: Keeper, rows: list[Row]) -> None:
    """Find ids that a submitting process did not live to record."""
    for row in rows:
        number = number_in_name(row.name, keeper.book.token)
        submission = keeper.book.submissions.get(-1 if number is None else number)
        if submission and submission.open:
            keeper.remark("submitted", number=submission.number, job_id=row.job_id)


def _together(rows: list[Row]) -> list[Seen]:
    tasks: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        tasks[row.job_id].append(row)
    return [
        Seen(
            job_id,
            min((row.state for row in of_job), key=_WEIGHT.__getitem__),
            min(row.submitted_at for row in of_job),
            any(row.state is JobState.PENDING for row in of_job),
        )
        for job_id, of_job in tasks.items()
    ]
