"""How long a call may still take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Deadline:
    """A moment by which something has to be done.

    It stands still while a person is asked for something: how fast somebody
    types says nothing about the link.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """What is left, in s; never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return self.left_s == 0.0

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Do not count the time spent inside."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - began
