"""What a power loss does to files: a run that is resumed afterwards equals one without it.

Bytes that were not on the disk yet are missing at the end, or are there as zeros, or as
what the disk held before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.records.events import EventLog, read_events
from supervisor.rows.compaction import compact
from supervisor.rows.frames import iter_frames
from supervisor.rows.grid import Grid
from supervisor.rows.index import covered, gaps
from supervisor.rows.journal import journal_paths, next_serial
from supervisor.rows.space import Space
from tests.support.data import write_journal

GRID = Grid.of({"fast": range(6), "slow": range(7)})
CHUNKS = [[(0, 5), (12, 20), (33, 36)], [(5, 12), (20, 33), (36, 42)]]
PAGE = 4096


def results(directory: Path) -> bytes:
    out = directory / "results.parquet"
    assert compact(directory / "journal", out, Space(GRID)).missing == ()
    return out.read_bytes()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """Results of a run that had power all the time."""
    (tmp_path / "whole").mkdir()
    for serial, chunks in enumerate(CHUNKS):
        write_journal(tmp_path / "whole" / "journal", serial, chunks)
    return results(tmp_path / "whole")


def damages(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Where a journal's own bytes end, and what is in the file then."""
    stale = random.Random(5).randbytes(2 * PAGE)
    for at in range(len(raw) + 1):
        yield at, raw[:at]
        yield at, raw[:at] + bytes(len(raw) - at)  # as long as it was: the size was on the disk
        yield at, raw[:at] + stale[: len(raw) - at]
    for at in (0, 1, 127, 128, 200, len(raw) - 1, len(raw)):
        yield at, raw[:at] + bytes(2 * PAGE)
        yield at, raw[:at] + stale
        yield at, raw[:at] + bytes(PAGE) + stale


def test_whatever_is_missing_is_computed_again_and_no_more(tmp_path: Path, whole: bytes) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    for serial, chunks in enumerate(CHUNKS):
        write_journal(directory / "journal", serial, chunks)
    first, second = journal_paths(directory / "journal")
    raw = first.read_bytes()
    tried = set()
    ends = [frame.offset + frame.size for frame in iter_frames(first)]
    for at, left in damages(raw):
        first.write_bytes(left)
        kept = [chunk for chunk, end in zip(CHUNKS[0], ends, strict=True) if end <= at]
        missing = gaps(covered(directory / "journal", Space(GRID)), range(GRID.size))
        assert missing == [chunk for chunk in CHUNKS[0] if chunk not in kept], at
        if at % 41 and tuple(missing) in tried:
            continue  # the same frames are left, and nothing else is read
        tried.add(tuple(missing))
        # as the warden of a resumed run does it
        again = write_journal(directory / "journal", next_serial(directory / "journal"), missing)
        assert results(directory) == whole, at
        again.unlink()
    assert len(tried) == 1 + len(CHUNKS[0])
    assert journal_paths(directory / "journal") == [first, second]


def test_a_journal_of_which_nothing_can_be_read_is_named(tmp_path: Path) -> None:
    for serial, chunks in enumerate(CHUNKS):
        write_journal(tmp_path / "journal", serial, chunks)
    lost, _ = journal_paths(tmp_path / "journal")
    lost.write_bytes(b"stale" * PAGE)
    done = compact(tmp_path / "journal", tmp_path / "results.parquet", Space(GRID))
    assert done.missing == tuple(CHUNKS[0])
    (damage,) = done.damaged
    assert damage == f"{lost}: is not a journal of allstop"


@pytest.mark.parametrize(
    "tail", [b"", b'{"event": "warden.worker_st', bytes(PAGE), b"[1]\n[2", b"\n7"]
)
def test_the_first_fact_after_it_is_not_lost_with_the_last_before(
    tmp_path: Path, tail: bytes
) -> None:
    log = EventLog(tmp_path, "front")
    log.emit("run_requested", resumed=0)
    log.close()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(tail)
    log = EventLog(tmp_path, "front")
    log.emit("run_requested", resumed=1)
    log.close()
    assert [fact.fields for fact in read_events(tmp_path)] == [{"resumed": 0}, {"resumed": 1}]
