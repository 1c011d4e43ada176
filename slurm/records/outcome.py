"""What is known of each job, for reports and for people."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from slurm.records.book import Book


class JobOutcome(NamedTuple):
    """The last known state of one job.

    Attributes
    ----------
    id : str or None
        Its id; None for a submission of which it is not known whether there is a job.
    token : str
        The run's token.
    state : str
        Its state when last seen.
    verified : bool
        Whether it was seen to have ended.
    """

    id: str | None
    token: str
    state: str
    verified: bool


def outcomes(book: Book, wanted: Collection[str] = ()) -> list[JobOutcome]:
    """List what a book knows of jobs; of all jobs, if no ids are given."""
    known = [
        JobOutcome(job_id, book.token, str(state), state.ended)
        for job_id, state in sorted(book.states.items(), key=lambda item: (len(item[0]), item[0]))
        if not wanted or job_id in wanted
    ]
    if wanted:
        strangers = sorted(set(wanted) - book.ids)
        return known + [JobOutcome(one, book.token, "unknown", False) for one in strangers]
    return known + [JobOutcome(None, book.token, "unknown", False) for _ in book.open]
