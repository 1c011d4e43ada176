"""Times as people write them, as nanoseconds since the epoch, UTC.

No cell is longer than :data:`~.time_fields.MAX_CELL`, and columns are searched by RE2, whose time
is linear: no cell makes it slow.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.market.arrow import text_to_arrow, to_numpy
from supervisor.market.columns import BadCell, converted, first_text, refuse_missing, shown, trimmed
from supervisor.market.epochs import TIME_FORMS, calendar_ns, number_times, valid_days
from supervisor.market.time_fields import MAX_CELL, Fields, extracted, no_time
from supervisor.market.time_window import check_years

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
    (re.compile(_DAY + r"[ T]\d\d:?\d\d"),
     r"^(\d{4})(\d\d)(\d\d)[ T](\d\d):?(\d\d)$", r"\1-\2-\3 \4:\5"),
    (re.compile(_DAY + r"[ T]\d\d:?\d\d:?\d\d.*"),
     r"^(\d{4})(\d\d)(\d\d)[ T](\d\d):?(\d\d):?(\d\d)", r"\1-\2-\3 \4:\5:\6"),
)  # fmt: skip

_CLOCK = (
    r"([ T,-]+(?P<H>\d{1,2})(:?(?P<M>\d\d)(:?(?P<S>\d\d)([.,](?P<f>\d{1,9}))?)?)?"
    r"([ -]?(?P<ap>[AaPp])\.?[Mm]\.?)?)?"
)
_OFFSET = r"( ?(?P<z>Z|UTC|GMT)| ?(GMT|UTC)?(?P<off>[+-]\d\d:?(\d\d)?))?$"
_DATES = (
    r"^(?P<y>\d{4})[-./](?P<m>\d{1,2})[-./](?P<d>\d{1,2})",
    r"^(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)",
    r"^(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4}|\d\d)",
    r"^(?P<a>\d{1,2})[/-](?P<b>\d{1,2})[/-](?P<y>\d{4}|\d\d)",
    r"^(?P<d>\d{1,2})[- ](?P<mon>[A-Za-z]{3})[a-z]*[- ,]+(?P<y>\d{4}|\d\d)",
    r"^(?P<mon>[A-Za-z]{3})[a-z]*\.? +(?P<d>\d{1,2}),? +(?P<y>\d{4})",
)


def text_times(column: Any, name: str, said: list[str] | None = None) -> NDArray[np.int64]:
    """Convert a text column of times.

    Parameters
    ----------
    column : Arrow array of text
        What was written.
    name : str
        The column's name, for messages.
    said : list of str, optional
        Receives which of day and month was read first, where that was decided by the data.

    Raises
    ------
    BadCell
        Names the first row that is missing, or not written like the first.
    """
    _refuse_long(column, name)
    try:
        return _clean(column, name, said)
    except BadCell:
        # most files have nothing to trim, and trimming takes as long as reading
        column = trimmed(column)
        refuse_missing(column, name)
        return _clean(column, name, said)


def _refuse_long(column: Any, name: str) -> None:
    import pyarrow.compute as pc

    lengths = pc.binary_length(column)
    longest = pc.max(lengths).as_py() or 0
    if longest > 4 * MAX_CELL:
        row = pc.index(lengths, longest).as_py()
        raise BadCell(f"{name} {shown(column[row])} has {longest:,} bytes: it is no time", row)


def _clean(column: Any, name: str, said: list[str] | None) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    first = first_text(column)[:MAX_CELL]
    if _NUMBER.fullmatch(first):
        return number_times(_numbers(column, first, name), name)
    general = next((date for date in _DATES if re.match(date, first)), None)
    rewrite = next((how for looks, *how in _REWRITES if looks.fullmatch(first)), None)
    if rewrite is None and general is None:
        raise BadCell(f"{name} {shown(first)} is not understood: write {TIME_FORMS}", 0)
    if rewrite is None:
        return _read(column, str(general), name, said)
    pattern, iso = rewrite
    plain = pc.replace_substring_regex(column, pattern, iso) if pattern else column
    zoned = _ZONE.search(first) is not None
    if zoned:
        # Arrow knows Z and offsets without a blank before them
        plain = pc.replace_substring_regex(plain, r" ?(?:GMT|UTC)?([+-]\d\d:?\d\d)$", r"\1")
        plain = pc.replace_substring_regex(plain, r" ?(?:Z|GMT|UTC)$", "Z")
    try:
        return _cast(plain, pa.timestamp("ns", "UTC" if zoned else None), name, column)
    except BadCell:
        if general is None:
            raise
        return _read(column, general, name, said)


def _numbers(column: Any, first: str, name: str) -> NDArray[Any]:
    import pyarrow as pa

    kind = pa.float64() if "." in first else pa.int64()
    numbers = converted(
        column,
        lambda part: part.cast(kind),
        lambda text: f"{name} {shown(text)} is not a number like the first, {first}",
    )
    return to_numpy(numbers)


def _cast(column: Any, kind: Any, name: str, cells: Any) -> NDArray[np.int64]:
    import pyarrow as pa

    def convert(part: Any) -> Any:
        if _arrow_wraps():
            _refuse_other_centuries(part)
        return part.cast(kind)

    found = converted(column, convert, lambda text: no_time(text, cells, name), cells)
    return to_numpy(found.cast(pa.int64()))


@cache
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


# --- field by field ----------------------------------------------------------------------------


def _read(column: Any, date: str, name: str, said: list[str] | None) -> NDArray[np.int64]:
    import pyarrow.compute as pc

    fields = extracted(column, date + _CLOCK + _OFFSET, name)
    marks = to_numpy(pc.match_substring_regex(column, r"[\d ](Z|UTC|GMT|[+-]\d\d:?(\d\d)?)$")
                     .cast("int64")) if _has_clock(fields) else np.zeros(1, np.int64)  # fmt: skip
    if (marks != marks[0]).any():
        row = int(np.argmax(marks != marks[0]))
        raise BadCell(no_time(str(column[row]), column, name), row)
    year = fields["y"]
    year = np.where(year < 100, np.where(year < 60, 2000, 1900) + year, year)
    check_years(year, name, column)
    if "a" in fields:
        month, day = _in_order(fields, year, column, name, said)
    else:
        month = fields["mon"] if "mon" in fields else fields["m"]
        day = fields["d"]
    clock = fields.clock_ns
    good = valid_days(year, month, day) & (clock >= 0)
    if not good.all():
        row = int(np.argmin(good))
        raise BadCell(no_time(str(column[row]), column, name), row)
    offset = fields["off"] if marks[0] else 0
    return calendar_ns(year, month, day) + clock - offset


def _has_clock(fields: Fields) -> bool:
    return bool(fields["z"].any() or fields["off"].any() or fields["H"].any())


def _in_order(
    fields: Fields, year: NDArray[np.int64], column: Any, name: str, said: list[str] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Decide which of two numbers is the month: by what is no month, or by the order of rows."""
    a, b = fields["a"], fields["b"]
    orders = {"month/day": (a, b), "day/month": (b, a)}
    possible = {how: order for how, order in orders.items() if valid_days(year, *order).all()}
    if not possible:
        how = max(orders, key=lambda each: valid_days(year, *orders[each]).sum())
        row = int(np.argmin(valid_days(year, *orders[how])))
        raise BadCell(
            f"{name} {shown(column[row])} is no day, neither as month/day nor as day/month "
            "in all rows: write YYYY-MM-DD",
            row,
        )
    if len(possible) > 1 and not np.array_equal(a, b):
        possible = {how: order for how, order in possible.items() if _ordered(year, *order, fields)}
    if len(possible) > 1 and np.array_equal(a, b):
        possible.pop("day/month")
    if len(possible) != 1:
        raise BadCell(
            f"{name} {shown(column[0])} is not understood: it may be month/day or day/month; "
            "write YYYY-MM-DD",
            0,
        )
    ((how, order),) = possible.items()
    if said is not None:
        said.append(f"dates such as {first_text(column)[:MAX_CELL]} read as {how}/year")
    return order


def _ordered(
    year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64], fields: Fields
) -> bool:
    steps = np.diff(calendar_ns(year, month, day) + fields.clock_ns)
    return bool((steps >= 0).all() or (steps <= 0).all())
