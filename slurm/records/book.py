"""What a ledger says of a run's jobs: a pure fold over its records.

Jobs are *outstanding* while one of them may be alive: from the first announcement until
a look has found that none is. Records of unknown kinds are ignored.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm.records.states import JobState
from supervisor.records.ledger import Ledger, LedgerWriteError, Record, read_ledger
from supervisor.records.scribe_line import ScribeLine


@dataclass(slots=True)
class Submission:
    """One call of ``sbatch``.

    Attributes
    ----------
    number : int or str
        Counted by a client; random in a shim, because several shims run at a time.
    at : float
        When it was announced, in s since 1970.
    job_id : str or None
        Its job, once known.
    refused : bool
        There certainly is no job.
    elsewhere : str
        Its job on another cluster, which we do not ask; empty: it is on this one.
    """

    number: int | str
    at: float
    job_id: str | None = None
    refused: bool = False
    elsewhere: str = ""

    @property
    def open(self) -> bool:
        """Whether there may be a job whose id is not known."""
        return self.job_id is None and not (self.refused or self.elsewhere)


@dataclass(slots=True)
class Book:
    """What is known of the jobs that have one token.

    Attributes
    ----------
    token : str
        The token; empty: the ledger has no jobs.
    address : str
        The cluster that has them, see :func:`slurm.connect.connect`.
    variables : dict
        Environment variables that are needed to reach it.
    submissions : dict
        By number.
    states : dict of str to JobState
        Each job's state when last seen, by id.
    submitted_at : dict of str to str
        Each job's time of submission, as the controller shows it, by id.
    lease : str or None
        The lease that the jobs watch.
    others : bool
        Programs that do not write to the ledger may submit jobs with the token.
    wanted : bool
        A cancel was requested.
    settled : bool
        A look found none alive, or the jobs were detached.
    detached : bool
        The jobs are meant to outlive the run.
    """

    token: str = ""
    address: str = "local"
    variables: dict[str, str] = field(default_factory=dict)
    submissions: dict[int | str, Submission] = field(default_factory=dict)
    states: dict[str, JobState] = field(default_factory=dict)
    submitted_at: dict[str, str] = field(default_factory=dict)
    lease: str | None = None
    others: bool = False
    wanted: bool = False
    settled: bool = True
    detached: bool = False

    @classmethod
    def of(cls, records: Iterable[Record]) -> Book:
        """Make a book of a ledger's records."""
        book = cls()
        for record in records:
            book.note(record.kind, record.at, record.fields)
        return book

    @property
    def ids(self) -> set[str]:
        """All known job ids."""
        return set(self.states)

    @property
    def alive(self) -> list[str]:
        """Jobs that were alive when last seen."""
        return [job_id for job_id, state in self.states.items() if not state.ended]

    @property
    def open(self) -> list[Submission]:
        """Submissions of which it is not known whether there is a job."""
        return [one for one in self.submissions.values() if one.open]

    @property
    def registered(self) -> set[str]:
        """Jobs that a shim has registered: they may lack the token."""
        submissions = self.submissions.values()
        return {one.job_id for one in submissions if isinstance(one.number, str) and one.job_id}

    @property
    def unproven(self) -> set[str]:
        """Jobs registered by id alone, without their time of submission.

        A job of that id that lacks the token may be another run's.
        """
        return self.registered - self.submitted_at.keys()

    @property
    def submitted(self) -> bool:
        """Whether any submission or job is known."""
        return bool(self.submissions or self.states)

    @property
    def outstanding(self) -> bool:
        """Whether a job may be alive that has to be seen gone."""
        if self.settled:
            return False
        return self.others or any(not one.refused for one in self.submissions.values())

    def note(self, kind: str, at: float, fields: dict[str, Any]) -> None:
        """Apply one record."""
        match kind:
            case "jobs_expected":
                self.token, self.address = fields["token"], fields["address"]
                self.variables = dict(fields["variables"])
                self.others = self.others or fields["others"]
                self.settled = self.detached = self.wanted = False
            case "lease_made":
                self.lease = fields["path"]
            case "submit_intended":
                number = fields["number"]
                self.submissions[number] = Submission(number, at)
                self.settled = self.detached
            case "submitted":
                self._learn(fields["number"], at, fields["job_id"])
                if submitted_at := fields.get("submitted_at"):
                    self.submitted_at[fields["job_id"]] = submitted_at
            case "submitted_elsewhere":
                # by the user's --clusters; ids are unique on one cluster only
                submission = self.submissions.setdefault(
                    fields["number"], Submission(fields["number"], at)
                )
                submission.elsewhere = f"{fields['job_id']} on cluster {fields['cluster']}"
            case "submit_refused":
                submission = self.submissions.setdefault(
                    fields["number"], Submission(fields["number"], at)
                )
                submission.refused = True
            case "jobs_seen":
                for job_id, state, submitted_at in fields["jobs"]:
                    self.states[job_id] = JobState.of(state)
                    self.submitted_at[job_id] = submitted_at
            case "cancel_wanted":
                self.wanted = True
            case "jobs_settled":
                self.settled = True
                for submission in self.open:
                    submission.refused = True
            case "jobs_detached":
                self.settled = self.detached = True

    def _learn(self, number: int | str, at: float, job_id: str) -> None:
        submission = self.submissions.setdefault(number, Submission(number, at))
        submission.job_id = job_id
        self.states.setdefault(job_id, JobState.PENDING)


class Keeper:
    """A book and its ledger: a record is on disk before it is in the book.

    Parameters
    ----------
    path : Path
        The ledger. Other processes may write to it, too, see :meth:`catch_up`.
    scribe : ScribeLine, optional
        Writes remarks, so that they do not wait for a disk that is silent.
    """

    def __init__(self, path: Path, scribe: ScribeLine | None = None) -> None:
        self._ledger = Ledger(path, scribe)
        self._missed_since: dict[str, float] = {}
        self._unwritten: list[Record] = []
        self.book = Book()
        self.catch_up()

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._ledger.path

    def write(self, kind: str, **fields: Any) -> None:
        """Append a record to the ledger, then apply it to the book."""
        at = self._ledger.append(kind, **fields)
        self.book.note(kind, at, fields)

    def remark(self, kind: str, **fields: Any) -> None:
        """Append a record if the disk takes it, and apply it to the book in any case.

        For observations and cancels: a disk that is full or silent must not keep a job from
        being cancelled, and that it is outstanding is on disk already.
        """
        try:
            self.book.note(kind, self._ledger.note(kind, **fields), fields)
        except LedgerWriteError:
            record = Record(kind, time.time(), fields)
            self._unwritten.append(record)
            self.book.note(*record)

    def missed(self, job_id: str) -> float:
        """How long a job has been missing, in s; counted from the first such call."""
        now = time.monotonic()
        return now - self._missed_since.setdefault(job_id, now)

    def shown(self, job_ids: Iterable[str]) -> None:
        """Note that jobs are not missing."""
        for job_id in job_ids:
            self._missed_since.pop(job_id, None)

    def catch_up(self) -> None:
        """Read the ledger again, with what other processes have written."""
        self.book = Book.of([*read_ledger(self.path), *self._unwritten])

    def expect(
        self, token: str, address: str, variables: dict[str, str], *, others: bool = False
    ) -> None:
        """Announce that there will be jobs, and their token.

        Parameters
        ----------
        token : str
            The token.
        address, variables : str, dict
            How the cluster is reached, see :func:`slurm.connect.connect`.
        others : bool
            Programs that do not write to the ledger may submit them.
        """
        self.write(
            "jobs_expected", token=token, address=address, variables=variables, others=others
        )

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()
