"""The results of one worker, appended to a file that nobody else writes.

A worker can be killed between any two instructions, so a journal has one
writer, no lock and no index: it is a header and then frames, each appended by
one ``write``. A frame carries its length and a CRC; reading stops at the first
that is not whole, so what a killed worker leaves behind can be cut, and is never
mistaken for a row.

::

    header   magic, version, serial, run id, CRC                      (128 bytes)
    frame    CRC of all that follows, kind, payload's length, payload
    COLUMNS  JSON list of metric names
    ROWS     start, count, offset of their COLUMNS frame, float64[count][columns]
    FAILED   index, error text

A ROWS frame names the COLUMNS frame it refers to, so reading can begin at any
frame. Numbers are little-endian. Journals live in ``<run_dir>/journal/`` as
``worker-NNNN.bin``, with a new serial for every process that is forked.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import (
    DamagedJournalError,
    InternalError,
    JournalError,
    RunFailedError,
)
from supervisor.system.durable import sync_directory

VERSION = 1
MAX_PAYLOAD_BYTES = 8 * 2**20
"""Longest payload of a frame: bounds what a reader must hold, and what a damaged length can ask."""

MAX_ERROR_BYTES = 2048
"""Longest error text kept for one combination."""

MAX_RUN_ID_BYTES = 64

_MAGIC = b"allstop\0"
_HEADER = struct.Struct("<8sII64s44xI")
_FRAME = struct.Struct("<III")
_ROWS = struct.Struct("<qqq")
_FAILED = struct.Struct("<q")
_FLOAT_BYTES = 8
_NAME = re.compile(r"worker-(\d+)\.bin")
_FULL = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "the file-size limit is reached",
}


class FrameKind(enum.IntEnum):
    """What a frame holds. Zero is not a kind: a hole left by a power cut reads as zeros."""

    COLUMNS = 1
    ROWS = 2
    FAILED = 3


_LEAST_BYTES: dict[int, int] = {
    FrameKind.COLUMNS: 2, FrameKind.ROWS: _ROWS.size, FrameKind.FAILED: _FAILED.size,
}  # fmt: skip


class Header(NamedTuple):
    """Whose journal it is."""

    run_id: str
    serial: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Finished rows, or one failed combination, found whole in a journal.

    Only the place is held, not the rows: indexing ten million rows stays cheap.

    Attributes
    ----------
    path : Path
        The journal.
    kind : FrameKind
        ``ROWS`` or ``FAILED``.
    start, count : int
        Combinations ``start`` to ``start + count`` (exclusive) of the grid.
    columns : tuple of str
        Metric names; empty for ``FAILED``.
    offset, size : int, in bytes
        Where the rows (or the error text) lie in the file.
    """

    path: Path
    kind: FrameKind
    start: int
    count: int
    columns: tuple[str, ...]
    offset: int
    size: int

    @property
    def stop(self) -> int:
        """First combination after the frame."""
        return self.start + self.count

    def rows(self, first: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Read rows ``first`` to ``stop`` (exclusive), counted within the frame.

        Returns
        -------
        ndarray of float64, shape (stop - first, len(columns)), read-only
            No rows for a ``FAILED`` frame.
        """
        width = len(self.columns)
        stop = self.count if stop is None else stop
        if self.kind is not FrameKind.ROWS:
            return np.empty((0, 0), dtype=np.float64)
        raw = self._read(first * width * _FLOAT_BYTES, (stop - first) * width * _FLOAT_BYTES)
        return np.frombuffer(raw, dtype="<f8").reshape(stop - first, width)

    def error(self) -> str:
        """Read why the combination failed; empty for ``ROWS``."""
        if self.kind is not FrameKind.FAILED:
            return ""
        return self._read(0, self.size).decode("utf-8", "replace")

    def _read(self, skip: int, size: int) -> bytes:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"cannot be read: {error.strerror}", path=str(self.path)) from None
        try:
            raw = os.pread(fd, size, self.offset + skip)
        finally:
            os.close(fd)
        if len(raw) != size:
            raise JournalError("became shorter while it was read", path=str(self.path))
        return raw


class JournalWriter:
    """Appends one worker's finished rows.

    Killed at any instant, it leaves at most one frame torn, at the end.

    Parameters
    ----------
    path : Path or str
        Must not exist: a journal is never appended to by a second process.
    run_id : str
        At most 64 bytes of UTF-8.
    serial : int
        The worker's number within the run.

    Raises
    ------
    RunFailedError
        If the file exists or cannot be written.
    """

    def __init__(self, path: Path | str, run_id: str, serial: int) -> None:
        self.path = Path(path)
        self._columns: tuple[str, ...] | None = None
        self._columns_at = 0
        self._end = 0
        """Invariant: the file is whole frames up to here; it is where a torn write is cut."""
        self._torn = False
        header = _pack_header(run_id, serial)
        try:
            self._fd = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._failure(error) from None
        try:
            self._write([header])
        except RunFailedError:
            self.close()
            raise

    def append(self, start: int, columns: Sequence[str], rows: NDArray[np.float64]) -> None:
        """Append finished rows; they survive whatever happens to this process.

        Parameters
        ----------
        start : int
            Combination of the first row; the others follow one by one.
        columns : sequence of str
            Metric names. Written only when they change.
        rows : ndarray of float64, shape (n_rows, len(columns))
            One row per combination.

        Raises
        ------
        RunFailedError
            If the disk is full or the write fails; everything appended before is
            kept, and appending may be tried again.
        """
        names = tuple(columns)
        if rows.ndim != 2 or rows.shape[1] != len(names) or not names or start < 0:
            raise InternalError(
                f"journal: rows {start}+ have shape {rows.shape} for {len(names)} columns"
            )
        rows = np.ascontiguousarray(rows, dtype="<f8")
        # a frame is bounded: a very long chunk becomes several, each whole in itself
        step = max(1, (MAX_PAYLOAD_BYTES - _ROWS.size) // (len(names) * _FLOAT_BYTES))
        for first in range(0, len(rows), step):
            self._append_rows(start + first, names, rows[first : first + step])

    def append_failed(self, index: int, error: str) -> None:
        """Record that combination ``index`` failed, with at most 2 KiB of the reason."""
        text = error.encode("utf-8", "replace")[:MAX_ERROR_BYTES].decode("utf-8", "ignore")
        payload = _FAILED.pack(index) + text.encode()
        self._write([_frame_head(FrameKind.FAILED, payload), payload])

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append_rows(self, start: int, names: tuple[str, ...], rows: NDArray[np.float64]) -> None:
        parts: list[bytes | memoryview] = []
        columns_at = self._columns_at
        if names != self._columns:
            payload = json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode()
            parts += [_frame_head(FrameKind.COLUMNS, payload), payload]
            columns_at = self._end
        head = _ROWS.pack(start, len(rows), columns_at)
        body = rows.data.cast("B")
        parts += [_frame_head(FrameKind.ROWS, head, body), head, body]
        self._write(parts)
        self._columns, self._columns_at = names, columns_at

    def _write(self, parts: list[bytes | memoryview]) -> None:
        if self._torn:
            raise RunFailedError(
                f"{self.path}: an earlier write was torn and could not be cut; "
                "what came before it is kept",
                run_dir=self._run_dir,
            )
        total = sum(len(part) for part in parts)
        try:
            done = os.writev(self._fd, parts)
            if done < total:
                # a nearly full disk takes a part; the next write says why
                rest = memoryview(b"".join(parts))[done:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._cut()
            raise self._failure(error) from None
        self._end += total

    def _cut(self) -> None:
        """Take back a torn write: frames appended after it would be lost with it."""
        try:
            os.ftruncate(self._fd, self._end)
        except OSError:
            self._torn = True

    @property
    def _run_dir(self) -> str:
        return str(self.path.parent.parent)

    def _failure(self, error: OSError) -> RunFailedError:
        why = _FULL.get(error.errno or 0)
        if why is None:
            message = f"{self.path}: cannot be written: {error.strerror}"
        else:
            message = (
                f"{self.path}: {why}; the results before are kept: make room and resume the run"
            )
        return RunFailedError(message, run_dir=self._run_dir)


class JournalTail:
    """Follows all journals of a directory while they grow.

    Parameters
    ----------
    directory : Path or str
        New journals are noticed; it may not exist yet.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._offsets: dict[Path, int] = {}

    def poll(self) -> list[Frame]:
        """Return the frames that have become whole since the last call.

        A frame that is being written is left for the next call.

        Raises
        ------
        JournalError
            If a file is of a newer version. One that is damaged is left out.
        """
        found: list[Frame] = []
        for path in journal_paths(self.directory):
            seen = self._offsets.get(path, 0)
            size = path.stat().st_size
            if size > seen:
                try:
                    frames, self._offsets[path] = read_journal(path, seen)
                except DamagedJournalError:
                    frames, self._offsets[path] = [], size
                found += frames
        return found


def journal_path(directory: Path | str, serial: int) -> Path:
    """Where the worker with this serial keeps its journal."""
    return Path(directory) / f"worker-{serial:04d}.bin"


def is_journal_name(name: str) -> bool:
    """Whether a file is named as journals are."""
    return _NAME.fullmatch(name) is not None


def journal_paths(directory: Path | str) -> list[Path]:
    """All journals of a directory, in the order of their serials."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 - plain names: no Path per foreign file
    except FileNotFoundError:
        return []
    serials = sorted((int(m[1]), m[0]) for name in names if (m := _NAME.fullmatch(name)))
    return [Path(directory) / name for _, name in serials]


def next_serial(directory: Path | str) -> int:
    """First serial above all that the directory holds, for a run that is resumed."""
    paths = journal_paths(directory)
    return 1 + int(paths[-1].stem.partition("-")[2]) if paths else 0


class JournalSync:
    """Sees a directory's journals onto the disk, so that a power loss keeps what they hold.

    Writers don't wait for the disk; whoever has the time does it for them.
    """

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory)
        self._synced: dict[Path, int] = {}

    def sync(self) -> None:
        """Wait until everything that was appended before the call is on the disk.

        Raises
        ------
        OSError
            If the disk does not take it.
        """
        grown = False
        for path in journal_paths(self._directory):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                if self._synced.get(path) != size:
                    os.fdatasync(fd)
                    grown = grown or path not in self._synced
                    self._synced[path] = size
            finally:
                os.close(fd)
        if grown:
            sync_directory(self._directory)


def read_header(path: Path | str) -> Header | None:
    """Whose journal a file is; None when its writer died before saying.

    Raises
    ------
    JournalError
        If the file is not a journal, or is of a newer version.
    """
    with _open(Path(path)) as file:
        return _read_header(file, str(path))


def read_journal(path: Path | str, from_offset: int = 0) -> tuple[list[Frame], int]:
    """Read the whole frames from an offset on.

    Returns
    -------
    frames : list of Frame
    offset : int
        Where the next call carries on; what lies beyond is torn, or not written yet.

    Raises
    ------
    JournalError
        If the file is not a journal, or is of a newer version.
    """
    frames: list[Frame] = []
    offset = from_offset
    for frame, end in _scan(Path(path), from_offset):
        offset = end
        if frame is not None:
            frames.append(frame)
    return frames, offset


def iter_frames(path: Path | str) -> Iterator[Frame]:
    """Yield the whole frames of a journal, holding one at a time."""
    return (frame for frame, _ in _scan(Path(path), 0) if frame is not None)


def _scan(path: Path, from_offset: int) -> Iterator[tuple[Frame | None, int]]:
    """Yield each valid frame (None for COLUMNS) with the offset where it ends."""
    known: dict[int, tuple[str, ...]] = {}
    with _open(path) as file:
        offset = from_offset
        if offset == 0:
            if _read_header(file, str(path)) is None:
                return
            offset = _HEADER.size
            yield None, offset
        file.seek(offset)
        while (found := _next_frame(file)) is not None:
            kind, payload = found
            body = offset + _FRAME.size
            if kind is FrameKind.COLUMNS:
                known[offset] = _columns(payload)
                frame = None
            elif kind is FrameKind.FAILED:
                (index,) = _FAILED.unpack_from(payload)
                text = body + _FAILED.size
                frame = Frame(path, kind, index, 1, (), text, len(payload) - _FAILED.size)
            else:
                start, count, columns_at = _ROWS.unpack_from(payload)
                if columns_at not in known:
                    known[columns_at] = _columns_at(file, columns_at)
                columns = known[columns_at]
                size = len(payload) - _ROWS.size
                if not columns or count < 1 or size != count * len(columns) * _FLOAT_BYTES:
                    return
                frame = Frame(path, kind, start, count, columns, body + _ROWS.size, size)
            offset = body + len(payload)
            yield frame, offset


def _next_frame(file: BinaryIO) -> tuple[FrameKind, bytes] | None:
    """Read the frame at the file's position; None when it is not whole."""
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    crc, kind, size = _FRAME.unpack(head)
    if size > MAX_PAYLOAD_BYTES:
        return None
    payload = file.read(size)
    if len(payload) < size or zlib.crc32(payload, zlib.crc32(head[4:])) != crc:
        return None
    if kind not in _LEAST_BYTES or size < _LEAST_BYTES[kind]:
        return None
    return FrameKind(kind), payload


def _columns_at(file: BinaryIO, offset: int) -> tuple[str, ...]:
    """Read the names another frame refers to; none if they are not there."""
    here = file.tell()
    file.seek(max(offset, 0))
    found = _next_frame(file)
    file.seek(here)
    return _columns(found[1]) if found and found[0] is FrameKind.COLUMNS else ()


def _columns(payload: bytes) -> tuple[str, ...]:
    try:
        names = json.loads(payload)
    except ValueError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _frame_head(kind: FrameKind, *payload: bytes | memoryview) -> bytes:
    tail = struct.pack("<II", kind, sum(len(part) for part in payload))
    crc = zlib.crc32(tail)
    for part in payload:
        crc = zlib.crc32(part, crc)
    return struct.pack("<I", crc) + tail


def _pack_header(run_id: str, serial: int) -> bytes:
    name = run_id.encode()
    if len(name) > MAX_RUN_ID_BYTES:
        raise InternalError(f"run id {run_id!r} is longer than {MAX_RUN_ID_BYTES} bytes")
    head = _HEADER.pack(_MAGIC, VERSION, serial, name, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def _read_header(file: BinaryIO, path: str) -> Header | None:
    raw = file.read(_HEADER.size)
    if not raw.strip(b"\0") or (len(raw) < _HEADER.size and _MAGIC.startswith(raw[:8])):
        return None  # its writer was killed, or the power failed, before the header was down
    if raw[:8] != _MAGIC:
        raise DamagedJournalError("is not a journal of allstop", path=path)
    # in every version the header is as long as this, and ends with its CRC
    if len(raw) < _HEADER.size or zlib.crc32(raw[:-4]) != struct.unpack_from("<I", raw, 124)[0]:
        raise DamagedJournalError("has a damaged header", path=path)
    _, version, serial, name, _ = _HEADER.unpack(raw)
    if version > VERSION:
        raise JournalError(
            f"is of version {version}; this allstop reads up to {VERSION}: upgrade allstop",
            path=path,
        )
    return Header(name.rstrip(b"\0").decode("utf-8", "replace"), serial)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=2**18)
    except OSError as error:
        raise JournalError(f"cannot be read: {error.strerror}", path=str(path)) from None
