"""Columns by position, whatever they come from: CSV, Parquet, DataFrames, Arrow, arrays.

Knows files and containers, not what the columns mean. Whatever cannot be read is
one :class:`~supervisor.errors.DataError` that names the file, the row and the fix.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supervisor.errors import DataError
from supervisor.market.arrow import parquet_file
from supervisor.market.columns import MISSING_WORDS, BadCell, shown

SUFFIXES = (".csv", ".csv.gz", ".parquet")

_IN_MEMORY = "data"
_MAGICS = (
    (b"PAR1", "is a Parquet file: name it .parquet"),
    (b"\x1f\x8b", "is gzip-compressed: name it .csv.gz"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet: unpack it, or save it as CSV"),
    (b"\xff\xfe", "is UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16 text: save it as UTF-8"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a file or a container, not read yet.

    Attributes
    ----------
    source : str
        The file, or ``"data"``.
    names : sequence of str
        As the user wrote them.
    index : int or None
        Position of the column that serves as index: pandas' own, or a first one without a name.
    columns : callable
        Reads the columns at some positions; the second argument tells which of
        them should be numbers (a hint: others may come too, as text).
    row : callable
        Turns a 0-based row into what the user calls it.
    """

    source: str
    names: Sequence[str]
    index: int | None
    columns: Callable[[Sequence[int], Collection[int]], Sequence[Any]]
    row: Callable[[int], int] = int


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
        return _from_frame(source)
    if hasattr(source, "__arrow_c_stream__"):
        return _from_arrow(source)
    if isinstance(source, Mapping):
        return _from_mapping(source)
    raise DataError(
        f"cannot use a {type(source).__name__}: give the path of a {', '.join(SUFFIXES)} file, "
        "a DataFrame, an Arrow table or a mapping of arrays",
        path=_IN_MEMORY,
    )


def _from_path(path: Path) -> Table:
    source = str(path)
    if path.is_dir():
        raise DataError(f"is a directory: name a file ({', '.join(SUFFIXES)}) in it", path=source)
    if not path.exists():
        raise DataError("no such file", path=source)
    if not path.is_file():
        raise DataError("is not a regular file", path=source)
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise DataError(
            f"the suffix {shown(path.suffix)} says nothing of its format: "
            f"use one of {', '.join(SUFFIXES)}",
            path=source,
        )
    try:
        if path.stat().st_size == 0:
            raise DataError("is empty", path=source)
        if name.endswith(".parquet"):
            return _from_parquet(path)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=source) from None
    if name.endswith(".gz"):
        raw = _gunzip(raw, source)
    return _from_csv(raw, source)


def _gunzip(raw: bytes, source: str) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error):
        raise DataError("is not a whole gzip file: fetch it again", path=source) from None


def _from_parquet(path: Path) -> Table:
    source = str(path)
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise DataError("is not a Parquet file: is it CSV? Then name it .csv", path=source)
    with _sound_parquet(source), parquet_file(path) as file:
        schema = file.schema_arrow

    def columns(ats: Sequence[int], _: Collection[int]) -> Sequence[Any]:
        with _sound_parquet(source), parquet_file(path) as file:
            table = file.read(columns=[schema.names[at] for at in ats])
            return [table.column(schema.names[at]) for at in ats]

    return Table(source, schema.names, _index_of(schema), columns)


@contextmanager
def _sound_parquet(source: str) -> Iterator[None]:
    """Say of a file that Arrow cannot read that it is damaged."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        why = str(error).partition("\n")[0][:120]
        raise DataError(f"is a damaged Parquet file ({why}): fetch it again", path=source) from None


def _from_arrow(source: object) -> Table:
    import pyarrow as pa

    table = pa.table(source)
    return Table(
        _IN_MEMORY,
        table.column_names,
        _index_of(table.schema),
        lambda ats, _: [table.column(at) for at in ats],
    )


def _index_of(schema: Any) -> int | None:
    """Position of the column that pandas would make the index."""
    try:
        listed = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError):
        return None
    names = [name for name in listed if isinstance(name, str) and name in schema.names]
    return schema.names.index(names[0]) if names else None


def _from_frame(frame: Any) -> Table:
    names = [str(name[0] if isinstance(name, tuple) else name) for name in frame.columns]
    has_index = type(frame.index).__name__ != "RangeIndex"  # that one only counts the rows
    if has_index:
        names.insert(0, "" if frame.index.name is None else str(frame.index.name))

    def column(at: int) -> Any:
        if has_index and at == 0:
            return _series(frame.index)
        return _series(frame.iloc[:, at - has_index])

    return Table(
        _IN_MEMORY, names, 0 if has_index else None, lambda ats, _: [column(at) for at in ats]
    )


def _series(values: Any) -> Any:
    """Give a pandas Series or Index as a NumPy array if it is one inside, else as it is."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiu":
        return np.asarray(values)
    return values


def _from_mapping(mapping: Mapping[Any, Any]) -> Table:
    names = [str(name) for name in mapping]
    values = list(mapping.values())
    return Table(
        _IN_MEMORY, names, None, lambda ats, _: [_array(names[at], values[at]) for at in ats]
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


# --- CSV ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Csv:
    """A CSV file's text behind its header.

    Attributes
    ----------
    raw : bytes
        The whole file.
    body : int
        Offset of the first byte after the header's line.
    width : int
        Number of columns.
    """

    source: str
    raw: bytes
    body: int
    delimiter: str
    width: int

    def row(self, at: int) -> int:
        """Row ``at`` of the data as an editor shows it: from 1, header and empty lines counted."""
        line = self.raw[: self.body].count(b"\n")
        for text in self.raw[self.body :].splitlines():
            line += 1
            at -= bool(text)
            if at < 0:
                return line
        return line


def _from_csv(raw: bytes, source: str) -> Table:
    for magic, fix in _MAGICS:
        if raw.startswith(magic):
            raise DataError(fix, path=source)
    if b"\0" in raw[:4096]:
        raise DataError("is not text: a CSV file is needed", path=source)
    names, text = _header(raw, source)
    unnamed_first = None if names[0] else 0
    return Table(
        source,
        names,
        unnamed_first,
        lambda ats, numbers: _csv_columns(text, ats, numbers),
        text.row,
    )


def _header(raw: bytes, source: str) -> tuple[list[str], _Csv]:
    """Read the first line that is not empty."""
    body, line = 0, b""
    while body < len(raw):
        end = raw.find(b"\n", body) + 1 or len(raw)
        line, body = raw[body:end].removeprefix(b"\xef\xbb\xbf").strip(b"\r\n"), end
        if line.strip():
            break
    else:
        raise DataError("is empty", path=source)
    try:
        header = line.decode()
        delimiter = max(",;\t|", key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text: save it as UTF-8", path=source, row=1) from None
    except csv.Error as error:
        raise DataError(f"the header is not CSV: {error}", path=source, row=1) from None
    return names, _Csv(source, raw, body, delimiter, len(names))


def _csv_columns(text: _Csv, ats: Sequence[int], numbers: Collection[int]) -> Sequence[Any]:
    import pyarrow as pa

    if not text.raw[text.body :].strip():
        raise BadCell("has a header but no rows: at least 2 bars are needed")
    try:
        table = _parse_csv(text, ats, numbers)
    except pa.ArrowException:
        # a cell is wrong: read it again as text, slower, to find the row
        table = _parse_csv_as_text(text, ats)
    return [table.column(f"{at}") for at in ats]


def _parse_csv(text: _Csv, ats: Sequence[int], numbers: Collection[int], **how: Any) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pc

    body = memoryview(text.raw)[text.body :]
    kinds = {f"{at}": pa.float64() if at in numbers else pa.string() for at in ats}
    return pc.read_csv(
        pa.BufferReader(pa.py_buffer(body)),
        # by position: names may repeat, be empty or hold anything
        pc.ReadOptions(
            column_names=[f"{at}" for at in range(text.width)],
            use_threads=not how,  # with threads Arrow does not count the rows
        ),
        pc.ParseOptions(delimiter=text.delimiter, **how),
        pc.ConvertOptions(
            include_columns=list(kinds), column_types=kinds, null_values=list(MISSING_WORDS)
        ),
    )


def _parse_csv_as_text(text: _Csv, ats: Sequence[int]) -> Any:
    import pyarrow as pa

    try:
        text.raw.decode()
    except UnicodeDecodeError as error:
        line = text.raw.count(b"\n", 0, error.start) + 1
        raise DataError("is not UTF-8 text: save it as UTF-8", path=text.source, row=line) from None
    torn: list[Any] = []

    def keep(row: Any) -> str:
        torn.append(row)
        return "error"

    try:
        return _parse_csv(text, ats, (), invalid_row_handler=keep)
    except pa.ArrowException as error:
        if not torn or torn[0].number is None:
            why = str(error).partition("\n")[0][:120]
            raise DataError(f"cannot be read as CSV: {why}", path=text.source) from None
    row = torn[0]
    raise BadCell(
        f"has {row.actual_columns} columns where the header has {text.width}", row.number - 1
    )
