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
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError, RunFailedError, UntrustedError
from supervisor.market.arrow import nulls, parquet_file, text_to_arrow, to_arrow, to_numpy
from supervisor.rows import cells, checksum
from supervisor.rows.cells import CellKind, Values, as_text
from supervisor.rows.frames import Frame, FrameKind
from supervisor.rows.grid import Grid
from supervisor.rows.index import Index, Journals, folders, outstanding, rows_of
from supervisor.rows.names import ERROR_COLUMN, title_of
from supervisor.rows.ranking import TRADES, Ranking
from supervisor.rows.space import Space
from supervisor.rows.values import to_arrow_column
from supervisor.system import private
from supervisor.system.durable import FolderSync, sync_directory
from supervisor.system.meanwhile import Meanwhile

ROW_GROUP = 2**16
"""Indices of the grid per row group: part of the format, since it shapes the file's bytes."""

WHOLE_NUMBERS = frozenset({"trades"})
"""Metrics that are counts, kept as int64 (unless a strategy returns fractions after all)."""


_EXACT = 2.0**53
"""Up to here every whole number is a float64."""


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
    shape = _Shape.of(index, space.grid)
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
    shape: _Shape,
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


def read(path: Path | str) -> Any:
    """Read a results file whole.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    ConfigError
        If it does not match its checksum.
    """
    checksum.check(path)
    with _opened(path) as file:
        return file.read().replace_schema_metadata()  # the checksum is the file's alone


def best(
    path: Path | str,
    metric: str = "total_return",
    k: int = 10,
    ranking: Ranking | None = None,
    *,
    largest: bool = True,
) -> list[dict[str, Any]]:
    """Find the ``k`` rows with the best value of a metric, holding one row group at a time.

    Ties go to the earlier combination; rows without the metric, or with a value that is not
    finite, are left out, and those with fewer trades than the ranking asks for. Raises
    :class:`ConfigError` if the file does not match its checksum.
    """
    checksum.check(path)
    ranking = ranking or Ranking(ascending=not largest)
    columns = [metric, TRADES] if ranking.min_trades else [metric]
    kept: list[tuple[float, int, dict[str, Any]]] = []
    with _opened(path) as file:
        seen = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(dict.fromkeys(columns)))
            trades = numbers(table.column(TRADES)) if ranking.min_trades else None
            scores = ranking.scores(numbers(table.column(metric)), trades)
            top = np.argsort(-scores, kind="stable")[:k]
            top = top[scores[top] > -np.inf]
            if len(top) and (len(kept) < k or scores[top[0]] > kept[-1][0]):
                table = file.read_row_group(group)
                rows = [table.slice(at, 1).to_pylist()[0] for at in top.tolist()]
                found = zip(scores[top].tolist(), (seen + top).tolist(), rows, strict=True)
                kept = heapq.nsmallest(k, [*kept, *found], key=lambda row: (-row[0], row[1]))
            seen += len(scores)
    return [row for _, _, row in kept]


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    """Open a results file; what Arrow cannot make sense of is one of our errors."""
    import pyarrow as pa

    try:
        with private.path_of(path) as there, parquet_file(there) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if getattr(error, "errno", None):
            raise  # the disk's, not the file's
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"{path} cannot be read: {why}; if it is damaged, remove it: allstop report writes "
            "it again from the journals",
            key="results",
        ) from None


def metrics_of(path: Path | str, grid: Grid) -> list[str]:
    """Return the columns of a results file that combinations can be ranked by."""
    with _opened(path) as file:
        schema = file.schema_arrow
    return [
        field.name
        for field in schema
        if field.name not in (*grid.names, ERROR_COLUMN) and str(field.type) in _RANKED_TYPES
    ]


_RANKED_TYPES = ("double", "int64")


def numbers(column: Any) -> NDArray[np.float64]:
    """Give a column as numbers, NaN where it has none.

    Our own columns are read by their buffers: Arrow's compute functions take 50 ms to load,
    just when a user who has pressed Ctrl+C waits for the prompt.
    """
    if str(column.type) not in ("double", "int64"):
        column = column.cast("float64")
    found = to_numpy(column).astype(np.float64)
    found[nulls(column)] = np.nan
    return found


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
    kinds : mapping of str to CellKind
        What metrics are that are no numbers.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    whole: frozenset[str]
    has_error: bool
    kinds: Mapping[str, CellKind] = field(default_factory=dict)

    @classmethod
    def of(cls, index: Index, grid: Grid) -> _Shape:
        useful = index.columns_id[index.useful()]
        ids, firsts = np.unique(useful, return_index=True)
        in_order = [index.columns[i] for i in ids[np.argsort(firsts)]]
        names = tuple(dict.fromkeys(name for columns in in_order for name in columns))
        titles = tuple(title_of(name, grid.names) for name in names)
        kinds = {name: _kind(found) for name, found in index.kinds.items()}
        whole = WHOLE_NUMBERS & set(names) - set(kinds)
        return cls(names, titles, whole, 0 in ids, kinds)

    def with_floats(self) -> _Shape:
        return replace(self, whole=frozenset())

    def with_number(self, metric: str) -> _Shape:
        kinds = {name: kind for name, kind in self.kinds.items() if name != metric}
        return replace(self, kinds=kinds, whole=self.whole | ({metric} & WHOLE_NUMBERS))

    def schema(self, grid: Grid) -> Any:
        import pyarrow as pa

        fields = [
            pa.field(name, column.type, nullable=bool(column.null_count))
            for name, column in parameter_columns(grid).items()
        ]
        for name, title in zip(self.names, self.titles, strict=True):
            fields.append(pa.field(title, self._type(name)))
        if self.has_error:
            fields.append(pa.field(ERROR_COLUMN, pa.string()))
        return pa.schema(fields)

    def _type(self, name: str) -> Any:
        import pyarrow as pa

        match self.kinds.get(name):
            case CellKind.TEXT:
                return pa.string()
            case CellKind.TIME:
                return pa.timestamp("us")
            case CellKind.UTC:
                return pa.timestamp("us", "UTC")
            case CellKind.DURATION:
                return pa.duration("us")
        return pa.int64() if name in self.whole else pa.float64()


def _kind(found: set[str]) -> CellKind:
    """What a column holds whose values are of these kinds."""
    return CellKind(*found) if len(found) == 1 else CellKind.TEXT


def parameter_columns(grid: Grid) -> dict[str, Any]:
    """Return the values of each parameter as an Arrow array: a column's type, and its values."""
    return {
        name: to_arrow_column(axis.tolist())
        if axis.dtype == object and name in grid.exact
        else _plain_column(axis)
        for name, axis in zip(grid.names, grid.axes, strict=True)
    }


def parameter_values(grid: Grid, name: str) -> list[Any]:
    """Return the values of a parameter as results have them, for one row after the other."""
    axis = grid.axis(name)
    if axis.dtype == object and name in grid.exact:
        values: list[Any] = to_arrow_column(axis.tolist()).to_pylist()
    else:
        values = axis.tolist()
    return values


def metric_values(name: str, values: list[Any]) -> list[Any]:
    """Return the values of a metric as results have them: counts are whole numbers."""
    if name in WHOLE_NUMBERS:
        return [_count(value) if isinstance(value, float) else value for value in values]
    return values


def _count(value: float) -> int | float | None:
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def _parameter_column(grid: Grid, name: str, digits: NDArray[np.int64]) -> Any:
    axis = grid.axis(name)
    if axis.dtype == object and name in grid.exact:
        import pyarrow as pa

        return to_arrow_column(axis.tolist()).take(pa.array(digits))
    return _plain_column(axis[digits])


def _plain_column(values: NDArray[np.generic]) -> Any:
    return text_to_arrow(values.tolist()) if values.dtype == object else to_arrow(values)


# --- the file: one row group at a time ---------------------------------------------------------


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


def _table(block: _Block, grid: Grid, shape: _Shape, schema: Any) -> tuple[Any, int]:
    """Turn a block into a table of the combinations that were found."""
    import pyarrow as pa

    keep = block.found
    digits = grid.digits(block.indices[keep])
    columns = [_parameter_column(grid, name, digits[name]) for name in grid.names]
    for at, name in enumerate(shape.names):
        if name in shape.kinds:
            columns.append(_special_column(block, at, name, schema.field(shape.titles[at]).type))
            continue
        values, absent = block.metrics[keep, at], ~block.there[keep, at]
        if name in shape.whole:
            absent |= np.isnan(values)
            values = np.where(absent, 0.0, values)
            if np.any(values != np.rint(values)) or np.any(np.abs(values) > _EXACT):
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


@contextmanager
def _replacing(path: Path, before: Callable[[], None]) -> Iterator[BinaryIO]:
    """Write beside a file and put the new one in its place when it is on the disk."""
    _remove_partial(path)
    fd, unfinished = private.create_temporary(path)
    try:
        with os.fdopen(fd, "w+b") as file:
            # the lock says that its writer is alive; the kernel releases it when the writer dies
            with suppress(OSError):  # without locks only the claim on the directory says so
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            checksum.seal(file)
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
    names = (f".{path.name}.*.tmp", f".{path.name}.*.partial")  # the latter of earlier versions
    for left in [left for name in names for left in path.parent.glob(name)]:
        with suppress(OSError, UntrustedError), private.opened(left) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:
                pass  # without locks: whoever compacts has claimed the directory
            left.unlink()
