"""Cancels a run's jobs, and looks until they are gone.

``scancel`` answers 0 for ids that nobody knows, a job that it has cancelled may
be started again by a requeue, and one whose submission timed out may appear only
now. So its answer counts for nothing: the jobs are looked at, what lives is
cancelled again, and the end is a look that finds none.

Only what a look has just shown to bear the run's token is cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from slurm.controller.calls import ASK_TIMEOUT_S, Cluster
from slurm.controller.waiting import backoff
from slurm.look import UNLIKELY_S, Seen, look
from slurm.records.book import Book, Keeper
from slurm.records.states import JobState
from supervisor.errors import AllstopError

PATIENCE_S = 60.0

_IDS_PER_CALL = 500
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_SHORTEST_CALL_S = 1.0
_SETTLE_S = 2.0
_SETTLE_OTHERS_S = 0.25
"""The same where nobody is known to have been cut off, but somebody may have been."""

# an sbatch outlives whoever called it, and may be waiting for munge or the controller: as long as
# one lives that would submit with our token, no look is the last one
_END_SUBMITTERS = """\
for environ in /proc/[0-9]*/environ; do
  pid=${environ#/proc/}; pid=${pid%/environ}
  case $(cat "/proc/$pid/comm" 2>/dev/null) in sbatch|srun|salloc) ;; *) continue ;; esac
  grep -qzxF "SBATCH_WCKEY=$1" "$environ" 2>/dev/null && kill -KILL "$pid"
done 2>/dev/null
exit 0
"""


class JobOutcome(NamedTuple):
    """What became of one job.

    Attributes
    ----------
    id : str or None
        Its id; None for a submission of which nobody knows whether there is a job.
    token : str
        The run's token.
    state : str
        What it was doing when last seen.
    verified : bool
        Whether somebody has looked and it has ended.
    """

    id: str | None
    token: str
    state: str
    verified: bool


class Cancelled(NamedTuple):
    """What a cancel came to.

    Attributes
    ----------
    jobs : list of JobOutcome
        Each job that was wanted gone.
    error : str or None
        Why it could not be finished; what is left stays in the ledger.
    calls : int
        How often ``scancel`` was called.
    """

    jobs: list[JobOutcome]
    error: str | None
    calls: int

    @property
    def complete(self) -> bool:
        """Whether every job is known to be gone."""
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
        Where they are.
    keeper : Keeper
        The run's book; the wish is on disk before anything is asked for.
    ids : iterable of str
        Which ones; none: all that bear the token, whoever submitted them.
    grace_s : float
        How long running jobs have from SIGTERM until they are cancelled, in s. With 0
        they have what the cluster gives everybody (``KillWait``).
    patience_s : float
        How long to go on altogether, in s; a minute, or much less where nobody has been seen
        to submit anything.
    pause : callable, optional
        Waits for so many seconds; True: give up now. What is left stays owed.
    quiet : callable, optional
        Whether everybody is gone who might submit more; until then no look is the last.
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


def outcomes(book: Book, wanted: Collection[str] = ()) -> list[JobOutcome]:
    """What became of jobs, as far as a book knows; of all of them, if none are named."""
    known = [
        JobOutcome(job_id, book.token, str(state), state.ended)
        for job_id, state in sorted(book.states.items(), key=lambda item: (len(item[0]), item[0]))
        if not wanted or job_id in wanted
    ]
    if wanted:
        strangers = sorted(set(wanted) - book.ids)
        return known + [JobOutcome(one, book.token, "unknown", False) for one in strangers]
    return known + [JobOutcome(None, book.token, "unknown", False) for _ in book.open]


def settle_s(book: Book, *, cut_short: bool) -> float:
    """How long after a look that found none another one must find none, in s.

    What an ``sbatch`` that was cut off had sent is in the controller's hands by then.

    Parameters
    ----------
    book : Book
        What is known of submissions.
    cut_short : bool
        Whether those who may have submitted unseen were ended in the middle of it.
    """
    if book.open:
        return _SETTLE_S
    return _SETTLE_OTHERS_S if book.others and cut_short else 0.0


class Clear:
    """Whether looks that found none alive make certain that none will be."""

    def __init__(self) -> None:
        self._asked_at = 0.0
        self._since: float | None = None

    def asking(self) -> None:
        """A look begins."""
        self._asked_at = time.monotonic()

    def not_yet(self) -> None:
        """It has found something."""
        self._since = None

    def certain(self, after_s: float) -> bool:
        """It has found nothing: whether it was the last, ``after_s`` behind the first such."""
        if self._since is None:
            self._since = time.monotonic() if after_s else self._asked_at
        return self._asked_at >= self._since + after_s


class _Attempt:
    """One cancel under way."""

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
        self._clear = Clear()
        self._ended_submitters = False
        self.calls = 0
        self.complaint: str | None = None

    def once(self) -> bool:
        """Look, and cancel what lives; True when there is nothing left to do."""
        quiet = self._quiet()  # before the look, which then shows all that there will ever be
        self._keeper.catch_up()
        self._clear.asking()
        alive = [job for job in self._look() if not job.state.ended]
        if alive:
            self._clear.not_yet()
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
                f"job {min(doubtful)} bears no token, and nobody knows when it was submitted: "
                "it may be somebody else's, and is left alone"
            )
        if book.alive:  # not shown to be ours, or missed once only
            return False
        if (book.open or book.others) and not self._ended_submitters:
            self._end_submitters(book.token)
        if not self._clear.certain(settle_s(book, cut_short=True)):
            return False
        self._keeper.remark("jobs_settled")
        return True

    @property
    def _timeout_s(self) -> float:
        """For one call: no longer than there is patience."""
        return min(ASK_TIMEOUT_S, max(_SHORTEST_CALL_S, self._deadline - time.monotonic()))

    def _end_submitters(self, token: str) -> None:
        """Kill what is still about to submit a job with our token."""
        self._cluster.ask("sh", "-c", _END_SUBMITTERS, "sh", token, timeout_s=self._timeout_s)
        self._ended_submitters = True

    def _send(self, alive: Sequence[Seen]) -> None:
        soft = time.monotonic() < self._soft_until
        # one that is completing has been signalled, and cancelling it again does nothing; an
        # array of which some complete may have others that wait for their turn
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
        # those that wait first: none may begin after the signal that it should have had
        self._scancel(["--state=PENDING"] if soft else [], hard)
        self._scancel(["--signal=TERM", "--full"], gentle)
        self._signalled.update(gentle)

    def _scancel(self, how: list[str], ids: list[str]) -> None:
        """Call ``scancel`` for many ids at once; what it answers is of no weight."""
        for first in range(0, len(ids), _IDS_PER_CALL):
            self.calls += 1
            some = ids[first : first + _IDS_PER_CALL]
            answer = self._cluster.call("scancel", *how, *some, timeout_s=self._timeout_s)
            if answer.code != 0:  # some of them may have ended since the look
                self.complaint = str(self._cluster.error("scancel", answer))


def _always() -> bool:
    return True


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
