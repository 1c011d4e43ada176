"""The index of a run's journals: which combinations they hold, and where each row is.

Of the frames only their places are held, so memory does not grow with what they hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DamagedJournalError, JournalError
from supervisor.rows.frames import Frame, FrameKind, iter_frames, row_count
from supervisor.rows.journal import journal_paths
from supervisor.rows.space import Space

Range = tuple[int, int]
"""Combinations from the first number to the second (exclusive)."""

Journals = Path | str | Sequence[Path] | Mapping[Path, Collection[str]]
"""A directory that holds ``worker-*.bin``, or several; with the ids of the runs whose journals
each holds, those of other runs are left out."""


def folders(journals: Journals) -> dict[Path, Collection[str]]:
    if isinstance(journals, Mapping):
        return dict(journals)
    several = [journals] if isinstance(journals, Path | str) else journals
    return {Path(folder): () for folder in several}


def covered(journals: Journals, space: Space, *, failed: bool = True) -> list[Range]:
    """Ranges of combinations that the journals hold, merged and in order.

    Failed combinations count as covered, unless ``failed`` is False: trying
    them again is the user's choice.

    Raises
    ------
    JournalError
        If a journal is of another version or another grid.
    """
    return Index.of(journals, space, failed=failed).merged()


def outstanding(ranges: Sequence[Range], space: Space, span: range) -> list[Range]:
    """Gaps within ``span`` in which the strategy accepts a combination.

    ``ranges`` are merged and in order, as :func:`covered` gives them. A gap without an
    accepted combination needs no row, so it is never outstanding.
    """
    return [gap for gap in gaps(ranges, span) if space.count(*gap)]


def rows_of(frame: Frame, space: Space, start: int, stop: int) -> NDArray[np.float64]:
    """Read a frame's rows of the accepted combinations from ``start`` to ``stop``.

    Returns
    -------
    ndarray of float64, shape (space.count(start, stop), len(frame.columns)), read-only
    """
    first = space.count(frame.start, start)
    return frame.rows(first, first + space.count(start, stop))


def check_frame(frame: Frame, space: Space) -> None:
    """Check that a frame has a row for each accepted combination, and no other.

    Raises
    ------
    JournalError
        If it has combinations beyond the grid.
    DamagedJournalError
        If the number of rows differs.
    """
    path, size = str(frame.path), space.grid.size
    if frame.start < 0 or frame.stop > size:
        raise JournalError(
            f"combination {frame.stop - 1} lies beyond the grid's {size}: "
            "the journal is of another grid",
            path=path,
        )
    accepted = space.count(frame.start, frame.stop)
    if frame.count != accepted:
        raise DamagedJournalError(
            f"has {frame.count} rows for combinations {frame.start} to {frame.stop - 1}, "
            f"of which the strategy accepts {accepted}",
            path=path,
        )


def gaps(ranges: Sequence[Range], span: range) -> list[Range]:
    """Parts of ``span`` that merged, ordered ``ranges`` leave out."""
    start, stop = span.start, span.stop
    begins = [start, *(min(max(end, start), stop) for _, end in ranges)]
    ends = [*(min(max(begin, start), stop) for begin, _ in ranges), stop]
    return [(a, b) for a, b in zip(begins, ends, strict=True) if a < b]


@dataclass(frozen=True, slots=True)
class Index:
    """Places of all frames, ordered by combination: 48 bytes each, whatever they hold.

    Attributes
    ----------
    start, stop : ndarray of int64, shape (n_frames,)
        Combinations in the frame.
    first : ndarray of int64, shape (n_frames,)
        The first of them that no frame before has; ``stop`` if there is none.
    paths : list of Path
    columns : list of tuple of str
        The distinct sets of metrics; the first is that of failures, empty.
    path_id, columns_id, offset, size : ndarray of int64, shape (n_frames,)
    damaged : list of str
        Journals that were not read, or not to their end, and why.
    kinds : dict of str to set of str
        What metrics are, other than numbers, by :class:`~supervisor.rows.cells.CellKind`.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    first: NDArray[np.int64]
    path_id: NDArray[np.int64]
    columns_id: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    paths: list[Path]
    columns: list[tuple[str, ...]]
    damaged: list[str]
    kinds: dict[str, set[str]]

    @classmethod
    def of(cls, journals: Journals, space: Space, *, failed: bool = True) -> Index:
        found = [
            (path, run_ids)
            for folder, run_ids in folders(journals).items()
            for path in journal_paths(folder)
        ]
        paths = [path for path, _ in found]
        columns: dict[tuple[str, ...], int] = {(): 0}
        flat = array("q")
        damaged: list[str] = []
        kinds: dict[str, set[str]] = {}
        for path_id, (path, run_ids) in enumerate(found):
            try:
                for frame in iter_frames(path, run_ids):
                    if frame.kind is FrameKind.VALUE:
                        kinds.setdefault(frame.columns[0], set()).add(frame.columns[1])
                        continue
                    check_frame(frame, space)
                    if not failed and frame.kind is FrameKind.FAILED:
                        continue
                    columns_id = columns.setdefault(frame.columns, len(columns))
                    flat.extend(
                        (frame.start, frame.stop, path_id, columns_id, frame.offset, frame.size)
                    )
            except DamagedJournalError as error:
                damaged.append(str(error))
        table = np.frombuffer(flat, dtype=np.int64).reshape(-1, 6)
        failures = table[:, 3] == 0
        # rows before a failure of the same combination; earlier workers before later ones, but
        # of two failures the later one: it is the result of the retry
        turn = np.where(failures, -1, 1)
        order = np.lexsort((turn * table[:, 4], turn * table[:, 2], failures, table[:, 0]))
        table = table[order]
        start, stop, path_id_, columns_id_, offset, size = (
            np.ascontiguousarray(column) for column in table.T
        )
        reached = np.maximum.accumulate(np.concatenate(([0], stop)))[:-1]
        first = np.minimum(np.maximum(start, reached), stop)
        return cls(
            start, stop, first, path_id_, columns_id_, offset, size, paths, list(columns), damaged,
            kinds,
        )  # fmt: skip

    def merged(self) -> list[Range]:
        """Ranges of combinations that some frame has."""
        if not len(self.start):
            return []
        reached = np.maximum.accumulate(self.stop)
        opens = np.flatnonzero(np.concatenate(([True], self.start[1:] > reached[:-1])))
        closes = np.concatenate((opens[1:], [len(self.start)])) - 1
        return list(zip(self.start[opens].tolist(), reached[closes].tolist(), strict=True))

    def frame(self, at: int) -> Frame:
        columns = self.columns[self.columns_id[at]]
        start, stop = int(self.start[at]), int(self.stop[at])
        return Frame(
            path=self.paths[self.path_id[at]],
            kind=FrameKind.ROWS if columns else FrameKind.FAILED,
            start=start,
            stop=stop,
            count=row_count(columns, int(self.size[at])),
            columns=columns,
            offset=int(self.offset[at]),
            size=int(self.size[at]),
        )

    def useful(self) -> NDArray[np.int64]:
        """Frames that have a combination which none before has, in order."""
        return np.flatnonzero(self.first < self.stop)
