"""A time limit for a call and all its steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Deadline:
    """The instant by which a call has to be done.

    It can be paused while the user types a passphrase: that says nothing about the link.

    Parameters
    ----------
    seconds : float
        From now, in s.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Time left, in s; never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left_s == 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time spent in the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - began
