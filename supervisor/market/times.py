"""A column of times of any kind as nanoseconds since the epoch, UTC."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.market.arrow import to_numpy
from supervisor.market.columns import BadCell, as_arrow, first_text, is_text, refuse_missing, shown
from supervisor.market.epochs import number_times
from supervisor.market.time_fields import MAX_CELL, extracted
from supervisor.market.time_window import NS_PER_S, check_window, check_years
from supervisor.market.written_times import text_times

_DAY_NS = 86_400 * NS_PER_S
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d.*)?( ?[AaPp]\.?[Mm]\.?)?")
_CLOCK_DIGITS = re.compile(r"\d{1,6}|\d{8,9}")
_CLOCK_FIELDS = (
    r"^(?P<H>\d{1,2}):(?P<M>\d\d)(:(?P<S>\d\d)([.,](?P<f>\d{1,9}))?)?( ?(?P<ap>[AaPp])\.?[Mm]\.?)?$"
)


def times(values: Any, name: str, said: list[str] | None = None) -> NDArray[np.int64]:
    """Convert a column to nanoseconds since the epoch, UTC.

    Parameters
    ----------
    values : ndarray, Arrow array or sequence
        Timestamps or dates of any unit, numbers (see
        :func:`supervisor.market.epochs.number_times`) or text. What bears no zone is UTC.
    name : str
        The column's name, for messages.
    said : list of str, optional
        Receives how an ambiguous text was read.

    Returns
    -------
    ndarray of int64, shape (n,)

    Raises
    ------
    BadCell
        If a cell is missing, is not a time of the same kind as the others, or lies outside
        the years 1960 to two from now.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return number_times(values, name)
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return _stamps(values, name)
    import pyarrow as pa

    column = as_arrow(_plain_objects(values))
    if is_text(column.type):
        found = text_times(column, name, said)
        check_window(found, name, column)
        return found
    refuse_missing(column, name)
    kind = column.type
    if pa.types.is_integer(kind):
        return number_times(_integers(column, name), name)
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        return number_times(to_numpy(column.cast(pa.float64(), safe=False)), name)
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise BadCell(f"{name} holds {kind} values, not times")
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(kind) else "ms"))
    counted = to_numpy(column.cast(pa.int64()))
    return _stamps(counted.view(f"M8[{column.type.unit}]"), name)


def join_times(
    dates: Any, clock: Any, names: tuple[str, str], said: list[str]
) -> NDArray[np.int64]:
    """Join a date and a time-of-day column.

    Raises
    ------
    BadCell
        As :func:`times` does.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    written = as_arrow(_plain_objects(clock))
    if (
        is_text(written.type)
        and is_text(as_arrow(dates).type)
        and _CLOCK.fullmatch(first_text(written)[:MAX_CELL])
    ):
        parts = (pc.utf8_trim_whitespace(as_arrow(part).cast(pa.string()))
                 for part in (dates, written))  # fmt: skip
        return times(pc.binary_join_element_wise(*parts, " "), "time", said)
    days = times(dates, names[0], said)
    odd = days % _DAY_NS != 0
    if odd.any():
        row = int(np.argmax(odd))
        raise BadCell(
            f"{names[0]} has a time of day beside the column {names[1]!r}: say which of them is "
            f"the time with --columns time={names[0]}",
            row,
        )
    refuse_missing(written, names[1])
    return days + _clock_ns(written, names[1])


def is_clock(values: Any) -> bool:
    """Whether a column holds times of day, as its first cell shows."""
    import pyarrow as pa

    if not len(values):
        return False
    column = as_arrow(_plain_objects(values[:1]))
    if is_text(column.type) or pa.types.is_integer(column.type):
        text = first_text(column)[:MAX_CELL]
        return bool(_CLOCK.fullmatch(text) or _CLOCK_DIGITS.fullmatch(text))
    return bool(pa.types.is_time(column.type) or pa.types.is_duration(column.type))


# --- timestamps --------------------------------------------------------------------------------


def _stamps(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Convert datetime64 of any unit; NumPy's own conversion overflows silently."""
    if np.datetime_data(values.dtype)[0] == "generic":
        raise BadCell(f"{name} holds datetime64 values without a unit, not times")
    missing = np.isnat(values)
    if missing.any():
        raise BadCell(f"{name} is missing: fill it in or delete the row", int(np.argmax(missing)))
    if np.datetime_data(values.dtype)[0] in ("ps", "fs", "as"):
        values = values.astype("M8[ns]")  # none of them leaves 1970 by more than some months
    check_years(values.astype("M8[Y]").astype(np.int64) + 1970, name, values)
    found: NDArray[np.int64] = values.astype("M8[ns]").astype(np.int64)
    check_window(found, name)
    return found


def _integers(column: Any, name: str) -> NDArray[Any]:
    import pyarrow as pa

    try:
        return to_numpy(column.cast(pa.int64()))
    except pa.ArrowException:
        raise BadCell(f"{name} holds numbers that are no times") from None


def _plain_objects(values: Any) -> Any:
    """Give Python objects that Arrow would cut, or not take, in a form that it converts whole."""
    kind = getattr(values, "dtype", None)
    if kind is not None and str(kind).startswith("period"):  # pandas'
        return np.asarray((getattr(values, "dt", None) or values).to_timestamp())
    if not (isinstance(values, list | tuple) or str(kind) == "object"):
        return values
    import datetime

    cells = list(values)
    if any(isinstance(cell, datetime.datetime) for cell in cells) and any(
        isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime)
        for cell in cells
    ):
        # Arrow makes dates of all of them, without their times of day
        return [cell if isinstance(cell, str) or cell is None else _midnight(cell)
                for cell in cells]  # fmt: skip
    return values


def _midnight(cell: Any) -> Any:
    import datetime

    if isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime):
        return datetime.datetime.combine(cell, datetime.time())
    return cell


# --- times of day ------------------------------------------------------------------------------


def _clock_ns(column: Any, name: str) -> NDArray[np.int64]:
    """Convert times of day to nanoseconds: text, digits, times, durations."""
    import pyarrow as pa

    kind = column.type
    if is_text(kind):
        if _CLOCK.fullmatch(first_text(column)[:MAX_CELL]):
            return _within_a_day(extracted(column, _CLOCK_FIELDS, name).clock_ns, column, name)
        column = column.cast(pa.string())
        try:
            column = column.cast(pa.int64())
        except pa.ArrowException:
            raise BadCell(f"{name} holds texts that are no times of day") from None
        kind = column.type
    if pa.types.is_integer(kind):
        return _within_a_day(_digits_ns(to_numpy(column.cast(pa.int64()))), column, name)
    if pa.types.is_time(kind):
        wide = column.cast(pa.time64("ns"))
        return _within_a_day(to_numpy(wide.cast(pa.int64())), column, name)
    if pa.types.is_duration(kind):
        wide = column.cast(pa.duration("ns"))
        return _within_a_day(to_numpy(wide.cast(pa.int64())), column, name)
    raise BadCell(f"{name} holds {kind} values, not times of day")


def _digits_ns(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read HHMM, HHMMSS or HHMMSSmmm; -1 where there is no such time of day."""
    largest = int(values.max(initial=0))
    millis = values % 1000 if largest > 235_959 else 0
    values = values // 1000 if largest > 235_959 else values
    seconds = values % 100 if largest > 9999 else 0
    values = values // 100 if largest > 9999 else values
    hours, minutes = values // 100, values % 100
    good = (hours < 24) & (minutes < 60) & (np.asarray(seconds) < 60) & (values >= 0)
    found = ((hours * 60 + minutes) * 60 + seconds) * NS_PER_S + np.asarray(millis) * 10**6
    return np.where(good, found, -1)


def _within_a_day(found: NDArray[np.int64], cells: Any, name: str) -> NDArray[np.int64]:
    odd = (found < 0) | (found >= _DAY_NS)
    if odd.any():
        row = int(np.argmax(odd))
        raise BadCell(f"{name} {shown(cells[row])} is no time of day", row)
    return found
