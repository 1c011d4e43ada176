"""How a computation is given up in the middle."""

from __future__ import annotations

from collections.abc import Callable

Poll = Callable[[], None]
"""Called between two operators; raises :class:`Stopped` once a stop was requested."""


class Stopped(Exception):
    """A stop was requested: what is being computed is discarded."""


def poll_of(stop_requested: Callable[[], bool]) -> Poll:
    """Make a poll of a function that tells whether a stop was requested."""

    def poll() -> None:
        if stop_requested():
            raise Stopped

    return poll
