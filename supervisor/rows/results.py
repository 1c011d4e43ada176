"""Compaction: the journals of a run become one Parquet file, a row per combination.

The file depends on *what* was computed, not on how: row groups end at fixed indices of
the grid, and the worker, the chunk and the interruptions of a row leave no trace. So a
resumed run's file equals an uninterrupted one's bit for bit.

Memory does not grow with the grid: of the frames only their places are held, and
rows are read, ordered and written one row group at a time.
"""

from __future__ import annotations

import fcntl
import heapq
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import RunFailedError
from supervisor.market.arrow import nulls, parquet_file, text_to_arrow, to_arrow, to_numpy
from supervisor.rows.frames import Frame, FrameKind
from supervisor.rows.grid import Grid, Value
from supervisor.rows.index import Index, Journals, folders, outstanding, rows_of
from supervisor.rows.journal import JournalSync
from supervisor.rows.space import Space
from supervisor.system.durable import sync_directory
from supervisor.system.meanwhile import Meanwhile

ROW_GROUP = 2**16
"""Indices of the grid per row group: part of the format, since it shapes the file's bytes."""

ERROR_COLUMN = "error"
"""Why a combination failed; there only if one did."""

WHOLE_NUMBERS = frozenset({"trades"})
"""Metrics that are counts, kept as int64 (unless a strategy returns fractions after all)."""


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
    """

    rows: int
    failed: int
    missing: tuple[tuple[int, int], ...]
    damaged: tuple[str, ...] = ()


def compact(journals: Journals, out_path: Path | str, space: Space) -> Compaction:
    """Write the rows of all journals to one Parquet file in the grid's order.

    Every combination occurs once, however often it was computed; a row takes
    precedence over a failure. A process killed at any instant leaves the old file or
    the new one, never a part.

    Parameters
    ----------
    journals : Path, str or sequence of Path
        Where the journals are.
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
    shape = _Shape.of(index, space.grid)
    out_path = Path(out_path)
    kept = Meanwhile(partial(_see_kept, journals))
    try:
        done = _write(index, out_path, space, shape, kept.result)
    except _FractionError:
        # a strategy's "trades" are not counts: write it again, as float64
        done = _write(index, out_path, space, shape.with_floats(), kept.result)
    finally:
        kept.result()  # where the file cannot be written, only the journals have the rows
    missing = tuple(outstanding(index.merged(), space, range(space.grid.size)))
    return Compaction(*done, missing=missing, damaged=tuple(index.damaged))


def _see_kept(journals: Journals) -> None:
    """Wait until the journals are on the disk: a power loss could take rows from them that only
    the file being replaced still holds.
    """
    for folder in folders(journals):
        with suppress(OSError):  # a disk that does not take them does not take the file either
            JournalSync(folder).sync()


def read(path: Path | str) -> Any:
    """Read a results file whole.

    Returns
    -------
    pyarrow.Table
    """
    with parquet_file(path) as file:
        return file.read()


def column_names(path: Path | str) -> list[str]:
    """Return the columns of a results file, parameters first."""
    with parquet_file(path) as file:
        return list(file.schema_arrow.names)


def best(
    path: Path | str, metric: str = "total_return", k: int = 10, *, largest: bool = True
) -> list[dict[str, Value | None]]:
    """Find the ``k`` rows with the best value of a metric, holding one row group at a time.

    Ties go to the earlier combination; rows without the metric, or with NaN, are
    left out.
    """
    kept: list[tuple[float, int, dict[str, Value | None]]] = []
    with parquet_file(path) as file:
        seen = 0
        for group in range(file.num_row_groups):
            scores = _numbers(file.read_row_group(group, columns=[metric]).column(0))
            scores = np.where(np.isnan(scores), -np.inf, scores if largest else -scores)
            top = np.argsort(-scores, kind="stable")[:k]
            top = top[scores[top] > -np.inf]
            if len(top) and (len(kept) < k or scores[top[0]] > kept[-1][0]):
                table = file.read_row_group(group)
                rows = [table.slice(at, 1).to_pylist()[0] for at in top.tolist()]
                found = zip(scores[top].tolist(), (seen + top).tolist(), rows, strict=True)
                kept = heapq.nsmallest(k, [*kept, *found], key=lambda row: (-row[0], row[1]))
            seen += len(scores)
    return [row for _, _, row in kept]


def _numbers(column: Any) -> NDArray[np.float64]:
    """Give a column as numbers, NaN where it has none.

    Our own columns are read by their buffers: Arrow's compute functions take 50 ms to load,
    just when a user who has pressed Ctrl+C waits for the prompt.
    """
    if str(column.type) not in ("double", "int64"):
        column = column.cast("float64")
    numbers = to_numpy(column).astype(np.float64)
    numbers[nulls(column)] = np.nan
    return numbers


@dataclass(frozen=True, slots=True)
class _Shape:
    """Columns of the file behind the parameters.

    Attributes
    ----------
    names : tuple of str
        Metrics as the strategies name them, in order of first appearance by combination.
    titles : tuple of str
        The same as they are called in the file: never like a parameter.
    whole : frozenset of str
        Metrics kept as int64.
    has_error : bool
        Whether there is an error column.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    whole: frozenset[str]
    has_error: bool

    @classmethod
    def of(cls, index: Index, grid: Grid) -> _Shape:
        useful = index.columns_id[index.useful()]
        ids, firsts = np.unique(useful, return_index=True)
        in_order = [index.columns[i] for i in ids[np.argsort(firsts)]]
        names = tuple(dict.fromkeys(name for columns in in_order for name in columns))
        taken = {*grid.names, ERROR_COLUMN}
        titles = tuple(f"result_{name}" if name in taken else name for name in names)
        return cls(names, titles, WHOLE_NUMBERS & set(names), 0 in ids)

    def with_floats(self) -> _Shape:
        return _Shape(self.names, self.titles, frozenset(), self.has_error)

    def schema(self, grid: Grid) -> Any:
        import pyarrow as pa

        fields = [
            pa.field(name, _parameter_type(axis), nullable=False)
            for name, axis in zip(grid.names, grid.axes, strict=True)
        ]
        for name, title in zip(self.names, self.titles, strict=True):
            fields.append(pa.field(title, pa.int64() if name in self.whole else pa.float64()))
        if self.has_error:
            fields.append(pa.field(ERROR_COLUMN, pa.string()))
        return pa.schema(fields)


def _parameter_type(axis: NDArray[np.generic]) -> Any:
    import pyarrow as pa

    return pa.string() if axis.dtype == object else pa.from_numpy_dtype(axis.dtype)


def _parameter_column(values: NDArray[np.generic]) -> Any:
    return text_to_arrow(values.tolist()) if values.dtype == object else to_arrow(values)


# --- the file: one row group at a time ---------------------------------------------------------


class _FractionError(Exception):
    """A metric that should be a count is not."""


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
    """

    start: int
    indices: NDArray[np.int64]
    metrics: NDArray[np.float64]
    there: NDArray[np.bool_]
    found: NDArray[np.bool_]
    errors: dict[int, str]


def _write(
    index: Index,
    out_path: Path,
    space: Space,
    shape: _Shape,
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
            _replacing(out_path, before_replacing) as file,
            pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                compression_level=1,
                # parameters and counts repeat, other metrics hardly ever do
                use_dictionary=[*grid.names, *shape.whole],
                write_statistics=True,
            ) as writer,
        ):
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


def _blocks(index: Index, space: Space, shape: _Shape) -> Iterator[_Block]:
    """Put the row groups together, each from the frames that reach into it."""
    frames = index.useful()
    first, stop = index.first[frames], index.stop[frames]
    position = {name: at for at, name in enumerate(shape.names)}
    places = [
        np.array([position.get(name, -1) for name in columns], dtype=np.intp)
        for columns in index.columns
    ]
    at = 0
    while at < len(frames):
        start = int(first[at]) // ROW_GROUP * ROW_GROUP
        end = min(start + ROW_GROUP, space.grid.size)
        block = _empty_block(start, space.accepted(start, end), len(shape.names))
        while at < len(frames) and first[at] < end:
            which = int(frames[at])
            low, high = int(first[at]), min(int(stop[at]), end)
            _fill(block, index.frame(which), space, low, high, places[index.columns_id[which]])
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
    )


def _fill(
    block: _Block, frame: Frame, space: Space, low: int, high: int, places: NDArray[np.intp]
) -> None:
    """Put combinations ``low`` to ``high`` of a frame where they belong."""
    first = space.count(block.start, low)
    here = slice(first, first + space.count(low, high))
    block.found[here] = True
    if frame.kind is FrameKind.FAILED:
        block.errors[here.start] = frame.error()
        return
    block.metrics[here, places] = rows_of(frame, space, low, high)
    block.there[here, places] = True


def _table(block: _Block, grid: Grid, shape: _Shape, schema: Any) -> tuple[Any, int]:
    """Turn a block into a table of the combinations that were found."""
    import pyarrow as pa

    keep = block.found
    parameters = grid.decode(block.indices[keep])
    columns = [_parameter_column(parameters[name]) for name in grid.names]
    for at, name in enumerate(shape.names):
        values, absent = block.metrics[keep, at], ~block.there[keep, at]
        if name in shape.whole:
            absent |= np.isnan(values)
            values = np.where(absent, 0.0, values)
            if np.any(values != np.rint(values)) or np.any(np.abs(values) > 2.0**53):
                raise _FractionError
            values = values.astype(np.int64)
        columns.append(to_arrow(values, absent))
    kept_errors = [block.errors.get(int(at)) for at in np.flatnonzero(keep)] if block.errors else []
    n_failed = sum(error is not None for error in kept_errors)
    if shape.has_error:
        errors = kept_errors or [None] * int(keep.sum())
        columns.append(text_to_arrow(errors))
    return pa.Table.from_arrays(columns, schema=schema), n_failed


@contextmanager
def _replacing(path: Path, before: Callable[[], None]) -> Iterator[BinaryIO]:
    """Write beside a file and put the new one in its place when it is on the disk."""
    _remove_partial(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with unfinished.open("wb") as file:
            # the lock says that its writer is alive; the kernel releases it when the writer dies
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            before()
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    sync_directory(path.parent)


def _remove_partial(path: Path) -> None:
    """Remove what a killed compaction left behind, and nothing that is being written."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
