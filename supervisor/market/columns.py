"""One column of the user's data as a plain array: prices as float64, times as UTC nanoseconds.

Knows NumPy and Arrow values, and the ways in which people write times. Knows
nothing of files: what is wrong with a cell is said as :class:`BadCell`, and who
called knows what the cell's row is called.
"""

from __future__ import annotations

import re
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

TIME_FORMS = (
    "YYYY-MM-DD HH:MM:SS (with or without a zone), YYYYMMDD HHMMSS, DD.MM.YYYY HH:MM:SS, "
    "or seconds, ms, µs or ns since 1970"
)

_UNITS = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3), (2**63, 1))
"""Below which size an epoch is in s, ms, µs, ns, and its nanoseconds: good from 1973 to 2286."""

_LEAST_EPOCH = 10**8
"""Smaller numbers (before March 1973, in seconds) are row numbers, not times."""

_CALENDAR = range(19000101, 21001232)
"""YYYYMMDD read as a number; as seconds it would be a day in 1970."""

_FIRST_DAY, _LAST_DAY = "1677-09-22", "2262-04-10"
"""Days that nanoseconds since 1970 hold from end to end."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_DAY = r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
_ZONE = re.compile(r":.*?( ?(Z|UTC|GMT)| ?((GMT|UTC)?[+-]\d\d(:?\d\d)?))$")

_REWRITES = (
    # what the first cell looks like, and how to turn its like into ISO 8601
    (re.compile(r"\d{4}-\d\d-\d\d([ T].*)?"), "", ""),
    (re.compile(r"\d{4}[./]\d\d[./]\d\d( .*)?"), r"^(\d{4})[./](\d\d)[./](\d\d)", r"\1-\2-\3"),
    (re.compile(r"\d\d\.\d\d\.\d{4}( .*)?"), r"^(\d\d)\.(\d\d)\.(\d{4})", r"\3-\2-\1"),
    (re.compile(_DAY), r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3"),
    (re.compile(_DAY + r"[ T]?\d\d:?\d\d"),
     r"^(\d{4})(\d\d)(\d\d)[ T]?(\d\d):?(\d\d)$", r"\1-\2-\3 \4:\5"),
    (re.compile(_DAY + r"[ T]?\d\d:?\d\d:?\d\d.*"),
     r"^(\d{4})(\d\d)(\d\d)[ T]?(\d\d):?(\d\d):?(\d\d)", r"\1-\2-\3 \4:\5:\6"),
)  # fmt: skip


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

    column = _arrow(values)
    if _is_text(column.type):
        column = _text_to_floats(column, name)
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
        raise BadCell(f"{name} holds {kind} values, not numbers")
    try:
        return to_numpy(column.cast(pa.float64(), safe=False))
    except pa.ArrowException:
        raise BadCell(f"{name} holds {kind} values, not numbers") from None


def times(values: Any, name: str) -> NDArray[np.int64]:
    """Convert a column to nanoseconds since the epoch, UTC.

    Parameters
    ----------
    values : ndarray, Arrow array or sequence
        Timestamps or dates of any unit, epochs (their size shows their unit)
        or text. What bears no zone is UTC.
    name : str
        The column's name, for messages.

    Returns
    -------
    ndarray of int64, shape (n,)

    Raises
    ------
    BadCell
        If a cell is missing, is not a time, or lies outside the years 1677 to 2262.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return _epochs(values, name)
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        values = values.astype("M8[s]") if values.dtype.str[4:] in ("h]", "m]") else values
    import pyarrow as pa

    column = _arrow(values)
    if _is_text(column.type):
        return _text_to_times(column, name)
    _refuse_missing(column, name)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        kind = pa.int64() if pa.types.is_integer(kind) else pa.float64()
        return _epochs(to_numpy(column.cast(kind)), name)
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise BadCell(f"{name} holds {kind} values, not times")
    return _cast_times(column, pa.timestamp("ns", getattr(kind, "tz", None)), name)


def join_text(dates: Any, clock: Any) -> Any:
    """Join a date and a time-of-day column into one of text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = (pc.utf8_trim_whitespace(_arrow(part).cast(pa.string())) for part in (dates, clock))
    return pc.binary_join_element_wise(*parts, " ")


def first_text(values: Any) -> str:
    """Return the first cell as text, without blanks around it; empty if there is none."""
    return str(values[0]).strip() if len(values) else ""


def shown(text: object) -> str:
    """Quote a foreign text for a one-line message."""
    quoted = repr(str(text))
    return quoted if len(quoted) <= 50 else quoted[:46] + "…'"


def _arrow(values: Any) -> Any:
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


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _trim(column: Any) -> Any:
    """Cut blanks off text cells and make the missing ones null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(column.cast(pa.string()))
    missing = pc.is_in(column, value_set=text_to_arrow(MISSING_WORDS))
    return pc.if_else(missing, null_text(), column)


def _text_to_floats(column: Any, name: str) -> Any:
    import pyarrow as pa

    column = _trim(column)
    return _cast(
        column,
        lambda part: part.cast(pa.float64()),
        lambda text: f"{name} is {shown(text)}, not a number",
    )


def _text_to_times(column: Any, name: str) -> NDArray[np.int64]:
    try:
        return _clean_text_to_times(column, name)
    except BadCell:
        # most files have nothing to trim, and trimming takes as long as reading
        column = _trim(column)
        _refuse_missing(column, name)
        return _clean_text_to_times(column, name)


def _clean_text_to_times(column: Any, name: str) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    first = first_text(column)
    rewrite = next((how for looks, *how in _REWRITES if looks.fullmatch(first)), None)
    if rewrite is None:
        return _epochs(_text_to_numbers(column, first, name), name)
    pattern, iso = rewrite
    plain = pc.replace_substring_regex(column, pattern, iso) if pattern else column
    zoned = _ZONE.search(first) is not None
    if zoned:
        # Arrow knows Z and offsets without a blank before them
        plain = pc.replace_substring_regex(plain, r" ?(?:GMT|UTC)?([+-]\d\d:?\d\d)$", r"\1")
        plain = pc.replace_substring_regex(plain, r" ?(?:Z|GMT|UTC)$", "Z")
    return _cast_times(plain, pa.timestamp("ns", "UTC" if zoned else None), name, column)


def _text_to_numbers(column: Any, first: str, name: str) -> NDArray[Any]:
    import pyarrow as pa

    if not _NUMBER.fullmatch(first):
        raise BadCell(f"{name} {shown(first)} is not understood: write {TIME_FORMS}", 0)
    kind = pa.float64() if "." in first else pa.int64()
    numbers = _cast(
        column,
        lambda part: part.cast(kind),
        lambda text: f"{name} {shown(text)} is not a number like the first, {first}",
    )
    return to_numpy(numbers)


def _cast_times(column: Any, kind: Any, name: str, original: Any = None) -> NDArray[np.int64]:
    import pyarrow as pa

    cells = column if original is None else original

    def complaint(text: str) -> str:
        return (
            f"{name} {shown(text)} is no time between 1677 and 2262"
            f" written like the first, {shown(cells[0])}"
        )

    def convert(part: Any) -> Any:
        if pa.types.is_string(part.type) and _arrow_wraps():
            _refuse_other_centuries(part)
        return part.cast(kind)

    found = _cast(column, convert, complaint, cells)
    return to_numpy(found.cast(pa.int64()))


def _arrow_wraps() -> bool:
    """Whether this Arrow reads the year 9999 as 1815, as versions before 26 do."""
    import pyarrow as pa

    try:
        text_to_arrow(["9999-01-01"]).cast(pa.timestamp("ns"))
    except pa.ArrowException:
        return False
    return True


def _refuse_other_centuries(part: Any) -> None:
    """Raise what a later Arrow raises for a time that 64 bits of nanoseconds do not hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ends = pc.min_max(pc.utf8_slice_codeunits(part, 0, 10))
    if len(part) and not _FIRST_DAY <= str(ends["min"]) <= str(ends["max"]) <= _LAST_DAY:
        raise pa.ArrowInvalid("out of range")


def _cast(
    column: Any,
    convert: Callable[[Any], Any],
    complaint: Callable[[str], str],
    original: Any = None,
) -> Any:
    """Convert a column; if that fails find the first cell at fault by halving."""
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


def _refuse_missing(column: Any, name: str) -> None:
    if column.null_count:
        row = int(np.flatnonzero(nulls(column))[0])
        raise BadCell(f"{name} is missing: fill it in or delete the row", row)


def _epochs(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Convert numbers since 1970 to nanoseconds; their size shows their unit."""
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    if values.dtype.kind == "f":
        odd = np.flatnonzero(~np.isfinite(values))
        if len(odd):
            raise BadCell(f"{name} is missing: fill it in or delete the row", int(odd[0]))
    largest = max(abs(int(values.min())), abs(int(values.max())))
    if int(values.min()) in _CALENDAR and largest in _CALENDAR:
        import pyarrow as pa

        return _text_to_times(pa.array(values.astype(np.int64)).cast(pa.string()), name)
    if largest < _LEAST_EPOCH:
        raise BadCell(f"{name} {values[0]} is not a time: write {TIME_FORMS}", 0)
    factor = next((ns for limit, ns in _UNITS if largest < limit), 0)
    if factor == 0 or largest > (2**63 - 1) // factor:
        row = int(np.argmax(np.abs(values)))
        raise BadCell(f"{name} {values[row]} lies outside the years 1677 to 2262", row)
    if values.dtype.kind != "f":
        return np.multiply(values.astype(np.int64), factor, dtype=np.int64)
    whole: NDArray[np.int64] = np.floor(values).astype(np.int64)
    # the fraction apart, since a double does not hold the nanoseconds of a whole epoch
    rest = np.rint((values - whole) * factor).astype(np.int64)
    whole *= factor
    whole += rest
    return whole
