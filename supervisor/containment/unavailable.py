"""The error for a strength of containment that this machine does not offer."""

from __future__ import annotations


class UnavailableError(OSError):
    """A strength is not available here; the next one may be.

    Parameters
    ----------
    why : str
        What was refused, and how.
    fix : str
        What the user can do about it.
    spent : int, optional
        Pidfd of a process that was made in the attempt. It has ended, or ends by itself,
        and is a child of the front, which reaps it.
    """

    def __init__(self, why: str, fix: str, *, spent: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix
        self.spent = spent
