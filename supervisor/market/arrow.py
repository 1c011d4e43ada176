"""Between NumPy and Arrow by their buffers.

Arrow's own conversions import pandas wherever it is installed, to see whether it
was handed a Series: a third of a second at every start, and in no way needed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@contextmanager
def parquet_file(path: Path | str) -> Iterator[Any]:
    """Open a Parquet file by a path of any bytes: Arrow itself takes UTF-8 only.

    Yields
    ------
    pyarrow.parquet.ParquetFile
    """
    import pyarrow.parquet as pq

    with Path(path).open("rb") as file, pq.ParquetFile(file) as parquet:
        yield parquet


def to_arrow(values: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> Any:
    """Give numbers or truth values as an Arrow array.

    Parameters
    ----------
    values : ndarray of int64, float64 or bool, shape (n,)
        Not copied unless bool.
    absent : ndarray of bool, shape (n,), optional
        True where the value is null.

    Returns
    -------
    pyarrow.Array
    """
    import pyarrow as pa

    kind = pa.from_numpy_dtype(values.dtype)
    data = _bits(values) if values.dtype == np.bool_ else np.ascontiguousarray(values)
    there = None
    if absent is not None and absent.any():
        there = pa.py_buffer(_bits(~absent))
    return pa.Array.from_buffers(kind, len(values), [there, pa.py_buffer(data)])


def text_to_arrow(texts: Sequence[str | None]) -> Any:
    """Give texts as an Arrow array of strings; None becomes null."""
    import pyarrow as pa

    raw = [b"" if text is None else text.encode("utf-8", "replace") for text in texts]
    ends = np.zeros(len(raw) + 1, dtype=np.int32)
    np.cumsum([len(part) for part in raw], out=ends[1:])
    absent = np.array([text is None for text in texts], dtype=np.bool_)
    there = pa.py_buffer(_bits(~absent)) if absent.any() else None
    buffers = [there, pa.py_buffer(ends), pa.py_buffer(b"".join(raw))]
    return pa.Array.from_buffers(pa.string(), len(raw), buffers)


def null_text() -> Any:
    """Give a missing text as an Arrow scalar."""
    import pyarrow as pa

    return pa.nulls(1, pa.string())[0]


def to_numpy(column: Any) -> NDArray[Any]:
    """Copy an Arrow column of numbers of 8 bytes; what is null becomes NaN, or 0 for integers."""
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    dtype = np.dtype(np.float64 if str(column.type) == "double" else np.int64)
    if not len(column):
        return np.empty(0, dtype=dtype)
    values = np.frombuffer(
        column.buffers()[1], dtype, count=len(column), offset=column.offset * dtype.itemsize
    ).copy()
    if column.null_count:
        values[nulls(column)] = np.nan if dtype.kind == "f" else 0
    return values


def nulls(column: Any) -> NDArray[np.bool_]:
    """Where an Arrow column has no value."""
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    there = column.buffers()[0]
    if there is None:
        return np.full(len(column), column.null_count > 0)
    bits = np.unpackbits(np.frombuffer(there, np.uint8), bitorder="little")
    return ~bits[column.offset : column.offset + len(column)].astype(np.bool_)


def _bits(values: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(values, bitorder="little")
