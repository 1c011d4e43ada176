"""Watches a run's jobs in a background thread, and cancels them on request.

A call to a controller may take half a minute. The front asks for what it wants, goes
on, and is woken when there is news; what is known it reads from a frozen snapshot.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

from slurm.client import Client
from slurm.controller.waiting import backoff
from slurm.records.absence import Absence
from slurm.records.outcome import JobOutcome
from slurm.records.states import JobState
from slurm.records.tokens import new_token
from supervisor.errors import AllstopError
from supervisor.records.rundir import LEDGER_FILE
from supervisor.records.scribe_line import ScribeLine

_FIRST_LOOK_S = 0.5
_LONGEST_LOOK_S = 10.0
_WELL = (JobState.COMPLETED, JobState.GONE)
_GIVEN_UP = "given up before they were seen gone"


class Phase(StrEnum):
    """How far the watch is: the first four are under way, the others are final."""

    STANDBY = "standby"
    """Nothing was requested yet; the run's own processes may still submit jobs."""
    WATCHING = "watching"
    """Submitting, then waiting for the jobs to end by themselves."""
    DETACHING = "detaching"
    """Submitting, then letting the jobs live on."""
    CANCELLING = "cancelling"
    """Cancelling the jobs until they are seen gone."""

    ENDED = "ended"
    """Every job was seen to end by itself."""
    DETACHED = "detached"
    """The jobs live on, and are not this run's to cancel any more."""
    CANCELLED = "cancelled"
    """The cancel has finished; :attr:`JobsView.unverified` names what it left."""
    ABANDONED = "abandoned"
    """The cancel was given up; what it left stays outstanding in the ledger."""
    REFUSED = "refused"
    """Submitting failed; what there was of jobs has been cancelled."""
    LOST = "lost"
    """The jobs could not be watched to their end; :attr:`JobsView.error` says why."""


_UNDER_WAY = frozenset({Phase.STANDBY, Phase.WATCHING, Phase.DETACHING, Phase.CANCELLING})
_CANCELS = frozenset({Phase.CANCELLING, Phase.CANCELLED, Phase.ABANDONED})


@dataclass(frozen=True, slots=True)
class JobsView:
    """What is known of a run's jobs at one instant.

    Attributes
    ----------
    phase : Phase
        How far the watch is.
    jobs : tuple of JobOutcome
        Each job and its state when last seen.
    error : str or None
        Why the jobs could not be seen, or not be seen gone.
    refused : AllstopError or None
        Why submitting failed.
    failed : tuple of str
        Jobs that were waited for and ended badly, for people; known once they have ended.
    outstanding : bool
        Whether a job may be alive that this run has to see gone.
    """

    phase: Phase = Phase.STANDBY
    jobs: tuple[JobOutcome, ...] = ()
    error: str | None = None
    refused: AllstopError | None = None
    failed: tuple[str, ...] = ()
    outstanding: bool = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.phase not in _UNDER_WAY

    @property
    def cancelling(self) -> bool:
        """Whether a cancel was requested, under way or finished."""
        return self.phase in _CANCELS

    @property
    def cut_short(self) -> bool:
        """Whether the cancel ended a job, or a job may live in spite of it."""
        return self.cancelling and any(
            job.state == JobState.CANCELLED or not job.verified for job in self.jobs
        )

    @property
    def unverified(self) -> list[str]:
        """Jobs that should be gone and were not seen gone, for people."""
        if not self.outstanding:
            return []
        return [
            f"job {job.id or '(id unknown)'}, state {job.state}"
            for job in self.jobs
            if not job.verified
        ]


class _Wish(IntEnum):
    """What the front wants; a later, stronger wish replaces a weaker one, never the reverse."""

    STANDBY = 0
    WAIT = 1
    DETACH = 2
    CANCEL = 3
    ABANDON = 4


_PHASE_OF = {
    _Wish.STANDBY: Phase.STANDBY,
    _Wish.WAIT: Phase.WATCHING,
    _Wish.DETACH: Phase.DETACHING,
    _Wish.CANCEL: Phase.CANCELLING,
    _Wish.ABANDON: Phase.ABANDONED,
}


def _view(wish: _Wish, found: JobsView) -> JobsView:
    """Join what the front wants with what the thread has found."""
    if found.over:
        return found
    if wish is _Wish.ABANDON:
        error = found.error or _GIVEN_UP
        return replace(found, phase=Phase.ABANDONED, error=error, outstanding=True)
    return replace(found, phase=_PHASE_OF[wish])


class JobWatch:
    """A run's jobs, watched or cancelled in the background.

    Its methods return at once and take no lock: Ctrl+C in the calling thread may strike
    anywhere. There are two halves with one writer each: the wish, which the front's thread
    sets, and the findings, which the watch's thread replaces as a whole. :attr:`view` joins
    them.

    Parameters
    ----------
    client : Client
        The jobs; this object owns it from now on.
    wake : callable
        Called from the thread whenever :attr:`view` has changed.
    begin : callable, optional
        Called first, in the thread: submits what there is to submit.
    observe : callable, optional
        Called in the thread after each look, and once when the jobs have ended.
    """

    def __init__(
        self,
        client: Client,
        wake: Callable[[], None],
        begin: Callable[[Client], object] | None = None,
        observe: Callable[[Client], object] | None = None,
    ) -> None:
        self._client = client
        self._wake = wake
        self._begin = begin
        self._observe = observe or _nothing
        self._thread: threading.Thread | None = None
        self._nudges: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._wish = _Wish.STANDBY
        self._quiet = False
        self._closed = False
        self._found = JobsView(outstanding=client.outstanding)

    @property
    def token(self) -> str:
        """The token that the jobs bear."""
        return self._client.token

    @property
    def view(self) -> JobsView:
        """What is known now. From any thread."""
        found = self._found  # first: a wish that is newer than the findings is the honest order
        return _view(self._wish, found)

    # -- called by the front, never blocks -----------------------------------

    def wait_for_end(self) -> None:
        """Watch the jobs until the last one has ended by itself, or is cancelled."""
        self.quiet()
        self._want(_Wish.WAIT)

    def cancel(self) -> None:
        """Cancel all jobs, and keep cancelling until they are gone; harmless when repeated."""
        self._want(_Wish.CANCEL)

    def detach(self) -> None:
        """Let the jobs live on: they are submitted, looked at once, and not outstanding any more.

        A cancel that comes before that still cancels them.
        """
        self._want(_Wish.DETACH)

    def quiet(self) -> None:
        """Note that every process that could submit more jobs has ended."""
        self._quiet = True
        self._nudges.put(None)

    def abandon(self) -> None:
        """Give up: what is left stays outstanding, for the next run or ``reap`` to cancel.

        A call to the controller may be under way, and is not waited for.
        """
        self._wish = _Wish.ABANDON
        self._nudges.put(None)
        self._wake()

    def close(self) -> None:
        """Release the cluster; what is outstanding stays so, and has no owner any more."""
        self._closed = True
        self._nudges.put(None)
        with contextlib.suppress(AllstopError, OSError):  # a full home: our own end gives them up
            self._client.disown()
        self._client.close()

    def _want(self, wish: _Wish) -> None:
        self._wish = max(self._wish, wish)
        self._nudges.put(None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="allstop-jobs", daemon=True)
            self._thread.start()

    # -- the thread ----------------------------------------------------------

    @property
    def _cancel_wanted(self) -> bool:
        return self._wish >= _Wish.CANCEL

    @property
    def _given_up(self) -> bool:
        return self._closed or self._wish is _Wish.ABANDON

    def _publish(self, **changes: Any) -> None:
        """Replace the findings; only the thread does."""
        self._found = replace(self._found, outstanding=self._client.outstanding, **changes)

    def _run(self) -> None:
        end: Phase | None = None
        try:
            if self._begin and not self._cancel_wanted:
                self._begin(self._client)
            end = self._see_to_end()
            self._observe(self._client)
        except AllstopError as error:
            self._publish(refused=error)
            self._cancel()
            end = Phase.REFUSED
        except OSError as error:
            self._cancel()  # nothing watches them any more
            self._publish(error=self._found.error or str(error))
        finally:
            if end is None:
                end = Phase.CANCELLED if self._cancel_wanted else Phase.LOST
            self._publish(phase=end)
            self._wake()

    def _see_to_end(self) -> Phase:
        if self._wish is _Wish.DETACH:
            self._let_go()
            return Phase.DETACHED
        end = self._watch()
        if end is None:
            self._cancel()
        return end or Phase.CANCELLED

    def _let_go(self) -> None:
        try:
            jobs, error = self._client.query(), None
        except AllstopError as failure:
            jobs, error = self._client.known(), str(failure)
        self._client.detach()
        self._publish(jobs=tuple(jobs), error=error)

    def _cancel(self) -> None:
        cancelled = self._client.cancel(
            pause=self._pause,
            quiet=lambda: self._quiet,
        )
        self._publish(jobs=tuple(cancelled.jobs), error=cancelled.error)

    def _watch(self) -> Phase | None:
        """See jobs to their own end; None: they are to be cancelled."""
        awaited: set[str | None] = set()
        absence = Absence()
        for pause_s in backoff(_FIRST_LOOK_S, _LONGEST_LOOK_S):
            if self._cancel_wanted:
                return None
            if self._given_up:
                break
            try:
                quiet = self._quiet  # before the look, which then shows all there will ever be
                absence.look_begins()
                jobs = self._client.query()
                self._publish(jobs=tuple(jobs), error=None)
                known = [job for job in jobs if job.id is not None]
                awaited |= {job.id for job in known if not job.verified}
                if not (quiet and all(job.verified for job in known)):
                    absence.found_some()
                elif absence.found_none(self._client.settle_s):
                    self._client.settle()
                    self._publish(jobs=tuple(known), failed=_failed(known, awaited))
                    return Phase.ENDED
                self._observe(self._client)
            except AllstopError as error:
                self._publish(error=str(error))
                if not (error.transient and self._client.submitted):
                    break
            self._wake()
            self._pause(pause_s)
        return Phase.LOST

    def _pause(self, seconds: float) -> bool:
        """Wait, but not past a word from the front; True: give up."""
        with contextlib.suppress(queue.Empty):
            self._nudges.get(timeout=seconds)
            while True:
                self._nudges.get_nowait()  # several words are one reason to look
        return self._given_up


def _failed(jobs: list[JobOutcome], awaited: set[str | None]) -> tuple[str, ...]:
    """Name the jobs that were waited for and ended badly."""
    return tuple(
        f"job {job.id} {job.state}" for job in jobs if job.id in awaited and job.state not in _WELL
    )


def _nothing(_client: Client) -> None:
    """Stand in for an observer."""


def jobs_of_run(
    run_id: str, run_dir: Path, wake: Callable[[], None], scribe: ScribeLine | None = None
) -> JobWatch:
    """Be ready for the jobs that a run's own programs submit.

    Parameters
    ----------
    run_id : str
        The run.
    run_dir : Path
        Its directory, where its ledger lies.
    wake : callable
        See :class:`JobWatch`.
    scribe : ScribeLine, optional
        See :class:`slurm.client.Client`.
    """
    client = Client(token=new_token(run_id), ledger=run_dir / LEDGER_FILE, lease_s=0, scribe=scribe)
    client.expect_others()
    return JobWatch(client, wake)
