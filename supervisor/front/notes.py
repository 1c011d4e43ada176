"""Errors that a run's report lists besides the verdict."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.records.events import EventLog

_MAX_KEPT = 100


class Notes:
    """Collects errors that did not end the run; each is a fact as it happens.

    Parameters
    ----------
    events : EventLog
        The run's.
    known : iterable of str
        What was noted before the run began.
    """

    def __init__(self, events: EventLog, known: Iterable[str] = ()) -> None:
        self._events = events
        self.errors = list(known)

    def note(self, error: str) -> None:
        """Note an error; only the first hundred are kept for the report."""
        self._events.emit("error_noted", error=error)
        if len(self.errors) < _MAX_KEPT:
            self.errors.append(error)
