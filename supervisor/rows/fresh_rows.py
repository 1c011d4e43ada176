"""Rows as they finish, each once, with the names and types that results have."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import JournalError
from supervisor.rows.cells import Values
from supervisor.rows.frames import Frame, FrameKind
from supervisor.rows.index import check_frame, rows_of
from supervisor.rows.names import title_of
from supervisor.rows.result_columns import metric_values, parameter_values
from supervisor.rows.space import Space


class FreshRows:
    """Gives the rows of frames, and remembers which were given, so that none is given twice.

    A worker that dies between writing rows and reporting them has its chunk computed
    again. Ranges are remembered, merged where they touch.

    Parameters
    ----------
    space : Space
        The combinations that the frames refer to.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._ranges: list[tuple[int, int]] = []
        self._cells = Values()

    def of(self, frame: Frame) -> Iterator[dict[str, Any]]:
        """Yield the rows of a frame that were not given before; none of a damaged frame."""
        try:
            check_frame(frame, self._space)
        except JournalError:
            return
        for start, stop in self._add(frame.start, frame.stop):
            yield from self._rows(frame, start, stop)

    def _add(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Remember a range; return the parts of it that are new."""
        at = bisect.bisect_left(self._ranges, (start, start))
        if at > 0 and self._ranges[at - 1][1] >= start:
            at -= 1
        until = at
        while until < len(self._ranges) and self._ranges[until][0] <= stop:
            until += 1
        known = self._ranges[at:until]
        edges = [start, *(edge for part in known for edge in part), stop]
        fresh = [
            (max(a, start), min(b, stop)) for a, b in zip(edges[::2], edges[1::2], strict=True)
        ]
        if known:
            start, stop = min(start, known[0][0]), max(stop, known[-1][1])
        self._ranges[at:until] = [(start, stop)]
        return [(a, b) for a, b in fresh if a < b]

    def _rows(self, frame: Frame, start: int, stop: int) -> Iterator[dict[str, Any]]:
        if frame.kind == FrameKind.FAILED:
            params = self._parameters(np.arange(start, stop, dtype=np.int64))
            yield {name: values[0] for name, values in params.items()} | {"error": frame.error()}
            return
        params = self._parameters(self._space.accepted(start, stop))
        names = [*params, *(title_of(name, params) for name in frame.columns)]
        rows = rows_of(frame, self._space, start, stop)
        cells = self._cells.columns(frame, rows)
        metrics = [metric_values(*column) for column in zip(frame.columns, cells, strict=True)]
        for row in zip(*params.values(), *metrics, strict=True):
            yield dict(zip(names, row, strict=True))

    def _parameters(self, indices: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Parameters of combinations, by name, of the types that results have."""
        digits = self._space.grid.digits(indices)
        return {
            name: [values[at] for at in digits[name].tolist()]
            for name, values in self._values.items()
        }

    @cached_property
    def _values(self) -> dict[str, list[Any]]:
        grid = self._space.grid
        return {name: parameter_values(grid, name) for name in grid.names}
