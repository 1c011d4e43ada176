"""When a look that found no job alive proves that there will be none.

An ``sbatch`` that was interrupted may have sent its request: its job appears a moment
later. Where that can have happened, a second look has to find none as well.
"""

from __future__ import annotations

import time

from slurm.records.book import Book

_SETTLE_S = 2.0
_SETTLE_OTHERS_S = 0.25
"""The same where no interrupted submission is known, but there may have been one."""


def settle_s(book: Book, *, cut_short: bool) -> float:
    """How long after the first look that found none another one must find none, in s.

    By then the controller has received whatever an interrupted ``sbatch`` had sent.

    Parameters
    ----------
    book : Book
        What is known of submissions.
    cut_short : bool
        Whether programs that may have submitted unseen were killed while they ran.
    """
    if book.open:
        return _SETTLE_S
    return _SETTLE_OTHERS_S if book.others and cut_short else 0.0


class Absence:
    """Follows looks, and says when they have proved that no job is left."""

    def __init__(self) -> None:
        self._look_began = 0.0
        self._since: float | None = None

    def look_begins(self) -> None:
        """Note the time before a look."""
        self._look_began = time.monotonic()

    def found_some(self) -> None:
        """Start over: the look has found a job that is alive."""
        self._since = None

    def found_none(self, after_s: float) -> bool:
        """Return whether this look was the last: ``after_s`` behind the first that found none."""
        if self._since is None:
            self._since = time.monotonic() if after_s else self._look_began
        return self._look_began >= self._since + after_s
