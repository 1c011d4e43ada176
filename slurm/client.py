"""A run's jobs, from Python: submitted, watched, cancelled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from slurm import cancel as cancelling
from slurm.batch.job import Job
from slurm.cancel import Cancelled
from slurm.connect import connect, found_by
from slurm.controller.calls import Cluster
from slurm.controller.waiting import backoff
from slurm.lease import Renewer, lease_of
from slurm.look import look
from slurm.records.absence import settle_s
from slurm.records.book import Keeper
from slurm.records.outcome import JobOutcome, outcomes
from slurm.records.outstanding import OutstandingJobs, ledger_for, recorded_way, this_process
from slurm.records.tokens import check_token, new_token
from slurm.submit import submit
from slurm.transport import Transport
from supervisor.errors import AllstopError, ConfigError
from supervisor.records.scribe_line import ScribeLine
from supervisor.system.process import Identity

LEASE_S = 300
_LONGEST_PAUSE_S = 15.0


def alive_jobs(ledger: Path) -> list[str]:
    """Ask the controller which jobs of a ledger are alive; return their ids.

    Raises
    ------
    SlurmError, TransportError
        If there was no answer.
    """
    with closing(Keeper(ledger)) as keeper:
        book = keeper.book
        if not (book.alive or book.outstanding):
            return []
        way = recorded_way(ledger, book.token) or (book.address, book.variables)
        with closing(connect(*way)) as transport:
            seen = look(Cluster(transport), keeper)
        return [job.job_id for job in seen if not job.state.ended]


class Client:
    """Jobs that belong together, under one token.

    As a context manager it cancels the jobs that are alive at its end, and waits until they
    are gone. If this process is killed, the jobs end themselves when their lease lapses,
    and the next run or ``reap`` cancels them.

    Parameters
    ----------
    transport : Transport or str
        How the cluster is reached: ``"local"``, ``"ssh:HOST"``, or a transport.
    token : str, optional
        The token for the jobs; default: a new one.
    ledger : Path, optional
        Where submissions and states are recorded; default: a file in the user's state
        directory.
    lease_s : int
        How long the jobs run on when this process does not renew it, in s; 0: for ever.
    scribe : ScribeLine, optional
        Writes what a cancel notes, so that it does not wait for a disk that is silent.

    Examples
    --------
    >>> with Client("ssh:cluster") as jobs:                     # doctest: +SKIP
    ...     jobs.submit(command=["python", "fit.py"], time_limit="2:00:00", cpus=8)
    ...     jobs.wait()
    """

    def __init__(
        self,
        transport: Transport | str = "local",
        *,
        token: str | None = None,
        ledger: Path | None = None,
        lease_s: int = LEASE_S,
        scribe: ScribeLine | None = None,
    ) -> None:
        if not isinstance(lease_s, int) or lease_s < 0:
            raise ConfigError(f"lease: {lease_s} is not a whole number of s, or 0", key="lease")
        token = new_token() if token is None else check_token(token)
        self._cluster = Cluster(connect(transport) if isinstance(transport, str) else transport)
        self._lease_s = lease_s
        self._renewer: Renewer | None = None
        self._recorded = False
        self._keeper = Keeper(ledger or ledger_for(token), scribe)
        self.token = self._keeper.book.token or token
        self._record = OutstandingJobs(
            self.token,
            self._cluster.transport.address,
            found_by(self._cluster.transport),
            self._keeper.path.absolute(),
            this_process(),
        )

    @property
    def outstanding(self) -> bool:
        """Whether a job may be alive that has to be seen gone."""
        return self._keeper.book.outstanding

    @property
    def settle_s(self) -> float:
        """How long after a look that found none alive another one must find none, in s.

        That is for jobs that ended by themselves, see :func:`slurm.records.absence.settle_s`.
        """
        return settle_s(self._keeper.book, cut_short=False)

    @property
    def submitted(self) -> bool:
        """Whether any submission is known."""
        return self._keeper.book.submitted

    def expect_others(self) -> None:
        """Be ready for jobs that other programs submit with the token."""
        self._expect(others=True)

    def _expect(self, *, others: bool) -> None:
        book, jobs = self._keeper.book, self._record
        if not self._recorded or book.settled:
            jobs.record()  # or takes them over from a process that has died
            self._recorded = True
        if not book.token or book.settled or (others and not book.others):
            self._keeper.expect(jobs.token, jobs.address, jobs.variables, others=others)

    def submit(self, job: Job | None = None, **options: Any) -> str:
        """Submit a job; return its id.

        Parameters
        ----------
        job : Job, optional
            The job.
        **options : object
            The attributes of :class:`slurm.batch.job.Job`, instead of ``job``.

        Raises
        ------
        ConfigError
            If an option is unknown or its value is not valid; as
            :class:`SubmitRefusedError`, if SLURM refuses the job. There is no job.
        SubmissionUnknownError
            If it is not known whether there is a job; a cancel looks for it.
        LedgerWriteError
            If the submission cannot be recorded; nothing was submitted.
        """
        if job is None:
            job = Job.from_options(options)
        elif options:
            raise ConfigError("give a job or its attributes, not both", key=next(iter(options)))
        self._expect(others=False)
        if self._lease_s and self._renewer is None:
            renewer = Renewer(self._cluster, self.token, self._lease_s)
            renewer.start()
            self._renewer = renewer
        lease = lease_of(self.token, self._lease_s) if self._lease_s else None
        return submit(self._cluster, self._keeper, job, lease)

    def query(self) -> list[JobOutcome]:
        """Ask the controller for the jobs' states.

        Raises
        ------
        SlurmError, TransportError
            If there was no answer.
        """
        self._keeper.catch_up()
        look(self._cluster, self._keeper)
        return self.known()

    def wait(self, timeout_s: float = math.inf) -> list[JobOutcome]:
        """Wait until all jobs have ended, or the time is over; return their states.

        While the controller does not answer, the wait continues.

        Raises
        ------
        SlurmError, TransportError
            If a retry would not help, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        for pause_s in backoff(0.2, _LONGEST_PAUSE_S):
            last = time.monotonic() + pause_s > deadline
            try:
                jobs = self.query()
            except AllstopError as error:
                if last or not error.transient:
                    raise
            else:
                if last or all(job.verified for job in jobs):
                    return jobs
            time.sleep(pause_s)
        raise AssertionError("backoff() never ends")

    def known(self) -> list[JobOutcome]:
        """The jobs' states when last seen; does not ask the controller."""
        self._keeper.catch_up()
        return outcomes(self._keeper.book)

    def cancel(
        self,
        ids: Iterable[str] = (),
        *,
        grace_s: float = 0.0,
        patience_s: float | None = None,
        pause: Callable[[float], bool] | None = None,
        quiet: Callable[[], bool] | None = None,
    ) -> Cancelled:
        """Cancel jobs and see them gone; all jobs if no ids are given.

        Failures of the cluster are not raised: see :attr:`Cancelled.error`. Jobs that could
        not be cancelled stay outstanding, and are cancelled by the next run or ``reap``.
        The parameters are those of :func:`slurm.cancel.cancel`.
        """
        ids = list(map(str, ids))
        self._keeper.catch_up()
        if not self._keeper.book.outstanding and not ids:
            return Cancelled(self.known(), None, 0)
        cancelled = cancelling.cancel(
            self._cluster,
            self._keeper,
            ids,
            grace_s=grace_s,
            patience_s=patience_s,
            pause=pause,
            quiet=quiet,
        )
        self._tidy()
        return cancelled

    def detach(self) -> None:
        """Let the jobs live on: they are not outstanding any more.

        Jobs that were submitted with a lease end when it lapses; to detach jobs, use
        ``lease_s=0``. A later submission makes all jobs of the token outstanding again: use
        another client for it.
        """
        if self._keeper.book.outstanding:
            self._keeper.write("jobs_detached")
        self._tidy()

    def settle(self) -> None:
        """Note that looks have proved that no job is left, see :mod:`slurm.records.absence`."""
        if self._keeper.book.outstanding:
            self._keeper.write("jobs_settled")
        self._tidy()

    def disown(self) -> None:
        """Give outstanding jobs up, for the next run or ``reap``, though this process lives on."""
        if self._keeper.book.outstanding:
            self._record._replace(owner=Identity(0, 0)).record()

    def close(self) -> None:
        """Close the connection without cancelling; outstanding jobs stay so."""
        self._tidy()
        if self._renewer:
            self._renewer.end(remove=not self._keeper.book.outstanding)
            self._renewer = None
        if not self._keeper.book.outstanding:
            self._record.spare_ledger.unlink(missing_ok=True)
        self._keeper.close()
        self._cluster.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.cancel()
        finally:
            self.close()

    def _tidy(self) -> None:
        """Remove the record if no job is outstanding."""
        if not self._keeper.book.outstanding:
            self._record.remove()
