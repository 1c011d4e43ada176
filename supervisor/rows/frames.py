"""The format of a journal: the finished rows of one worker, as frames in a file.

A worker can be killed between any two instructions, so a journal has one writer, no
lock and no index: it is a header and then frames, each appended by one ``write``. A
frame carries its length and a CRC. Reading stops at the first frame that is not whole,
so what a killed worker leaves behind is cut and never mistaken for a row.

::

    header   magic, version, serial, run id, CRC                      (128 bytes)
    frame    CRC of all that follows, kind, payload's length, payload
    COLUMNS  JSON list of metric names
    ROWS     start, stop, offset of their COLUMNS frame, float64[rows][columns]
    FAILED   index, error text
    VALUE    JSON list: metric, kind, text or whole number (see rows/cells.py)

A ROWS frame covers the combinations from start to stop (exclusive). It has exactly one
row for each of them that the strategy accepts, in order; possibly none. It names the
COLUMNS frame it refers to, so reading can begin at any frame. Numbers are
little-endian.
"""

from __future__ import annotations

import enum
import json
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DamagedJournalError, InternalError, JournalError
from supervisor.system import private

VERSION = 2
MAX_PAYLOAD_BYTES = 8 * 2**20
"""Longest payload of a frame: bounds what a reader must hold, and what a damaged length can ask."""

MAX_ERROR_BYTES = 2048
"""Longest error text kept for one combination."""

MAX_RUN_ID_BYTES = 64

_MAGIC = b"allstop\0"
_HEADER = struct.Struct("<8sII64s44xI")
_FRAME = struct.Struct("<III")
HEADER_BYTES = _HEADER.size
_ROWS = struct.Struct("<qqq")
_FAILED = struct.Struct("<q")
_FLOAT_BYTES = 8

Part = bytes | memoryview


class FrameKind(enum.IntEnum):
    """What a frame holds. Zero is not a kind: a hole left by a power cut reads as zeros."""

    COLUMNS = 1
    ROWS = 2
    FAILED = 3
    VALUE = 4


_LEAST_BYTES: dict[int, int] = {
    FrameKind.COLUMNS: 2, FrameKind.ROWS: _ROWS.size, FrameKind.FAILED: _FAILED.size,
    FrameKind.VALUE: 2,
}  # fmt: skip


class Header(NamedTuple):
    """The run and the worker that a journal belongs to."""

    run_id: str
    serial: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Finished rows, one failed combination, or a value, found whole in a journal.

    Only the place is held, not the rows: indexing ten million rows stays cheap.

    Attributes
    ----------
    path : Path
        The journal.
    kind : FrameKind
        ``ROWS``, ``FAILED`` or ``VALUE``; the last has no combination.
    start, stop : int
        Combinations ``start`` to ``stop`` (exclusive) of the grid.
    count : int
        Rows: one for each of these combinations that the strategy accepts.
    columns : tuple of str
        Metric names; empty for ``FAILED``. Of a ``VALUE`` its metric and its kind.
    offset, size : int, in bytes
        Where the rows (or the error text) lie in the file.
    """

    path: Path
    kind: FrameKind
    start: int
    stop: int
    count: int
    columns: tuple[str, ...]
    offset: int
    size: int

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
            fd = private.open_regular(self.path)
        except OSError as error:
            raise JournalError(f"cannot be read: {error.strerror}", path=str(self.path)) from None
        try:
            raw = os.pread(fd, size, self.offset + skip)
        finally:
            os.close(fd)
        if len(raw) != size:
            raise JournalError("became shorter while it was read", path=str(self.path))
        return raw


def pack_header(run_id: str, serial: int) -> bytes:
    """Bytes a journal begins with."""
    name = run_id.encode()
    if len(name) > MAX_RUN_ID_BYTES:
        raise InternalError(f"run id {run_id!r} is longer than {MAX_RUN_ID_BYTES} bytes")
    head = _HEADER.pack(_MAGIC, VERSION, serial, name, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def pack_columns(names: Sequence[str]) -> list[Part]:
    """Bytes of a COLUMNS frame."""
    payload = json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode()
    return [_frame_head(FrameKind.COLUMNS, payload), payload]


def pack_rows(start: int, stop: int, columns_at: int, rows: NDArray[np.float64]) -> list[Part]:
    """Bytes of a ROWS frame, whose COLUMNS frame begins at offset ``columns_at``."""
    head = _ROWS.pack(start, stop, columns_at)
    # a view, not a copy; an empty one cannot be cast
    body = np.ascontiguousarray(rows, dtype="<f8").data.cast("B") if len(rows) else b""
    return [_frame_head(FrameKind.ROWS, head, body), head, body]


def pack_failed(index: int, error: str) -> list[Part]:
    """Bytes of a FAILED frame, with at most :data:`MAX_ERROR_BYTES` of the error."""
    text = error.encode("utf-8", "replace")[:MAX_ERROR_BYTES].decode("utf-8", "ignore")
    payload = _FAILED.pack(index) + text.encode()
    return [_frame_head(FrameKind.FAILED, payload), payload]


def pack_value(metric: str, kind: str, value: str | int) -> list[Part]:
    """Bytes of a VALUE frame: what cells of a metric refer to."""
    payload = json.dumps([metric, kind, value], ensure_ascii=False).encode()
    return [_frame_head(FrameKind.VALUE, payload), payload]


def row_count(columns: Sequence[str], size: int) -> int:
    """Rows in a frame, from its columns and ``size`` in bytes; 1 for ``FAILED``."""
    return size // (len(columns) * _FLOAT_BYTES) if columns else 1


def max_rows(width: int) -> int:
    """Rows of ``width`` columns that fit into one frame."""
    return max(1, (MAX_PAYLOAD_BYTES - _ROWS.size) // (width * _FLOAT_BYTES))


def _frame_head(kind: FrameKind, *payload: Part) -> bytes:
    tail = struct.pack("<II", kind, sum(len(part) for part in payload))
    crc = zlib.crc32(tail)
    for part in payload:
        crc = zlib.crc32(part, crc)
    return struct.pack("<I", crc) + tail


def read_header(path: Path | str) -> Header | None:
    """Read which run and worker a journal belongs to; None if its writer died before the header.

    Raises
    ------
    JournalError
        If the file is not a journal, or is of another version.
    """
    with _open(Path(path)) as file:
        return _read_header(file, str(path))


def read_journal(
    path: Path | str, from_offset: int = 0, run_ids: Collection[str] = ()
) -> tuple[list[Frame], int]:
    """Read the whole frames from an offset on.

    Parameters
    ----------
    path : Path or str
        The journal.
    from_offset : int
        Where the last call ended.
    run_ids : collection of str
        The runs whose journal it may be; empty: any.

    Returns
    -------
    frames : list of Frame
    offset : int
        Where the next call resumes; what lies beyond is torn, or not written yet.

    Raises
    ------
    JournalError
        If the file is not a journal, or is of another version or run.
    """
    frames: list[Frame] = []
    offset = from_offset
    for frame, end in _scan(Path(path), from_offset, run_ids):
        offset = end
        if frame is not None:
            frames.append(frame)
    return frames, offset


def iter_frames(path: Path | str, run_ids: Collection[str] = ()) -> Iterator[Frame]:
    """Yield the whole frames of a journal, holding one at a time; see :func:`read_journal`."""
    return (frame for frame, _ in _scan(Path(path), 0, run_ids) if frame is not None)


def _scan(
    path: Path, from_offset: int, run_ids: Collection[str]
) -> Iterator[tuple[Frame | None, int]]:
    """Yield each valid frame (None for COLUMNS) with the offset where it ends."""
    known: dict[int, tuple[str, ...]] = {}
    with _open(path) as file:
        offset = from_offset
        if offset == 0:
            header = _read_header(file, str(path))
            if header is None:
                return
            if run_ids and header.run_id not in run_ids:
                raise DamagedJournalError(
                    f"is a journal of run {header.run_id}, not of {next(iter(run_ids))}: left out",
                    path=str(path),
                )
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
                size = len(payload) - _FAILED.size
                frame = Frame(path, kind, index, index + 1, 1, (), text, size)
            elif kind is FrameKind.VALUE:
                metric, of_kind, _ = _value(payload) or ("", "", "")
                frame = Frame(path, kind, 0, 0, 0, (metric, of_kind), body, len(payload))
            else:
                start, stop, columns_at = _ROWS.unpack_from(payload)
                if columns_at not in known:
                    known[columns_at] = _columns_at(file, columns_at)
                columns = known[columns_at]
                size = len(payload) - _ROWS.size
                if not columns or stop <= start or size % (len(columns) * _FLOAT_BYTES):
                    return
                count = row_count(columns, size)
                frame = Frame(path, kind, start, stop, count, columns, body + _ROWS.size, size)
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


def read_value(path: Path | str, offset: int) -> tuple[str, str, str | int] | None:
    """Read the VALUE frame that begins at an offset; None if there is none.

    Returns
    -------
    metric, kind : str
    value : str or int

    Raises
    ------
    JournalError
        If the file cannot be read.
    """
    with _open(Path(path)) as file:
        file.seek(offset)
        found = _next_frame(file)
    return _value(found[1]) if found and found[0] is FrameKind.VALUE else None


def _value(payload: bytes) -> tuple[str, str, str | int] | None:
    try:
        metric, kind, value = json.loads(payload)
    except (ValueError, TypeError):
        return None
    wanted = str if kind == "text" else int
    return (str(metric), str(kind), value) if isinstance(value, wanted) else None


def _columns(payload: bytes) -> tuple[str, ...]:
    try:
        names = json.loads(payload)
    except ValueError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


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
    if version != VERSION:
        how = "upgrade allstop" if version > VERSION else "use the allstop that wrote it"
        raise JournalError(
            f"is of version {version}; this allstop reads version {VERSION}: {how}", path=path
        )
    return Header(name.rstrip(b"\0").decode("utf-8", "replace"), serial)


def _open(path: Path) -> BinaryIO:
    try:
        return os.fdopen(private.open_regular(path), "rb", buffering=2**18)
    except OSError as error:
        raise JournalError(f"cannot be read: {error.strerror}", path=str(path)) from None
