"""A strength of containment that this machine does not offer."""

from __future__ import annotations


class UnavailableError(OSError):
    """A strength cannot be had here; the next one may.

    Parameters
    ----------
    why : str
        What was refused, and how.
    mend : str
        What the user can do about it.
    spent : int, optional
        Pidfd of a process that was made in the attempt. It has ended, or ends by
        itself, and is the front's child: the front reaps it.
    """

    def __init__(self, why: str, mend: str, *, spent: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.mend = mend
        self.spent = spent
