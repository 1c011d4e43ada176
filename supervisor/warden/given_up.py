"""Combinations that the warden gives up: a journal of its own, and news of each."""

from __future__ import annotations

from pathlib import Path

from supervisor.errors import AllstopError
from supervisor.ipc import messages
from supervisor.rows.journal import JournalWriter
from supervisor.warden.workforce import Run


class GivenUp:
    """Records combinations that no worker can compute; the sweep continues.

    Parameters
    ----------
    run : Run
        The run.
    run_id : str
        Its id.
    """

    def __init__(self, run: Run, run_id: str) -> None:
        self._run = run
        self._run_id = run_id
        self._journal: JournalWriter | None = None
        self.count = 0
        """How many they are."""

    @property
    def needs_journal(self) -> bool:
        """Whether the next one needs a journal to be begun."""
        return self._journal is None

    def begin(self, path: Path, serial: int) -> None:
        """Begin the journal; one that cannot be begun fails the run."""
        try:
            self._journal = JournalWriter(path, self._run_id, serial)
        except AllstopError as problem:
            self._run.fail(str(problem))

    def add(self, index: int, error: str) -> None:
        """Record a combination as failed; a journal that cannot be written fails the run."""
        try:
            if self._journal is not None:
                self._journal.append_failed(index, error)
        except AllstopError as problem:
            self._run.fail(str(problem))
        self.count += 1
        self._run.events.emit("combination_failed", index=index, error=error)
        self._run.post(messages.CombinationFailed(index, error))

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
