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
from slurm.cancel import Cancelled, JobOutcome
from slurm.connect import connect, found_by
from slurm.controller.calls import Cluster
from slurm.controller.waiting import backoff
from slurm.lease import Renewer, lease_of
from slurm.look import look
from slurm.records.book import Keeper
from slurm.records.outstanding import Debt, ledger_for, this_process
from slurm.records.tokens import check_token, new_token
from slurm.submit import submit
from slurm.transport import Transport
from supervisor.errors import AllstopError, ConfigError
from supervisor.system.process import Identity

LEASE_S = 300
_LONGEST_PAUSE_S = 15.0


def alive_jobs(ledger: Path) -> list[str]:
    """Ask which jobs of a ledger's are alive; return their ids.

    Raises
    ------
    SlurmError, TransportError
        If nobody could say.
    """
    with closing(Keeper(ledger)) as keeper:
        book = keeper.book
        if not (book.alive or book.owes):
            return []
        with closing(connect(book.address, book.variables)) as transport:
            seen = look(Cluster(transport), keeper)
        return [job.job_id for job in seen if not job.state.ended]


class Client:
    """The jobs that belong together, under one token.

    Leaving it as a context manager cancels what is alive and sees it gone. If
    this process is killed, the jobs end themselves when their lease lapses, and
    the next start of a run, or ``reap``, cancels them.

    Parameters
    ----------
    transport : Transport or str
        How the cluster is reached: ``"local"``, ``"ssh:HOST"``, or a transport.
    token : str, optional
        What the jobs are to bear; made anew when left out.
    ledger : Path, optional
        Where what is owed is written down; a file of the user's state directory
        when left out.
    lease_s : int
        How long the jobs live on when this process is silent, in s; 0: for ever.

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
    ) -> None:
        if not isinstance(lease_s, int) or lease_s < 0:
            raise ConfigError(f"lease: {lease_s} is not a whole number of s, or 0", key="lease")
        token = new_token() if token is None else check_token(token)
        self._cluster = Cluster(connect(transport) if isinstance(transport, str) else transport)
        self._lease_s = lease_s
        self._renewer: Renewer | None = None
        self._incurred = False
        self._keeper = Keeper(ledger or ledger_for(token))
        self.token = self._keeper.book.token or token
        self._debt = Debt(
            self.token,
            self._cluster.transport.address,
            found_by(self._cluster.transport),
            self._keeper.path.absolute(),
            this_process(),
        )

    @property
    def owes(self) -> bool:
        """Whether a job may be alive that somebody has to see gone."""
        return self._keeper.book.owes

    @property
    def settle_s(self) -> float:
        """How long after a look that found none another one must, if all ended by itself, in s."""
        return cancelling.settle_s(self._keeper.book, cut_short=False)

    @property
    def submitted(self) -> bool:
        """Whether a submission is known of, whatever became of it."""
        return self._keeper.book.submitted

    def expect_others(self) -> None:
        """Be ready for jobs of programs that know nothing of us but bear the token."""
        self._expect(others=True)

    def _expect(self, *, others: bool) -> None:
        book, debt = self._keeper.book, self._debt
        if not self._incurred or book.settled:
            debt.incur()  # or it is taken over from a process that has died
            self._incurred = True
        if not book.token or book.settled or (others and not book.others):
            self._keeper.expect(debt.token, debt.address, debt.variables, others=others)

    def submit(self, job: Job | None = None, **options: Any) -> str:
        """Submit a job; return its id.

        Parameters
        ----------
        job : Job, optional
            The job.
        **options : object
            Or its attributes, see :class:`slurm.batch.job.Job`.

        Raises
        ------
        ConfigError
            If an option is unknown or its value cannot be; :class:`SubmitRefusedError`,
            if SLURM will not take it. There is no job.
        SubmissionUnknownError
            If nobody could say whether there is one; a cancel looks for it.
        LedgerWriteError
            If it cannot be written down what is to be submitted.
        """
        if job is None:
            job = Job.from_options(options)
        elif options:
            raise ConfigError("a job, or its attributes, not both", key=next(iter(options)))
        self._expect(others=False)
        if self._lease_s and self._renewer is None:
            renewer = Renewer(self._cluster, self.token, self._lease_s)
            renewer.start()
            self._renewer = renewer
        lease = lease_of(self.token, self._lease_s) if self._lease_s else None
        return submit(self._cluster, self._keeper, job, lease)

    def query(self) -> list[JobOutcome]:
        """Ask what the jobs are doing.

        Raises
        ------
        SlurmError, TransportError
            If nobody could say.
        """
        self._keeper.catch_up()
        look(self._cluster, self._keeper)
        return self.known()

    def wait(self, timeout_s: float = math.inf) -> list[JobOutcome]:
        """Wait until all jobs have ended, or for so long; return what they are doing.

        A controller that is away for a while is waited for.

        Raises
        ------
        SlurmError, TransportError
            If asking again would not help, or there is no time left to.
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
        """What the jobs were doing when last seen; asks nobody."""
        self._keeper.catch_up()
        return cancelling.outcomes(self._keeper.book)

    def cancel(
        self,
        ids: Iterable[str] = (),
        *,
        grace_s: float = 0.0,
        patience_s: float | None = None,
        pause: Callable[[float], bool] | None = None,
        quiet: Callable[[], bool] | None = None,
    ) -> Cancelled:
        """Cancel jobs and see them gone; all of them if no ids are given.

        Never raises for what the cluster does: see :attr:`Cancelled.error`. What
        could not be cancelled stays owed, and is cancelled by the next start of a
        run, or by ``reap``. The parameters are those of :func:`slurm.cancel.cancel`.
        """
        ids = list(map(str, ids))
        self._keeper.catch_up()
        if not self._keeper.book.owes and not ids:
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
        self._square()
        return cancelled

    def detach(self) -> None:
        """Let the jobs live on: nobody looks after them any more.

        Jobs that were submitted with a lease end when it lapses; submit with
        ``lease_s=0`` what is to be detached. Whatever is submitted afterwards is looked
        after again, and with it all that bears the token: use another client for it.
        """
        if self._keeper.book.owes:
            self._keeper.write("jobs_detached")
        self._square()

    def settle(self) -> None:
        """Note that a look has found none alive, and that nobody will submit more.

        Where a submission was cut off, that takes a second look some time after the first.
        """
        if self._keeper.book.owes:
            self._keeper.write("jobs_settled")
        self._square()

    def disown(self) -> None:
        """Leave what is owed to whoever comes next, though this process lives on."""
        if self._keeper.book.owes:
            self._debt._replace(owner=Identity(0, 0)).incur()

    def close(self) -> None:
        """Let go of the cluster, without cancelling; what is owed stays owed."""
        self._square()
        if self._renewer:
            self._renewer.end(remove=not self._keeper.book.owes)
            self._renewer = None
        if not self._keeper.book.owes:
            self._debt.spare_ledger.unlink(missing_ok=True)
        self._keeper.close()
        self._cluster.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.cancel()
        finally:
            self.close()

    def _square(self) -> None:
        """Strike the debt off when nothing is owed."""
        if not self._keeper.book.owes:
            self._debt.strike()
