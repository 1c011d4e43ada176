"""Looks after a run's jobs from a thread of its own, beside a front that has other work.

Every call to a controller may take half a minute. The front asks, goes on, and is
woken when there is news.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from slurm.cancel import Clear, JobOutcome
from slurm.client import Client
from slurm.states import JobState
from slurm.tokens import new_token
from slurm.waiting import backoff
from supervisor.errors import AllstopError
from supervisor.records.rundir import LEDGER_FILE

_FIRST_LOOK_S = 0.5
_LONGEST_LOOK_S = 10.0
_WELL = (JobState.COMPLETED, JobState.GONE)


class JobWatch:
    """A run's jobs, watched or cancelled in the background.

    Parameters
    ----------
    client : Client
        The jobs; this object owns it from now on.
    wake : callable
        Called from the thread whenever something has changed.
    begin : callable, optional
        Called first, in the thread: submits what there is to submit.
    observe : callable, optional
        Called in the thread after each look, and once when the jobs have ended.

    Attributes
    ----------
    jobs : list of JobOutcome
        What is known of them.
    error : str or None
        Why they could not be seen gone.
    over : bool
        There is nothing more to wait for.
    refused : AllstopError or None
        Why ``begin`` failed.
    failed : list of str
        Those that were waited for and did not end well, for people.
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
        self._abandoned = False
        self._quiet = False
        self.cancelling = False
        self.detached = False
        self.over = False
        self.error: str | None = None
        self.refused: AllstopError | None = None
        self.jobs: list[JobOutcome] = []
        self.failed: list[str] = []

    @property
    def token(self) -> str:
        """What the jobs bear."""
        return self._client.token

    @property
    def unverified(self) -> list[str]:
        """Jobs that were to end and have not been seen to, for people."""
        if self.detached or not (self.cancelling or self._client.owes):
            return []
        return [
            f"job {job.id or '(id unknown)'}, state {job.state}"
            for job in self.jobs
            if not job.verified
        ]

    @property
    def cut_short(self) -> bool:
        """Whether a job was ended by us, or may live though it should not."""
        ended_by_us = any(job.state == JobState.CANCELLED or not job.verified for job in self.jobs)
        return self.cancelling and ended_by_us

    # -- asked by the front, which never waits -------------------------------

    def cancel(self) -> None:
        """Cancel all jobs, and go on until they are gone; harmless when repeated."""
        self.cancelling = True
        self._nudges.put(None)
        self._start()

    def wait_for_end(self) -> None:
        """Watch the jobs until the last one has ended by itself, or is cancelled."""
        self.quiet()
        self._start()

    def quiet(self) -> None:
        """Hear that nobody is left who might submit more."""
        self._quiet = True
        self._nudges.put(None)

    def abandon(self) -> None:
        """Give up: what is left stays owed, and is cancelled by whoever comes next.

        A call to the controller may be under way, and is not waited for.
        """
        self._abandoned = self.over = True
        self.error = self.error or "given up before they were seen gone"
        self._nudges.put(None)
        self._wake()

    def detach(self) -> None:
        """Let the jobs live on; they are submitted, looked at once, and no longer owed."""
        self.detached = True
        self._start()

    def close(self) -> None:
        """Let go of the cluster; what is owed stays owed, by nobody in particular."""
        self._abandoned = True
        self._nudges.put(None)
        self._client.disown()
        self._client.close()

    # -- the thread ----------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="allstop-jobs", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            if self._begin and not self.cancelling:
                self._begin(self._client)
            if self.detached and not self.cancelling:
                self._let_go()
            elif self._watch():
                self._cancel()
            self._observe(self._client)
        except AllstopError as error:
            self.refused = error
            self._cancel()
        except OSError as error:
            self._cancel()  # nobody watches them any more
            self.error = self.error or str(error)
        finally:
            self.over = True
            self._wake()

    def _let_go(self) -> None:
        try:
            self.jobs = self._client.query()
        except AllstopError as error:
            self.jobs, self.error = self._client.known(), str(error)
        self._client.detach()

    def _cancel(self) -> None:
        cancelled = self._client.cancel(
            pause=self._pause,
            quiet=lambda: self._quiet,
        )
        self.jobs, self.error = cancelled.jobs, cancelled.error

    def _watch(self) -> bool:
        """See jobs to their own end; True: they are to be cancelled."""
        awaited: set[str | None] = set()
        clear = Clear()
        for pause_s in backoff(_FIRST_LOOK_S, _LONGEST_LOOK_S):
            if self.cancelling:
                return True
            if self._abandoned:
                return False
            try:
                quiet = self._quiet  # before the look, which then shows all there will ever be
                clear.asking()
                self.jobs, self.error = self._client.query(), None
                known = [job for job in self.jobs if job.id is not None]
                awaited |= {job.id for job in known if not job.verified}
                if not (quiet and all(job.verified for job in known)):
                    clear.not_yet()
                elif clear.certain(self._client.settle_s):
                    self.jobs = known
                    self._client.settle()
                    self._note_failed(awaited)
                    return False
                self._observe(self._client)
            except AllstopError as error:
                self.error = str(error)
                if not (error.transient and self._client.submitted):
                    return False
            self._wake()
            self._pause(pause_s)
        return False

    def _note_failed(self, awaited: set[str | None]) -> None:
        self.failed = [
            f"job {job.id} {job.state}"
            for job in self.jobs
            if job.id in awaited and job.state not in _WELL
        ]

    def _pause(self, seconds: float) -> bool:
        """Wait, but not past a word from the front; True: it wants us to give up."""
        with contextlib.suppress(queue.Empty):
            self._nudges.get(timeout=seconds)
        return self._abandoned


def _nothing(_client: Client) -> None:
    """Nobody wants to look."""


def jobs_of_run(run_id: str, run_dir: Path, wake: Callable[[], None]) -> JobWatch:
    """Be ready for the jobs that a run's own programs submit.

    Parameters
    ----------
    run_id : str
        The run.
    run_dir : Path
        Its directory, where its ledger lies.
    wake : callable
        See :class:`JobWatch`.
    """
    client = Client(token=new_token(run_id), ledger=run_dir / LEDGER_FILE, lease_s=0)
    client.expect_others()
    return JobWatch(client, wake)
