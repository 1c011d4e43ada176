"""Cancels a run's jobs, and looks until they are gone.

``scancel`` exits with 0 for unknown ids, a requeue may restart a job that it has
cancelled, and a job whose submission timed out may appear only later. So its answer is
ignored: the jobs are looked at, those alive are cancelled again, and the end is a look
that finds none.

A job is cancelled only if a look has just shown that it has the run's token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from slurm.controller.calls import ASK_TIMEOUT_S, Cluster
from slurm.controller.waiting import backoff
from slurm.look import UNLIKELY_S, Seen, look
from slurm.records.absence import Absence, settle_s
from slurm.records.book import Keeper
from slurm.records.outcome import JobOutcome, outcomes
from slurm.records.states import JobState
from supervisor.errors import AllstopError

PATIENCE_S = 60.0

_IDS_PER_CALL = 500
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_SHORTEST_CALL_S = 1.0

# an sbatch outlives the process that called it, and may be waiting for munge or the controller:
# while one lives that would submit with our token, no look is the last one
_END_SUBMITTERS = """\
for environ in /proc/[0-9]*/environ; do
  pid=${environ#/proc/}; pid=${pid%/environ}
  case $(cat "/proc/$pid/comm" 2>/dev/null) in sbatch|srun|salloc) ;; *) continue ;; esac
  grep -qzxF "SBATCH_WCKEY=$1" "$environ" 2>/dev/null && kill -KILL "$pid"
done 2>/dev/null
exit 0
"""


class Cancelled(NamedTuple):
    """The result of a cancel.

    Attributes
    ----------
    jobs : list of JobOutcome
        Each job that was to be cancelled.
    error : str or None
        Why the cancel is incomplete; jobs that are left stay in the ledger.
    calls : int
        How often ``scancel`` was called.
    """

    jobs: list[JobOutcome]
    error: str | None
    calls: int

    @property
    def complete(self) -> bool:
        """Whether every job was seen gone."""
        return all(job.verified for job in self.jobs) and self.error is None


def cancel(
    cluster: Cluster,
    keeper: Keeper,
    ids: Iterable[str] = (),
    *,
    grace_s: float = 0.0,
    patience_s: float | None = None,
    pause: Callable[[float], bool] | None = None,
    quiet: Callable[[], bool] | None = None,
) -> Cancelled:
    """Cancel jobs and see them gone.

    Parameters
    ----------
    cluster : Cluster
        The cluster that has them.
    keeper : Keeper
        The run's book; the request is recorded before the first call.
    ids : iterable of str
        Which jobs; none: all that have the token, whichever process submitted them.
    grace_s : float
        Time for running jobs between SIGTERM and the cancel, in s. With 0 they have the
        cluster's ``KillWait``.
    patience_s : float
        How long to keep trying, in s; default: a minute, or much less if no submission is
        known.
    pause : callable, optional
        Waits for the given seconds; True: give up now. Jobs that are left stay outstanding.
    quiet : callable, optional
        Whether every process that could submit more has ended; until then no look is the last.
    """
    wanted = set(map(str, ids))
    keeper.remark("cancel_wanted", ids=sorted(wanted))
    if patience_s is None:
        patience_s = PATIENCE_S if keeper.book.submitted else UNLIKELY_S
    now = time.monotonic()
    deadline = now + patience_s
    soft_until = now + grace_s if grace_s else 0.0
    attempt = _Attempt(cluster, keeper, wanted, soft_until, deadline, quiet or _always)
    error: str | None = None
    pauses = backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
    while True:
        try:
            error = None
            if attempt.once():
                break
        except AllstopError as failure:
            error = str(failure)
            if not failure.transient:
                break
        pause_s = next(pauses)
        if time.monotonic() + pause_s > deadline:
            error = error or attempt.complaint or f"not gone after {patience_s:g} s"
            break
        if (pause or _sleep)(pause_s):
            error = error or "given up before they were seen gone"
            break
    if error is None and (strangers := wanted - keeper.book.ids):
        error = f"not a job of this run: {', '.join(sorted(strangers))}"
    return Cancelled(outcomes(keeper.book, wanted), error, attempt.calls)


class _Attempt:
    """A cancel under way."""

    def __init__(
        self,
        cluster: Cluster,
        keeper: Keeper,
        wanted: set[str],
        soft_until: float,
        deadline: float,
        quiet: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._keeper = keeper
        self._wanted = wanted
        self._soft_until = soft_until
        self._deadline = deadline
        self._quiet = quiet
        self._signalled: set[str] = set()
        self._absence = Absence()
        self._ended_submitters = False
        self.calls = 0
        self.complaint: str | None = None

    def once(self) -> bool:
        """Look, and cancel the jobs that are alive; True: no job is left."""
        quiet = self._quiet()  # read before the look, which then shows all there will ever be
        self._keeper.catch_up()
        self._absence.look_begins()
        alive = [job for job in self._look() if not job.state.ended]
        if alive:
            self._absence.found_some()
            self._send(alive)
            return False
        return quiet and self._settled()

    def _look(self) -> list[Seen]:
        seen = look(self._cluster, self._keeper, self._timeout_s)
        return [job for job in seen if not self._wanted or job.job_id in self._wanted]

    def _settled(self) -> bool:
        if self._wanted:
            return not self._wanted.intersection(self._keeper.book.alive)
        book = self._keeper.book
        if doubtful := book.unproven.intersection(book.alive):
            self.complaint = (
                f"job {min(doubtful)} has no token, and its time of submission is not known: "
                "it may be a job of another run, and is left alone"
            )
        if book.alive:  # not shown to be ours, or missing from one look only
            return False
        if (book.open or book.others) and not self._ended_submitters:
            self._end_submitters(book.token)
        if not self._absence.found_none(settle_s(book, cut_short=True)):
            return False
        self._keeper.remark("jobs_settled")
        return True

    @property
    def _timeout_s(self) -> float:
        """Time limit for one call, in s: no longer than what is left."""
        return min(ASK_TIMEOUT_S, max(_SHORTEST_CALL_S, self._deadline - time.monotonic()))

    def _end_submitters(self, token: str) -> None:
        """Kill programs that are about to submit a job with our token."""
        self._cluster.ask("sh", "-c", _END_SUBMITTERS, "sh", token, timeout_s=self._timeout_s)
        self._ended_submitters = True

    def _send(self, alive: Sequence[Seen]) -> None:
        soft = time.monotonic() < self._soft_until
        # cancelling a completing job again does nothing; an array of which some tasks complete may
        # have others that are pending
        hard = [
            job.job_id
            for job in alive
            if job.pending or not (soft or job.state is JobState.COMPLETING)
        ]
        gentle = [
            job.job_id
            for job in alive
            if soft
            and job.state in (JobState.RUNNING, JobState.UNKNOWN)
            and job.job_id not in self._signalled
        ]
        # pending jobs first: none may start after the signal that it should have got
        self._scancel(["--state=PENDING"] if soft else [], hard)
        self._scancel(["--signal=TERM", "--full"], gentle)
        self._signalled.update(gentle)

    def _scancel(self, how: list[str], ids: list[str]) -> None:
        """Call ``scancel`` for many ids at once; its answer proves nothing."""
        for first in range(0, len(ids), _IDS_PER_CALL):
            self.calls += 1
            some = ids[first : first + _IDS_PER_CALL]
            answer = self._cluster.call("scancel", *how, *some, timeout_s=self._timeout_s)
            if answer.code != 0:  # a job may have ended since the look
                self.complaint = str(self._cluster.error("scancel", answer))


def _always() -> bool:
    return True


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
