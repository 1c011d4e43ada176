"""The index of a run's journals: which combinations they hold, and where each row is.

Of the frames only their places are held, so memory does not grow with what they hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DamagedJournalError, JournalError
from supervisor.rows.frames import Frame, FrameKind, iter_frames
from supervisor.rows.grid import Grid
from supervisor.rows.journal import journal_paths

Journals = Path | str | Sequence[Path]
"""A directory that holds ``worker-*.bin``, or several."""


def folders(journals: Journals) -> list[Path]:
    return [Path(journals)] if isinstance(journals, Path | str) else list(journals)


def covered(journals: Journals, *, failed: bool = True) -> list[tuple[int, int]]:
    """Ranges of combinations that the journals hold, merged and in order.

    Failed combinations count as covered, unless ``failed`` is False: trying
    them again is the user's choice.
    """
    return Index.of(journals, failed=failed).merged()


def gaps(ranges: Sequence[tuple[int, int]], stop: int, start: int = 0) -> list[tuple[int, int]]:
    """Ranges within ``start`` to ``stop`` that merged, ordered ``ranges`` leave out."""
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
        Journals that hold nothing which could be read, and why.
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

    @classmethod
    def of(cls, journals: Journals, *, failed: bool = True) -> Index:
        paths = [path for folder in folders(journals) for path in journal_paths(folder)]
        columns: dict[tuple[str, ...], int] = {(): 0}
        flat = array("q")
        damaged: list[str] = []
        for path_id, path in enumerate(paths):
            try:
                for frame in iter_frames(path):
                    if not failed and frame.kind is FrameKind.FAILED:
                        continue
                    columns_id = columns.setdefault(frame.columns, len(columns))
                    flat.extend(
                        (frame.start, frame.stop, path_id, columns_id, frame.offset, frame.size)
                    )
            except DamagedJournalError as error:
                damaged.append(str(error))
        table = np.frombuffer(flat, dtype=np.int64).reshape(-1, 6)
        in_vain = table[:, 3] == 0
        # rows before a failure of the same combination; earlier workers before later ones, but
        # of two failures the later: it is what came of trying again
        turn = np.where(in_vain, -1, 1)
        order = np.lexsort((turn * table[:, 4], turn * table[:, 2], in_vain, table[:, 0]))
        table = table[order]
        start, stop, path_id_, columns_id_, offset, size = (
            np.ascontiguousarray(column) for column in table.T
        )
        reached = np.maximum.accumulate(np.concatenate(([0], stop)))[:-1]
        first = np.minimum(np.maximum(start, reached), stop)
        return cls(
            start, stop, first, path_id_, columns_id_, offset, size, paths, list(columns), damaged
        )

    def check(self, grid: Grid) -> None:
        if len(self.start) and (self.start[0] < 0 or self.stop.max() > grid.size):
            at = int(np.argmax(self.stop))
            raise JournalError(
                f"combination {self.stop[at] - 1} lies beyond the grid's {grid.size}: "
                "the journal is of another grid",
                path=str(self.paths[self.path_id[at]]),
            )

    def merged(self) -> list[tuple[int, int]]:
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
            count=stop - start,
            columns=columns,
            offset=int(self.offset[at]),
            size=int(self.size[at]),
        )

    def useful(self) -> NDArray[np.int64]:
        """Frames that have a combination which none before has, in order."""
        return np.flatnonzero(self.first < self.stop)
