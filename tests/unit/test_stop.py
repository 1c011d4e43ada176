"""Stopping several runs from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor.ipc.stopflag import Level
from supervisor.lifecycle import stop
from supervisor.records.registry import Entry
from supervisor.system.process import Identity

NO_PROCESS = Identity(2**22, 0)


def test_every_run_is_asked_before_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[tuple[str, str]] = []

    class Recorded:
        def __init__(self, run_id: str) -> None:
            self.run_id = run_id

        @classmethod
        def begin(cls, entry: Entry, *_: Any) -> Recorded:
            did.append(("asked", entry.run_id))
            return cls(entry.run_id)

        def confirm(self) -> stop.Outcome:
            did.append(("confirmed", self.run_id))
            return stop.Outcome(self.run_id, True, [], 0.0, [])

    monkeypatch.setattr(stop, "RunStop", Recorded)
    entries = [Entry(name, Path("run"), NO_PROCESS, NO_PROCESS) for name in "ab"]
    outcomes = stop.stop_runs(entries, Level.STOP)
    assert [outcome.run_id for outcome in outcomes] == ["a", "b"]
    assert did == [("asked", "a"), ("asked", "b"), ("confirmed", "a"), ("confirmed", "b")]
