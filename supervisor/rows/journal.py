"""The journals of a run: appended to by its workers, followed while they grow.

Each worker appends to a journal of its own (:mod:`supervisor.rows.frames` has the
format): one writer, no lock. Journals live in ``<run_dir>/journal/`` as
``worker-NNNN.bin``, with a new serial for every process that is forked.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DamagedJournalError, InternalError, RunFailedError
from supervisor.rows.frames import (
    Frame,
    FrameKind,
    Part,
    max_rows,
    pack_columns,
    pack_failed,
    pack_header,
    pack_rows,
    pack_value,
    read_journal,
)
from supervisor.system import private

_NAME = re.compile(r"worker-([0-9]{1,9})\.bin")
_FULL = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "the file-size limit is reached",
}


_VALUES_REMEMBERED = 4096


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
        self._values: dict[tuple[str, str, str | int], int] = {}
        """Where values lie that rows refer to; each is written once while it is remembered."""
        self._end = 0
        """Invariant: the file is whole frames up to here; it is where a torn write is cut."""
        self._torn = False
        header = pack_header(run_id, serial)
        try:
            self._fd = private.open_regular(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            )
        except OSError as error:
            raise self._failure(error) from None
        try:
            self._write([header])
        except RunFailedError:
            self.close()
            raise

    def append(
        self,
        start: int,
        columns: Sequence[str],
        rows: NDArray[np.float64],
        *,
        stop: int | None = None,
        indices: NDArray[np.int64] | None = None,
    ) -> None:
        """Append finished rows; they survive whatever happens to this process.

        Parameters
        ----------
        start : int
            First combination that is finished.
        columns : sequence of str
            Metric names. Written only when they change.
        rows : ndarray of float64, shape (n_rows, len(columns))
            One row per accepted combination.
        stop : int, optional
            First combination that is not finished; without it there is a row for each
            from ``start`` on.
        indices : ndarray of int64, shape (n_rows,), optional
            Combination of each row, ascending; needed where there is not one for each.

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
        stop = start + len(rows) if stop is None else stop
        if indices is None:
            indices = np.arange(start, stop, dtype=np.int64)
        if len(indices) != len(rows) or (
            len(indices) and not start <= indices[0] <= indices[-1] < stop
        ):
            raise InternalError(
                f"journal: {len(rows)} rows do not fit combinations {start} to {stop}"
            )
        # a frame is bounded: a very long chunk becomes several, each whole in itself
        step = max_rows(len(names))
        while len(rows) > step:
            middle = int(indices[step])
            self._append_rows(start, middle, names, rows[:step])
            start, rows, indices = middle, rows[step:], indices[step:]
        if start < stop:
            self._append_rows(start, stop, names, rows)

    def append_failed(self, index: int, error: str) -> None:
        """Record that combination ``index`` failed, with at most 2 KiB of the reason."""
        self._write(pack_failed(index, error))

    def append_value(self, metric: str, kind: str, value: str | int) -> int:
        """Write a value that rows refer to (see :mod:`supervisor.rows.cells`).

        Returns
        -------
        int
            Its offset, in bytes.
        """
        key = (metric, kind, value)
        if key not in self._values:
            if len(self._values) >= _VALUES_REMEMBERED:
                self._values.clear()
            at = self._end
            self._write(pack_value(*key))
            self._values[key] = at
        return self._values[key]

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append_rows(
        self, start: int, stop: int, names: tuple[str, ...], rows: NDArray[np.float64]
    ) -> None:
        parts: list[Part] = []
        columns_at = self._columns_at
        if names != self._columns:
            parts += pack_columns(names)
            columns_at = self._end
        self._write(parts + pack_rows(start, stop, columns_at, rows))
        self._columns, self._columns_at = names, columns_at

    def _write(self, parts: list[Part]) -> None:
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
        """Cut a torn write off: frames appended after it would be lost with it."""
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
    run_ids : collection of str
        The runs whose journals it holds; those of others are left out. Empty: any.
    """

    def __init__(self, directory: Path | str, run_ids: Collection[str] = ()) -> None:
        self.directory = Path(directory)
        self._run_ids = run_ids
        self._offsets: dict[Path, int] = {}

    def poll(self) -> list[Frame]:
        """Return the frames that have become whole since the last call.

        A frame that is being written is left for the next call.

        Raises
        ------
        JournalError
            If a file is of another version. One that is damaged is left out.
        """
        found: list[Frame] = []
        for path in journal_paths(self.directory):
            seen = self._offsets.get(path, 0)
            size = path.stat().st_size
            if size > seen:
                try:
                    frames, self._offsets[path] = read_journal(path, seen, self._run_ids)
                except DamagedJournalError:
                    frames, self._offsets[path] = [], size
                found += [frame for frame in frames if frame.kind is not FrameKind.VALUE]
        return found


def journal_path(directory: Path | str, serial: int) -> Path:
    """Path of the journal of the worker with this serial."""
    return Path(directory) / f"worker-{serial:04d}.bin"


def is_journal_name(name: str) -> bool:
    """Whether a file is named as journals are."""
    return _NAME.fullmatch(name) is not None


def journal_paths(directory: Path | str) -> list[Path]:
    """All journals of a directory, in the order of their serials."""
    names = private.names_in(directory)  # plain names: no Path per foreign file
    serials = sorted((int(m[1]), m[0]) for name in names if (m := _NAME.fullmatch(name)))
    return [Path(directory) / name for _, name in serials]


def next_serial(directory: Path | str) -> int:
    """First serial above all that the directory holds, for a run that is resumed."""
    paths = journal_paths(directory)
    return 1 + int(paths[-1].stem.partition("-")[2]) if paths else 0
