"""Facts in ``events.jsonl``: written by several, read while they are being written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from supervisor.records import rundir
from supervisor.records.events import EventLog, latest, read_events

NAMES = ("front.a", "front.ab", "warden.a", "warden.b")


def written(run_dir: Path, facts: list[tuple[str, str]]) -> None:
    logs = {room: EventLog(run_dir, room) for room in ("front", "warden")}
    for name, text in facts:
        room, _, happened = name.partition(".")
        logs[room].emit(happened, text=text)
    for log in logs.values():
        log.close()


@given(
    facts=st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["", '{"event": "front.a",}']))
    ),
    wanted=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    cut=st.integers(0, 60),
)
def test_the_latest_of_some_facts_is_the_last_that_reading_all_finds(
    facts: list[tuple[str, str]], wanted: list[str], cut: int
) -> None:
    """Also where a power loss has torn the last line."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        written(run_dir, facts)
        log = run_dir / rundir.EVENTS_FILE
        log.write_bytes(log.read_bytes()[: log.stat().st_size - cut or None])
        read = [fact.name for fact in read_events(run_dir) if fact.name in wanted]
        assert latest(run_dir, *wanted) == (read[-1] if read else "")


def test_of_a_run_without_facts_none_is_the_latest(tmp_path: Path) -> None:
    assert latest(tmp_path, "front.a") == ""
    assert list(read_events(tmp_path)) == []
