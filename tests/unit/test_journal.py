from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.errors import InternalError, JournalError, RunFailedError
from supervisor.rows.frames import (
    MAX_ERROR_BYTES,
    MAX_PAYLOAD_BYTES,
    Frame,
    FrameKind,
    Header,
    iter_frames,
    read_header,
    read_journal,
)
from supervisor.rows.journal import (
    JournalTail,
    JournalWriter,
    journal_path,
    journal_paths,
    next_serial,
)
from tests.support.data import METRICS, metrics_of, write_journal

Content = tuple[FrameKind, int, tuple[str, ...], bytes]


def content(frame: Frame) -> Content:
    body = frame.rows().tobytes() or frame.error().encode()
    return frame.kind, frame.start, frame.columns, body


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "worker-0000.bin"
    with JournalWriter(path, "run-1", 0) as writer:
        writer.append(0, ("a", "b"), np.array([[1.0, 2.0], [3.0, np.nan]]))
        writer.append_failed(2, "ZeroDivisionError: no bars")
        writer.append(3, ("a",), np.array([[-0.0]]))
        writer.append(4, ("a",), np.array([[np.inf], [7.0]]))
    return path


def test_what_is_appended_is_read(small: Path) -> None:
    frames, offset = read_journal(small)
    assert [(f.kind, f.start, f.stop, f.columns) for f in frames] == [
        (FrameKind.ROWS, 0, 2, ("a", "b")),
        (FrameKind.FAILED, 2, 3, ()),
        (FrameKind.ROWS, 3, 4, ("a",)),
        (FrameKind.ROWS, 4, 6, ("a",)),
    ]
    assert np.array_equal(frames[0].rows(), [[1.0, 2.0], [3.0, np.nan]], equal_nan=True)
    assert frames[0].rows(1, 2).shape == (1, 2)
    assert frames[0].error() == ""
    assert frames[1].error() == "ZeroDivisionError: no bars"
    assert frames[1].rows().shape == (0, 0)
    assert np.signbit(frames[2].rows()[0, 0])
    assert offset == small.stat().st_size
    assert read_header(small) == Header("run-1", 0)
    assert list(iter_frames(small)) == frames


def test_reading_can_begin_at_any_frame(small: Path) -> None:
    frames, end = read_journal(small)
    last_head = frames[3].offset - 24 - 12
    tail, offset = read_journal(small, last_head)
    assert tail == frames[3:]
    assert offset == end


def test_columns_are_written_only_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "worker-0000.bin"
    with JournalWriter(path, "r", 0) as writer:
        writer.append(0, METRICS, metrics_of(0, 1))
        first = path.stat().st_size
        writer.append(1, METRICS, metrics_of(1, 2))
        second = path.stat().st_size - first
        writer.append(2, METRICS[::-1], metrics_of(2, 3))
        third = path.stat().st_size - first - second
    assert second < third
    assert path.read_bytes().count(b"sharpe") == 2


def test_cut_at_every_byte_it_gives_a_prefix(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    expected = [content(f) for f in read_journal(small)[0]]
    cut = tmp_path / "cut.bin"
    lengths = set()
    for size in range(len(whole) + 1):
        cut.write_bytes(whole[:size])
        frames, offset = read_journal(cut)
        assert [content(f) for f in frames] == expected[: len(frames)]
        assert offset <= size
        lengths.add(len(frames))
    assert lengths == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x80])
def test_every_byte_flipped_it_gives_no_wrong_row(small: Path, tmp_path: Path, mask: int) -> None:
    whole = small.read_bytes()
    expected = [content(f) for f in read_journal(small)[0]]
    flipped = tmp_path / "flipped.bin"
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= mask
        flipped.write_bytes(damaged)
        try:
            frames, _ = read_journal(flipped)
        except JournalError:
            assert at < 128  # only the header can make it no journal
            continue
        assert [content(f) for f in frames] == expected[: len(frames)]
        assert at < 128 or len(frames) < len(expected)


@pytest.mark.parametrize("garbage", [b"\0" * 4096, b"\xff" * 50, os.urandom(300), b"\x01"])
def test_garbage_after_the_frames_is_cut(small: Path, garbage: bytes) -> None:
    frames, offset = read_journal(small)
    with small.open("ab") as file:
        file.write(garbage)
    assert read_journal(small) == (frames, offset)
    assert read_journal(small, offset) == ([], offset)


@pytest.mark.parametrize("raw", [b"", b"alls", b"\0" * 4096, b"\0" * 5])
def test_a_header_that_never_got_down_holds_nothing(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "worker-0000.bin"
    path.write_bytes(raw)
    assert read_journal(path) == ([], 0)
    assert read_header(path) is None


@pytest.mark.parametrize("raw", [b"hello", b"time,close\n" * 50, os.urandom(4) + b"\1" * 500])
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "worker-0007.bin"
    path.write_bytes(raw)
    with pytest.raises(JournalError, match=r"worker-0007\.bin: is not a journal"):
        read_journal(path)


@pytest.mark.parametrize(
    ("version", "advice"), [(3, "upgrade allstop"), (1, "use the allstop that wrote it")]
)
def test_another_version_is_refused_by_name(small: Path, version: int, advice: str) -> None:
    raw = bytearray(small.read_bytes())
    raw[8] = version
    raw[124:128] = zlib.crc32(raw[:124]).to_bytes(4, "little")
    small.write_bytes(raw)
    said = rf"worker-0000\.bin: is of version {version}; this allstop reads version 2: {advice}"
    with pytest.raises(JournalError, match=said):
        read_journal(small)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"gone\.bin: cannot be read"):
        read_journal(tmp_path / "gone.bin")


def test_a_journal_is_never_appended_to_twice(small: Path) -> None:
    before = small.read_bytes()
    with pytest.raises(RunFailedError, match="File exists"):
        JournalWriter(small, "run-2", 0)
    assert small.read_bytes() == before


def test_rows_must_fit_their_columns(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "w.bin", "r", 0) as writer:
        unfit = [((), np.empty((1, 0))), (("a",), np.ones((2, 2))), (("a",), np.ones(3))]
        for columns, rows in unfit:
            with pytest.raises(InternalError):
                writer.append(0, columns, rows)
    with pytest.raises(InternalError, match="longer than"):
        JournalWriter(tmp_path / "x.bin", "r" * 65, 0)


def test_a_long_chunk_becomes_several_frames(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    rows = np.arange(2.0 * MAX_PAYLOAD_BYTES / 8).reshape(-1, 2)
    with JournalWriter(path, "r", 0) as writer:
        writer.append(5, ("a", "b"), rows)
        writer.append(0, ("a", "b"), rows[:0])
    frames, _ = read_journal(path)
    assert len(frames) == 3
    assert np.array_equal(np.concatenate([f.rows() for f in frames]), rows)
    assert [f.start for f in frames] == [5, frames[0].stop, frames[1].stop]


def test_a_frame_covers_more_combinations_than_it_has_rows(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "w.bin", "r", 0) as writer:
        writer.append(5, ("a",), np.array([[1.0], [2.0]]), stop=10, indices=np.array([6, 9]))
        writer.append(10, ("a",), np.empty((0, 1)), stop=20, indices=np.arange(0))
    frames, _ = read_journal(tmp_path / "w.bin")
    assert [(f.start, f.stop, f.count, f.columns) for f in frames] == [
        (5, 10, 2, ("a",)),
        (10, 20, 0, ("a",)),
    ]
    assert frames[0].rows().tolist() == [[1.0], [2.0]]
    assert frames[1].rows().shape == (0, 1)


def test_a_long_chunk_is_cut_where_its_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    rows = np.arange(2.0 * MAX_PAYLOAD_BYTES / 8).reshape(-1, 2)
    indices = 7 + 3 * np.arange(len(rows))
    with JournalWriter(path, "r", 0) as writer:
        writer.append(5, ("a", "b"), rows, stop=4 * len(rows), indices=indices)
    frames, _ = read_journal(path)
    assert np.array_equal(np.concatenate([f.rows() for f in frames]), rows)
    edges = [5, *(f.stop for f in frames)]
    assert [f.start for f in frames] == edges[:-1]
    assert edges[-1] == 4 * len(rows)
    for frame in frames:
        assert frame.count == np.sum((indices >= frame.start) & (indices < frame.stop))


@pytest.mark.parametrize(
    ("stop", "indices"), [(9, [5, 9]), (9, [4, 6]), (9, [5]), (9, None), (6, None)]
)
def test_rows_must_fit_their_range(tmp_path: Path, stop: int, indices: list[int] | None) -> None:
    with JournalWriter(tmp_path / "w.bin", "r", 0) as writer:
        where = None if indices is None else np.array(indices)
        with pytest.raises(InternalError, match="2 rows do not fit combinations 5 to"):
            writer.append(5, ("a",), np.ones((2, 1)), stop=stop, indices=where)


def test_a_long_error_is_cut_at_a_character(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    with JournalWriter(path, "r", 0) as writer:
        writer.append_failed(0, "x" + "é" * MAX_ERROR_BYTES)
        writer.append_failed(1, "\ud800 lone surrogate")
    frames, _ = read_journal(path)
    assert frames[0].error() == "x" + "é" * (MAX_ERROR_BYTES // 2 - 1)
    assert frames[1].error() == "? lone surrogate"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 5), st.integers(1, 3)),  # rows, columns
            st.text(max_size=20),  # an error
        ),
        max_size=8,
    ),
    cut=st.floats(0, 1),
)
def test_any_sequence_reads_back_and_any_cut_is_a_prefix(
    tmp_path: Path, steps: list[tuple[int, int] | str], cut: float
) -> None:
    path = tmp_path / "any.bin"
    path.unlink(missing_ok=True)
    expected: list[Content] = []
    with JournalWriter(path, "r", 3) as writer:
        for at, step in enumerate(steps):
            if isinstance(step, str):
                writer.append_failed(at, step)
                kept = step.encode("utf-8", "replace")
                expected.append((FrameKind.FAILED, at, (), kept))
            else:
                count, width = step
                names = tuple(f"m{i}" for i in range(width))
                rows = np.random.default_rng(at).random((count, width))
                writer.append(at, names, rows)
                if count:
                    expected.append((FrameKind.ROWS, at, names, rows.tobytes()))
    assert [content(f) for f in read_journal(path)[0]] == expected
    os.truncate(path, int(path.stat().st_size * cut))
    got = [content(f) for f in read_journal(path)[0]]
    assert got == expected[: len(got)]


# --- following ---------------------------------------------------------------------------------


def test_tail_sees_each_frame_once_and_new_journals(tmp_path: Path) -> None:
    tail = JournalTail(tmp_path / "journal")
    assert tail.poll() == []
    (tmp_path / "journal").mkdir()
    with JournalWriter(journal_path(tmp_path / "journal", 0), "r", 0) as first:
        assert tail.poll() == []
        first.append(0, METRICS, metrics_of(0, 3))
        assert [f.start for f in tail.poll()] == [0]
        assert tail.poll() == []
        with JournalWriter(journal_path(tmp_path / "journal", 12345), "r", 12345) as second:
            second.append(9, METRICS, metrics_of(9, 10))
            first.append(3, METRICS, metrics_of(3, 5))
            frames = tail.poll()
        assert [f.start for f in frames] == [3, 9]
        assert np.array_equal(frames[0].rows(), metrics_of(3, 5))


def test_tail_waits_for_a_frame_to_become_whole(small: Path, tmp_path: Path) -> None:
    directory = tmp_path / "growing"
    directory.mkdir()
    whole, expected = small.read_bytes(), read_journal(small)[0]
    tail, seen = JournalTail(directory), []
    with journal_path(directory, 0).open("wb", buffering=0) as file:
        for at in range(len(whole)):
            file.write(whole[at : at + 1])
            seen += tail.poll()
    assert [content(f) for f in seen] == [content(f) for f in expected]


def test_journals_are_listed_by_serial(tmp_path: Path) -> None:
    assert next_serial(tmp_path) == 0
    for serial in (10000, 3, 9999):
        write_journal(tmp_path, serial, [(0, 1)])
    (tmp_path / "worker-x.bin").touch()
    (tmp_path / "worker-0001.bin.bak").touch()
    names = [p.name for p in journal_paths(tmp_path)]
    assert names == ["worker-0003.bin", "worker-9999.bin", "worker-10000.bin"]
    assert next_serial(tmp_path) == 10001


# --- killed, and disks that are full -----------------------------------------------------------

APPENDER = """
import sys
import numpy as np
from supervisor.rows.journal import JournalWriter
from tests.support.data import METRICS, metrics_of
writer = JournalWriter(sys.argv[1], "killed", 0)
at = 0
while True:
    size = 1 + at % 3000
    writer.append(at, METRICS, metrics_of(at, at + size))
    at += size
    print(at, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 60])
def test_killed_while_appending_it_keeps_all_it_said(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "worker-0000.bin"
    with subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        said = 0
        for _ in range(acknowledged):
            said = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    frames, _ = read_journal(path)
    kept = 0
    for frame in frames:
        assert frame.start == kept
        kept = frame.stop
        assert np.array_equal(frame.rows(), metrics_of(frame.start, frame.stop))
    assert kept >= said


def _limited_append(path: Path, limit: int) -> None:
    """Runs in a child: a file that may not grow any more behaves like a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = JournalWriter(path, "full", 0)
    writer.append(0, METRICS, metrics_of(0, 10))
    whole = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    for _ in range(2):
        with pytest.raises(RunFailedError, match=r"limit is reached.*kept.*make room") as caught:
            writer.append(10, ("other", "names"), np.ones((1000, 2)))
        assert caught.value.run_dir == str(path.parent.parent)
        assert path.stat().st_size == whole
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    writer.append(10, METRICS, metrics_of(10, 20))
    writer.append(20, ("other",), np.ones((1, 1)))
    writer.close()


@pytest.mark.parametrize("limit", [600, 601, 1000, 4096])
def test_a_full_disk_keeps_what_was_before_and_can_go_on(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "journal" / "worker-0000.bin"
    path.parent.mkdir()
    code = (
        "import sys; from pathlib import Path; from tests.unit.test_journal import _limited_append;"
        "_limited_append(Path(sys.argv[1]), int(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(limit)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    frames, _ = read_journal(path)
    found = [(f.start, f.stop, len(f.columns)) for f in frames]
    assert found == [(0, 10, 4), (10, 20, 4), (20, 21, 1)]
    assert np.array_equal(frames[1].rows(), metrics_of(10, 20))


def test_a_tear_that_cannot_be_cut_ends_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker-0000.bin"
    with JournalWriter(path, "r", 0) as writer:
        writer.append(0, METRICS, metrics_of(0, 2))

        real_write = os.write

        def short(fd: int, parts: list[bytes]) -> int:
            return real_write(fd, b"".join(parts)[:20])

        def fail(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", short)
            patch.setattr(os, "ftruncate", fail)
            patch.setattr(os, "write", fail)
            with pytest.raises(RunFailedError, match="disk full"):
                writer.append(2, METRICS, metrics_of(2, 4))
        with pytest.raises(RunFailedError, match="could not be cut"):
            writer.append(4, METRICS, metrics_of(4, 6))
    assert [f.start for f in read_journal(path)[0]] == [0]


def test_dev_full_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "worker-0000.bin"
    with JournalWriter(path, "r", 0) as writer:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, writer._fd)
        os.close(full)
        with pytest.raises(RunFailedError, match=r"worker-0000\.bin: disk full"):
            writer.append(0, METRICS, metrics_of(0, 1))


def test_close_is_harmless_when_repeated(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "worker-0000.bin", "r", 0)
    writer.close()
    writer.close()


def test_a_tail_passes_a_damaged_journal_by(tmp_path: Path) -> None:
    write_journal(tmp_path, 0, [(0, 5)]).write_bytes(os.urandom(4) + b"1" * 500)
    write_journal(tmp_path, 1, [(5, 9)])
    tail = JournalTail(tmp_path)
    assert [(frame.start, frame.stop) for frame in tail.poll()] == [(5, 9)]
    assert tail.poll() == []


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="cannot be written: No such file or directory"):
        JournalWriter(tmp_path / "gone" / "worker-0000.bin", "r", 0)


# --- the format --------------------------------------------------------------------------------

V2 = Path(__file__).resolve().parents[1] / "support" / "journal-v2.bin"


def test_a_journal_of_version_2_stays_readable() -> None:
    """Written by the code of version 2 and kept since, torn tail included: a run may be old."""
    assert read_header(V2) == Header("20260101-000000-abcdef", 7)
    frames, offset = read_journal(V2)
    assert offset == V2.stat().st_size - 9
    assert [(f.kind, f.start, f.stop, f.count, f.columns) for f in frames] == [
        (FrameKind.ROWS, 0, 9, 2, ("total_return", "sharpe", "trades")),
        (FrameKind.FAILED, 9, 10, 1, ()),
        (FrameKind.ROWS, 10, 11, 1, ("total_return", "sharpe", "trades")),
        (FrameKind.ROWS, 11, 500, 0, ("total_return", "sharpe", "trades")),
        (FrameKind.ROWS, 500, 502, 2, ("größe",)),
    ]
    wanted = np.array([[0.5, np.nan, 3.0], [-0.25, -0.0, 0.0]])
    assert frames[0].rows().tobytes() == wanted.tobytes()
    assert frames[1].error() == "ValueError: no bars (mine.py:3)"
    assert frames[2].rows().tolist() == [[1e-300, np.inf, 12.0]]
    assert frames[3].rows().shape == (0, 3)
    assert frames[4].rows().tolist() == [[1.5], [2.5]]
