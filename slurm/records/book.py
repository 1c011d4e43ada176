"""What a ledger says of a run's jobs: a pure fold over its records.

Jobs are *outstanding* while one of them may be alive: from the first announcement until
a look has found that none is. Records of unknown kinds are ignored.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from slurm.environment import KEPT
from slurm.records.states import JobState
from slurm.records.tokens import JobId, Token, check_token
from supervisor.records.ledger import Ledger, LedgerWriteError, Record, read_ledger
from supervisor.records.scribe_line import ScribeLine
from supervisor.system.shape import ShapeError, read_as


class _JobsExpected(NamedTuple):
    token: Token
    address: str
    variables: dict[str, str]
    others: bool


class _LeaseMade(NamedTuple):
    path: str


class _SubmitIntended(NamedTuple):
    number: int | str


class _Submitted(NamedTuple):
    number: int | str
    job_id: JobId
    submitted_at: str | None = None


class _SubmittedElsewhere(NamedTuple):
    number: int | str
    job_id: str
    cluster: str


class _SubmitRefused(NamedTuple):
    number: int | str


class _JobsSeen(NamedTuple):
    jobs: list[tuple[JobId, str, str]]


class _CancelWanted(NamedTuple):
    pass


class _JobsSettled(NamedTuple):
    pass


class _JobsDetached(NamedTuple):
    pass


class _Other(NamedTuple):
    """Of a later version, or of another part of the program."""


_KINDS: dict[str, type[Any]] = {
    "jobs_expected": _JobsExpected,
    "lease_made": _LeaseMade,
    "submit_intended": _SubmitIntended,
    "submitted": _Submitted,
    "submitted_elsewhere": _SubmittedElsewhere,
    "submit_refused": _SubmitRefused,
    "jobs_seen": _JobsSeen,
    "cancel_wanted": _CancelWanted,
    "jobs_settled": _JobsSettled,
    "jobs_detached": _JobsDetached,
}


def known_variables(found: Mapping[str, Any]) -> dict[str, str]:
    """Return those environment variables of a ledger that are used: where the cluster is.

    Nothing that decides which program is executed: programs are found on the PATH of the user
    who looks at the jobs.
    """
    return {name: str(found[name]) for name in KEPT if name in found}


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
        Environment variables that are needed to reach it, see :func:`known_variables`.
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
        """Apply one record; one that lacks a field, or has one of another type, is ignored.

        Raises
        ------
        ConfigError
            If it announces jobs with a token that is none.
        """
        if kind == "jobs_expected":
            check_token(fields.get("token", ""))
        with contextlib.suppress(ShapeError):
            self._apply(read_as(_KINDS.get(kind, _Other), fields), at)

    def _apply(self, record: object, at: float) -> None:
        match record:
            case _JobsExpected(token, address, variables, others):
                self.token, self.address = token, address
                self.variables = known_variables(variables)
                self.others = self.others or others
                self.settled = self.detached = self.wanted = False
            case _LeaseMade(path):
                self.lease = path
            case _SubmitIntended(number):
                self.submissions[number] = Submission(number, at)
                self.settled = self.detached
            case _Submitted(number, job_id, submitted_at):
                self._learn(number, at, job_id)
                if submitted_at:
                    self.submitted_at[job_id] = submitted_at
            case _SubmittedElsewhere(number, job_id, cluster):
                # by the user's --clusters; ids are unique on one cluster only
                submission = self.submissions.setdefault(number, Submission(number, at))
                submission.elsewhere = f"{job_id} on cluster {cluster}"
            case _SubmitRefused(number):
                self.submissions.setdefault(number, Submission(number, at)).refused = True
            case _JobsSeen(jobs):
                for job_id, state, submitted_at in jobs:
                    self.states[job_id] = JobState.of(state)
                    self.submitted_at[job_id] = submitted_at
            case _CancelWanted():
                self.wanted = True
            case _JobsSettled():
                self.settled = True
                for submission in self.open:
                    submission.refused = True
            case _JobsDetached():
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
        variables = known_variables(variables)
        self.write(
            "jobs_expected", token=token, address=address, variables=variables, others=others
        )

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()
