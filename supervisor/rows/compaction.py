"""Compaction: the journals of a run become one Parquet file, a row per combination.

The file depends on *what* was computed, not on how: row groups end at fixed indices of
the grid, and the worker, the chunk and the interruptions of a row leave no trace. So a
resumed run's file equals an uninterrupted one's bit for bit.

Memory does not grow with the grid: of the frames only their places are held, and
rows are read, ordered and written one row group at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import RunFailedError
from supervisor.market.arrow import text_to_arrow, to_arrow
from supervisor.rows import cells, checksum
from supervisor.rows.cells import Values, as_text
from supervisor.rows.frames import Frame, FrameKind
from supervisor.rows.grid import Grid
from supervisor.rows.index import Index, Journals, folders, outstanding, rows_of
from supervisor.rows.replacement import replacing
from supervisor.rows.result_columns import EXACT, ResultColumns, parameter_column
from supervisor.rows.space import Space
from supervisor.system.durable import FolderSync
from supervisor.system.meanwhile import Meanwhile

ROW_GROUP = 2**16
"""Indices of the grid per row group: part of the format, since it shapes the file's bytes."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What was written.

    Attributes
    ----------
    rows : int
        Rows in the file, failed ones included.
    failed : int
        Rows that have an error instead of metrics.
    missing : tuple of (start, stop)
        Combinations that no journal has, merged; some have an accepted one in them.
    damaged : tuple of str
        Journals that could not be read, and why: a resume computes what they held again.
    mixed : tuple of str
        Metrics that are numbers in some rows and texts or times in others, which were dropped.
    """

    rows: int
    failed: int
    missing: tuple[tuple[int, int], ...]
    damaged: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()


def compact(journals: Journals, out_path: Path | str, space: Space) -> Compaction:
    """Write the rows of all journals to one Parquet file in the grid's order.

    Every combination occurs once, however often it was computed; a row takes
    precedence over a failure. A process killed at any instant leaves the old file or
    the new one, never a part.

    Parameters
    ----------
    journals : Path, str or mapping
        Where the journals are, and of which runs.
    out_path : Path or str
        Replaced at once when the new file is on the disk.
    space : Space
        The combinations the journals' indices refer to.

    Raises
    ------
    JournalError
        If a journal cannot be read or has a combination beyond the grid.
    RunFailedError
        If the file cannot be written; the journals are kept.
    """
    index = Index.of(journals, space)
    shape = ResultColumns.of(index, space.grid)
    out_path = Path(out_path)
    kept = Meanwhile(partial(_see_kept, journals))
    try:
        done, mixed = _write_as_it_is(index, out_path, space, shape, kept.result)
    finally:
        kept.result()  # where the file cannot be written, only the journals have the rows
    missing = tuple(outstanding(index.merged(), space, range(space.grid.size)))
    return Compaction(*done, missing=missing, damaged=tuple(index.damaged), mixed=tuple(mixed))


def _write_as_it_is(
    index: Index,
    out_path: Path,
    space: Space,
    shape: ResultColumns,
    before_replacing: Callable[[], None],
) -> tuple[tuple[int, int], list[str]]:
    """Write the file, again where a column turns out to hold something else than it seemed to.

    Returns what :func:`_write` does, and the metrics of which only the numbers were kept.
    """
    mixed: list[str] = []
    while True:
        try:
            return _write(index, out_path, space, shape, before_replacing), mixed
        except _FractionError:
            shape = shape.with_floats()  # a strategy's "trades" are not counts
        except _NumberError as error:
            shape = shape.with_number(error.metric)
            mixed.append(error.metric)


def _see_kept(journals: Journals) -> None:
    """Wait until the journals are on the disk: a power loss could take rows from them that only
    the file being replaced still holds.
    """
    for folder in folders(journals):
        with suppress(OSError):  # a disk that does not take them does not take the file either
            FolderSync(folder, ".bin").sync()


class _FractionError(Exception):
    """A metric that should be a count is not."""


class _NumberError(Exception):
    """A metric that is a text or a time in some rows is a number in another."""

    def __init__(self, metric: str) -> None:
        super().__init__(metric)
        self.metric = metric


@dataclass(slots=True)
class _Block:
    """The accepted combinations of one row group while it is put together.

    Attributes
    ----------
    start : int
        First index.
    indices : ndarray of int64, shape (n_combinations,)
        The accepted combinations.
    metrics : ndarray of float64, shape (n_combinations, n_metrics)
    there : ndarray of bool, shape (n_combinations, n_metrics)
        Where a metric was returned: NaN is a value, absence is not.
    found : ndarray of bool, shape (n_combinations,)
        Combinations that were computed, or failed.
    errors : dict of int to str
        By position in the block.
    values : dict of (int, int) to object
        Texts, times and durations, by position in the block and metric.
    """

    start: int
    indices: NDArray[np.int64]
    metrics: NDArray[np.float64]
    there: NDArray[np.bool_]
    found: NDArray[np.bool_]
    errors: dict[int, str]
    values: dict[tuple[int, int], Any]


def _write(
    index: Index,
    out_path: Path,
    space: Space,
    shape: ResultColumns,
    before_replacing: Callable[[], None],
) -> tuple[int, int]:
    """Write the file; return how many rows it has and how many of them failed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = failed = 0
    grid = space.grid
    schema = shape.schema(grid)
    try:
        with (
            replacing(out_path, before_replacing) as file,
            pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                compression_level=1,
                # parameters and counts repeat, other metrics hardly ever do
                use_dictionary=[*grid.names, *shape.whole],
                write_statistics=True,
                write_page_checksum=True,  # for other readers
            ) as writer,
        ):
            writer.add_key_value_metadata(checksum.METADATA)
            for block in _blocks(index, space, shape):
                table, n_failed = _table(block, grid, shape, schema)
                if table.num_rows:
                    writer.write_table(table, row_group_size=ROW_GROUP)
                rows += table.num_rows
                failed += n_failed
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise RunFailedError(
            f"{out_path}: cannot be written: {why}; the journals are kept: "
            "make room and run the report again",
            run_dir=str(out_path.parent),
        ) from None
    return rows, failed


def _blocks(index: Index, space: Space, shape: ResultColumns) -> Iterator[_Block]:
    """Put the row groups together, each from the frames that reach into it."""
    frames = index.useful()
    first, stop = index.first[frames], index.stop[frames]
    position = {name: at for at, name in enumerate(shape.names)}
    places = [
        np.array([position.get(name, -1) for name in columns], dtype=np.intp)
        for columns in index.columns
    ]
    at = 0
    values = Values()
    while at < len(frames):
        start = int(first[at]) // ROW_GROUP * ROW_GROUP
        end = min(start + ROW_GROUP, space.grid.size)
        block = _empty_block(start, space.accepted(start, end), len(shape.names))
        while at < len(frames) and first[at] < end:
            which = int(frames[at])
            low, high = int(first[at]), min(int(stop[at]), end)
            _fill(
                block, index.frame(which), space, low, high, places[index.columns_id[which]], values
            )
            if high < stop[at]:
                first[at] = high  # the rest belongs to the next row group
                break
            at += 1
        yield block


def _empty_block(start: int, indices: NDArray[np.int64], width: int) -> _Block:
    size = len(indices)
    return _Block(
        start,
        indices,
        np.full((size, width), np.nan),
        np.zeros((size, width), dtype=np.bool_),
        np.zeros(size, dtype=np.bool_),
        {},
        {},
    )


def _fill(
    block: _Block,
    frame: Frame,
    space: Space,
    low: int,
    high: int,
    places: NDArray[np.intp],
    values: Values,
) -> None:
    """Put combinations ``low`` to ``high`` of a frame where they belong."""
    first = space.count(block.start, low)
    here = slice(first, first + space.count(low, high))
    block.found[here] = True
    if frame.kind is FrameKind.FAILED:
        block.errors[here.start] = frame.error()
        return
    rows = rows_of(frame, space, low, high)
    block.metrics[here, places] = rows
    block.there[here, places] = True
    special = cells.special(rows)
    if not special.any():
        return
    block.there[here, places] = ~special
    for row, column in np.argwhere(special).tolist():
        value = values.of(frame, rows[row, column])
        if value is not None:
            block.values[here.start + row, int(places[column])] = value


def _table(block: _Block, grid: Grid, shape: ResultColumns, schema: Any) -> tuple[Any, int]:
    """Turn a block into a table of the combinations that were found."""
    import pyarrow as pa

    keep = block.found
    digits = grid.digits(block.indices[keep])
    columns = [parameter_column(grid, name, digits[name]) for name in grid.names]
    for at, name in enumerate(shape.names):
        if name in shape.kinds:
            columns.append(_special_column(block, at, name, schema.field(shape.titles[at]).type))
            continue
        values, absent = block.metrics[keep, at], ~block.there[keep, at]
        if name in shape.whole:
            absent |= np.isnan(values)
            values = np.where(absent, 0.0, values)
            if np.any(values != np.rint(values)) or np.any(np.abs(values) > EXACT):
                raise _FractionError
            values = values.astype(np.int64)
        columns.append(to_arrow(values, absent))
    kept_errors = [block.errors.get(int(at)) for at in np.flatnonzero(keep)] if block.errors else []
    n_failed = sum(error is not None for error in kept_errors)
    if shape.has_error:
        errors = kept_errors or [None] * int(keep.sum())
        columns.append(text_to_arrow(errors))
    return pa.Table.from_arrays(columns, schema=schema), n_failed


def _special_column(block: _Block, at: int, name: str, kind: Any) -> Any:
    """Make the column of a metric that is a text or a time."""
    import pyarrow as pa

    if np.any(block.there[:, at] & ~np.isnan(block.metrics[:, at])):
        raise _NumberError(name)
    found = [block.values.get((row, at)) for row in np.flatnonzero(block.found).tolist()]
    if str(kind) == "string":
        return text_to_arrow([as_text(value) for value in found])
    return pa.array(found, kind)
