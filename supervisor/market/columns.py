"""One column of the user's data: what it holds, as an Arrow array, and numbers as float64.

Knows NumPy and Arrow values. Knows nothing of files: what is wrong with a cell is said as
:class:`BadCell`, and the caller knows what the cell's row is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.market.arrow import null_text, nulls, text_to_arrow, to_numpy

MISSING_WORDS = (
    "", "nan", "NaN", "NAN", "-nan", "-NaN", "NA", "N/A", "n/a", "#N/A", "<NA>",
    "null", "NULL", "Null", "None", "NaT",
)  # fmt: skip
"""Cells that say that there is no value."""


class BadCell(Exception):
    """A value that cannot be used.

    Attributes
    ----------
    message : str
        What is wrong and how to fix it.
    row : int or None
        0-based row among the values; None if the whole column is at fault.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.row = row


def floats(values: Any, name: str) -> NDArray[np.float64]:
    """Convert a column to numbers; what is missing becomes NaN.

    Parameters
    ----------
    values : ndarray, Arrow array or sequence
        Numbers of any width, decimals, or text that reads as numbers.
    name : str
        The column's name, for messages.

    Returns
    -------
    ndarray of float64, shape (n,)
        A copy.

    Raises
    ------
    BadCell
        If a cell is not a number.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return np.array(values, dtype=np.float64)
    import pyarrow as pa

    column = as_arrow(values)
    if is_text(column.type):
        column = _text_to_floats(column, name)
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
        raise BadCell(f"{name} holds {kind} values, not numbers")
    try:
        return to_numpy(column.cast(pa.float64(), safe=False))
    except pa.ArrowException:
        raise BadCell(f"{name} holds {kind} values, not numbers") from None


def first_text(values: Any) -> str:
    """Return the first cell as text, without blanks around it; empty if there is none."""
    return str(values[0]).strip() if len(values) else ""


def shown(text: object) -> str:
    """Quote a foreign text for a one-line message."""
    quoted = repr(str(text))
    return quoted if len(quoted) <= 50 else quoted[:46] + "…'"


def as_arrow(values: Any) -> Any:
    """Give values as an Arrow array without dictionary encoding; odd mixtures as text."""
    import pyarrow as pa

    if not isinstance(values, pa.Array | pa.ChunkedArray):
        try:
            values = pa.array(values, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            words = [None if v is None or v != v else str(v) for v in values]
            values = pa.array(words, pa.string())
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of text."""
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        # before Arrow 16 there was none
        or getattr(pa.types, "is_string_view", lambda _: False)(kind)
    )


def trimmed(column: Any) -> Any:
    """Cut blanks off text cells and make the missing ones null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(column.cast(pa.string()))
    missing = pc.is_in(column, value_set=text_to_arrow(MISSING_WORDS))
    return pc.if_else(missing, null_text(), column)


def converted(
    column: Any,
    convert: Callable[[Any], Any],
    complaint: Callable[[str], str],
    original: Any = None,
) -> Any:
    """Convert a column; if that fails find the first cell at fault by halving.

    Raises
    ------
    BadCell
        With what `complaint` says of that cell, as `original` has it.
    """
    import pyarrow as pa

    try:
        return convert(column)
    except pa.ArrowException:
        pass
    good, bad = 0, len(column)  # invariant: cells before `good` convert, those before `bad` don't
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            convert(column.slice(good, middle - good))
        except pa.ArrowException:
            bad = middle
        else:
            good = middle
    cell = (column if original is None else original)[good]
    raise BadCell(complaint(str(cell)), good)


def refuse_missing(column: Any, name: str) -> None:
    """Raise :class:`BadCell` for the first null of a column."""
    if column.null_count:
        row = int(np.flatnonzero(nulls(column))[0])
        raise BadCell(f"{name} is missing: fill it in or delete the row", row)


def _text_to_floats(column: Any, name: str) -> Any:
    import pyarrow as pa

    column = trimmed(column)
    return converted(
        column,
        lambda part: part.cast(pa.float64()),
        lambda text: f"{name} is {shown(text)}, not a number",
    )
