"""Whatever holds the user's columns: CSV, Parquet, Feather, DataFrames, Arrow, arrays.

Knows files and containers, not what the columns mean. Whatever cannot be read is
one :class:`~supervisor.errors.DataError` that names the file, the row and the fix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from supervisor.errors import DataError
from supervisor.market.arrow import parquet_file
from supervisor.market.csv_file import csv_table
from supervisor.market.files import (
    FEATHER,
    PARQUET,
    SUFFIXES,
    byte_limit,
    check_file,
    read_file,
)
from supervisor.market.names import Label, levels
from supervisor.market.table import Table

_IN_MEMORY = "data"
_SAMPLE_ROWS = 64


def open_table(source: object) -> Table:
    """Find out what a user's data is and what its columns are called.

    Raises
    ------
    DataError
        If there is no such file, or it is not of a kind that can be read.
    """
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source).expanduser())
    if hasattr(source, "iloc") and hasattr(source, "index"):
        return _from_frame(source) if hasattr(source, "columns") else _from_series(source)
    if hasattr(source, "__arrow_c_stream__"):
        return _from_arrow(source)
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if isinstance(source, np.ndarray) and source.dtype.names is not None:
        return _from_mapping({name: source[name] for name in source.dtype.names})
    if isinstance(source, np.ndarray) and source.ndim == 2 and source.shape[1] > 1:
        return _bare([source[:, at] for at in range(source.shape[1])])
    raise DataError(
        f"cannot use a {type(source).__name__}: give the path of a file ({SUFFIXES}), "
        "a DataFrame, a Series of closes, an Arrow table or a mapping of arrays",
        path=_IN_MEMORY,
    )


def _from_path(path: Path) -> Table:
    source = str(path)
    try:
        kind = check_file(path)
        if kind in PARQUET and path.name.lower().endswith(PARQUET):
            with path.open("rb") as file:
                if file.read(4) != b"PAR1":
                    raise DataError(
                        "is not a Parquet file: is it CSV? Then name it .csv", path=source
                    )
            return _from_parquet(path, source)
        raw, kind = read_file(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=source) from None
    if not raw:
        raise DataError("is empty", path=source)
    if kind in PARQUET:
        import pyarrow as pa

        return _from_parquet(pa.py_buffer(raw), source)
    return _from_feather(raw, source) if kind in FEATHER else csv_table(raw, source)


# --- Arrow's files -----------------------------------------------------------------------------


def _from_parquet(content: Any, source: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    @contextmanager
    def opened() -> Iterator[Any]:
        if not isinstance(content, Path):
            yield pq.ParquetFile(pa.BufferReader(content))
            return
        with parquet_file(content) as parquet:
            yield parquet

    with _sound("Parquet", source), opened() as file:
        schema = file.schema_arrow
        labels, index = _labels(schema.names), _index_of(schema)

    def columns(ats: Sequence[int], _: Collection[int]) -> Sequence[Any]:
        with _sound("Parquet", source), opened() as file:
            names = [schema.names[at] for at in ats]
            _check_size(file.metadata, names, source)
            table = file.read(columns=names)
            return [table.column(name) for name in names]

    return Table(source, labels, index, columns)


def _check_size(metadata: Any, names: Sequence[str], source: str) -> None:
    """Refuse columns that memory doesn't allow: a few bytes of a file may be many rows."""
    wanted = set(names)
    unpacked = 8 * len(names) * metadata.num_rows
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for at in range(row_group.num_columns):
            chunk = row_group.column(at)
            if chunk.path_in_schema in wanted:
                unpacked += chunk.total_uncompressed_size
    if unpacked > byte_limit():
        raise DataError(
            f"has {metadata.num_rows:,} rows, for which memory does not suffice: give a part of it",
            path=source,
        )


def _from_feather(raw: bytes, source: str) -> Table:
    import pyarrow as pa

    with _sound("Feather", source):
        buffer = pa.BufferReader(raw)
        whole = raw.startswith(b"ARROW1")
        reader = pa.ipc.open_file(buffer) if whole else pa.ipc.open_stream(buffer)
        limit, batches = byte_limit(), []
        for batch in (
            (reader.get_batch(at) for at in range(reader.num_record_batches)) if whole else reader
        ):
            limit -= batch.nbytes
            if limit < 0:
                raise DataError(
                    "unpacks to more than memory allows: give a part of it", path=source
                )
            batches.append(batch)
        table = pa.Table.from_batches(batches, reader.schema)
        table.validate(full=True)  # offsets of a damaged file would be followed anywhere
        return _of_arrow(table, source)


@contextmanager
def _sound(kind: str, source: str) -> Iterator[None]:
    """Say of a file that Arrow cannot read that it is damaged."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, KeyError, MemoryError, UnicodeDecodeError) as error:
        why = str(error).partition("\n")[0][:120]
        raise DataError(f"is a damaged {kind} file ({why}): fetch it again", path=source) from None


# --- memory ------------------------------------------------------------------------------------


def _from_arrow(source: object) -> Table:
    import pyarrow as pa

    return _of_arrow(pa.table(source), _IN_MEMORY)


def _of_arrow(table: Any, source: str) -> Table:
    return Table(
        source,
        _labels(table.column_names),
        _index_of(table.schema),
        lambda ats, _: [table.column(at) for at in ats],
    )


def _labels(names: Sequence[str]) -> list[Label]:
    """Take names apart that pandas made of the levels of a header: ``('Close', 'AAPL')``."""
    return [levels(name) or (name,) for name in names]


def _index_of(schema: Any) -> int | None:
    """Position of the column that pandas would make the index."""
    try:
        listed = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError):
        return None
    names = [name for name in listed if isinstance(name, str) and name in schema.names]
    return schema.names.index(names[0]) if len(names) == 1 else None


def _from_frame(frame: Any) -> Table:
    if len(frame.columns) > 1 and list(frame.columns) == list(range(len(frame.columns))):
        return _bare([_series(frame.iloc[:, at]) for at in range(len(frame.columns))])
    labels = [
        tuple(str(part) for part in name) if isinstance(name, tuple) else (str(name),)
        for name in frame.columns
    ]
    index = _index_columns(frame.index)
    labels = [name for name, _ in index] + labels

    def column(at: int) -> Any:
        if at < len(index):
            return index[at][1]()
        return _series(frame.iloc[:, at - len(index)])

    return Table(
        _IN_MEMORY,
        labels,
        0 if len(index) == 1 else None,
        lambda ats, _: [column(at) for at in ats],
    )


def _bare(columns: Sequence[Any]) -> Table:
    """Take columns without names, as of a file without a header."""
    rows = range(min([_SAMPLE_ROWS, *map(len, columns)]))
    heads = [column[: len(rows)] for column in columns]
    heads = [column.tolist() if hasattr(column, "tolist") else list(column) for column in heads]
    sample = [[str(head[row]) for head in heads] for row in rows]
    return Table(
        _IN_MEMORY,
        [(f"{at + 1}",) for at in range(len(columns))],
        None,
        lambda ats, _: [columns[at] for at in ats],
        sample=sample,
        bare=True,
    )


def _from_series(series: Any) -> Table:
    """Take a pandas Series for closes over its index."""
    index = _index_columns(series.index)
    read = [read for _, read in index] + [lambda: _series(series)]
    return Table(
        _IN_MEMORY,
        [name for name, _ in index] + [("close",)],
        0 if len(index) == 1 else None,
        lambda ats, _: [read[at]() for at in ats],
    )


def _index_columns(index: Any) -> list[tuple[Label, Callable[[], Any]]]:
    """Names and values of an index, level by level; one that only counts the rows has none."""
    if type(index).__name__ == "RangeIndex":
        return []
    if getattr(index, "nlevels", 1) == 1:
        return [(("" if index.name is None else str(index.name),), lambda: _series(index))]

    def level(at: int) -> Callable[[], Any]:
        return lambda: _series(index.get_level_values(at))

    return [
        (("" if name is None else str(name),), level(at)) for at, name in enumerate(index.names)
    ]


def _series(values: Any) -> Any:
    """Give a pandas Series or Index as a NumPy array if it is one inside, else as it is."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiuM":
        return np.asarray(values)
    return values


def _from_mapping(mapping: Mapping[Any, Any]) -> Table:
    names = [str(name) for name in mapping]
    values = list(mapping.values())
    return Table(
        _IN_MEMORY,
        [(name,) for name in names],
        None,
        lambda ats, _: [_array(names[at], values[at]) for at in ats],
    )


def _array(name: str, values: Any) -> Any:
    """Convert any array-like value to a form that a column can be made of."""
    if not hasattr(values, "__len__") or isinstance(values, str | bytes):
        raise DataError(f"{name} is a {type(values).__name__}, not an array", path=_IN_MEMORY)
    if hasattr(values, "iloc"):
        return _series(values)
    if isinstance(values, list | tuple | range) or hasattr(values, "null_count"):
        return values
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{name} has {array.ndim} dimensions, not one", path=_IN_MEMORY)
    return array
