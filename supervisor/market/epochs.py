"""Times written as numbers: seconds, ms, µs or ns since 1970, and digits of the calendar.

A column is of one kind and one unit. The kind is seen from all rows, so that no row is
read as what the others are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supervisor.market.columns import BadCell
from supervisor.market.time_window import NS_PER_S, check_window, window_s

TIME_FORMS = (
    "YYYY-MM-DD HH:MM:SS (with or without a zone), YYYYMMDD HHMMSS, DD.MM.YYYY HH:MM:SS, "
    "or seconds, ms, µs or ns since 1970"
)

_LIMITS = np.array([10**11, 10**14, 10**17], dtype=np.int64)
"""Sizes from which an epoch is in ms, µs, ns; seconds below: good from 1973 to 2286."""
_FACTORS = (10**9, 10**6, 10**3, 1)
_UNITS = ("s", "ms", "µs", "ns")

_LEAST_EPOCH = 10**8
"""Smaller numbers (before March 1973, in seconds) are row numbers, not times."""

_YEAR_S = 366 * 86_400

_Form = tuple[str, tuple[int, ...], tuple[int, int]]

_FORMS: tuple[_Form, ...] = (
    # what it is called, digits of each field from the year on, least and largest number
    ("YYYYMMDD", (4, 2, 2), (19000101, 21001231)),
    ("YYYYMMDDHH", (4, 2, 2, 2), (1900010100, 2100123123)),
    ("YYMMDDHHMM", (2, 2, 2, 2, 2), (1010000, 9912312359)),
    ("YYYYMMDDHHMM", (4, 2, 2, 2, 2), (190001010000, 210012312359)),
    ("YYMMDDHHMMSS", (2, 2, 2, 2, 2, 2), (101000000, 991231235959)),
    ("YYYYMMDDHHMMSS", (4, 2, 2, 2, 2, 2), (19000101000000, 21001231235959)),
    ("YYYYMMDDHHMMSSmmm", (4, 2, 2, 2, 2, 2, 3), (19000101000000000, 21001231235959999)),
)
_DAYS = _FORMS[0][2]
_MOST = (9999, 12, 31, 23, 59, 59, 999)


def number_times(values: NDArray[np.generic], name: str) -> NDArray[np.int64]:
    """Convert numbers to nanoseconds since the epoch, UTC.

    Parameters
    ----------
    values : ndarray of integers or floats, shape (n,)
        Since 1970 in s, ms, µs or ns, all in the same unit, which their size shows; or
        digits of the calendar, such as ``20240102`` or ``202401020930``.
    name : str
        The column's name, for messages.

    Returns
    -------
    ndarray of int64, shape (n,)

    Raises
    ------
    BadCell
        Names the first row that is missing, or not a time of the same kind.
    """
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    if values.dtype.kind == "f":
        numbers = values.astype(np.float64)
        odd = np.flatnonzero(~np.isfinite(numbers))
        if len(odd):
            raise BadCell(f"{name} is missing: fill it in or delete the row", int(odd[0]))
        if not (np.abs(numbers) < 2**63).all() or (numbers != np.floor(numbers)).any():
            return _fractions(numbers, name)
        return _whole(numbers.astype(np.int64), name)
    if values.dtype.kind == "u" and int(values.max()) >= 2**63:
        row = int(np.argmax(values))
        raise BadCell(f"{name} {values[row]} is not a time: write {TIME_FORMS}", row)
    return _whole(values.astype(np.int64), name)


def _whole(values: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    plausible = _are_epochs(values)
    undated = None
    for _, widths, _ in _forms_of(values):
        fields, good = _fields(values, widths)
        if not good.all() or (plausible and _on_the_minute(values)):
            continue
        found = _calendar_ns(fields)
        if _dated(found):
            return found
        undated = found if undated is None else undated
    digits = plausible and not _on_the_minute(values) and _mostly_digits(values)
    if not plausible or digits:
        if undated is not None:
            check_window(undated, name, values)
        _refuse(values, name)
    _refuse_other_units(values, name)
    factor = _FACTORS[_unit(values)]
    check_window(values // (NS_PER_S // factor), name, values, per_s=1)
    return values * factor


def _mostly_digits(values: NDArray[np.int64]) -> bool:
    """Whether most are digits of the calendar; of epochs one in two hundred is, by chance."""
    return any(_fields(values, form[1])[1].mean() >= 0.5 for form in _forms_of(values))


def _forms_of(values: NDArray[np.int64]) -> list[_Form]:
    """List the ways to write a calendar time as digits that the first row may be written in."""
    return [form for form in _FORMS if form[2][0] <= values[0] <= form[2][1]]


def _fractions(values: NDArray[np.float64], name: str) -> NDArray[np.int64]:
    """Convert epochs with a fraction; the fraction apart, since a double holds no whole epoch."""
    largest = int(np.argmax(np.abs(values)))
    if not _LEAST_EPOCH <= abs(values[largest]) < 2**63:
        raise BadCell(f"{name} {values[largest]:g} is not a time: write {TIME_FORMS}", largest)
    whole = np.floor(values).astype(np.int64)
    _refuse_other_units(whole, name)
    factor = _FACTORS[_unit(whole)]
    check_window(whole // (NS_PER_S // factor) * NS_PER_S, name, values)
    rest = np.rint((values - whole) * factor).astype(np.int64)
    return whole * factor + rest


# --- epochs ------------------------------------------------------------------------------------


def _unit(values: NDArray[np.int64]) -> int:
    largest = max(abs(int(values.min())), abs(int(values.max())))
    return int(np.searchsorted(_LIMITS, largest, side="right"))


def _are_epochs(values: NDArray[np.int64]) -> bool:
    """Whether all of them are times that anybody's data may have, in the unit of the largest."""
    per_s = NS_PER_S // _FACTORS[_unit(values)]
    least, most = int(values.min()) // per_s, int(values.max()) // per_s
    earliest, latest = window_s()
    if _DAYS[0] <= values[0] <= _DAYS[1]:
        return False
    return max(abs(least), abs(most)) >= _LEAST_EPOCH and earliest <= least and most <= latest


def _on_the_minute(values: NDArray[np.int64]) -> bool:
    """Whether they are whole minutes since 1970, as bars' epochs are and digits are not."""
    per_s = NS_PER_S // _FACTORS[_unit(values)]
    return bool((values % (60 * per_s) == 0).all())


def _refuse_other_units(values: NDArray[np.int64], name: str) -> None:
    """Refuse ms among µs: read as µs they would be days of 1970.

    Times of 1966 to 1973 look the same; they are told from it by what follows: a column
    that goes on to 1974 has no gap there.
    """
    own = _unit(values)
    units = np.searchsorted(_LIMITS, np.abs(values), side="right")
    if (units == own).all():
        return
    per_s = NS_PER_S // _FACTORS[own]
    nearest = int(np.abs(values[units == own]).min())
    if own and nearest < (_LEAST_EPOCH + _YEAR_S) * per_s:
        return
    row = int(np.argmax(units != units[0]))
    raise BadCell(
        f"{name} {values[row]} is in {_UNITS[int(units[row])]} since 1970, where the rows before "
        f"are in {_UNITS[int(units[0])]}: write all of them in one unit",
        row,
    )


# --- digits of the calendar --------------------------------------------------------------------


def _fields(
    values: NDArray[np.int64], widths: tuple[int, ...]
) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Split numbers into year, month, day …; and say which rows are dates and times of day."""
    fields: list[NDArray[np.int64]] = []
    rest = values
    for width in widths[:0:-1]:
        fields.append(rest % 10**width)
        rest = rest // 10**width
    century = np.where(rest < 60, 2000, 1900) if widths[0] == 2 else 0
    # numbers with more digits than the form has would be years beyond its own
    good = (rest >= 0) & (rest < 10 ** widths[0])
    fields.append(rest + century)
    fields.reverse()
    for at, field in enumerate(fields):
        good &= field <= _MOST[at]
    good &= (fields[1] >= 1) & (fields[2] >= 1) & (fields[0] >= 1900)
    # a day that the month doesn't have is one of the next month
    days = _days(fields[0], np.where(good, fields[1], 1), fields[2])
    good &= days < _days(fields[0], np.where(good, fields[1], 1) + 1, 1)
    return fields, good


def _days(
    year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Days since 1970; a 13th month is the next January."""
    months = (year - 1970) * 12 + month - 1
    first = np.asarray(months).astype("M8[M]").astype("M8[D]").astype(np.int64)
    found: NDArray[np.int64] = first + day - 1
    return found


def _calendar_ns(fields: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return calendar_ns(*fields[:3], *fields[3:6]) + (fields[6] * 10**6 if len(fields) > 6 else 0)


def calendar_ns(
    year: NDArray[np.int64],
    month: NDArray[np.int64],
    day: NDArray[np.int64],
    hour: NDArray[np.int64] | int = 0,
    minute: NDArray[np.int64] | int = 0,
    second: NDArray[np.int64] | int = 0,
) -> NDArray[np.int64]:
    """Nanoseconds since the epoch of valid dates and times of day."""
    seconds = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    found: NDArray[np.int64] = seconds * NS_PER_S
    return found


def valid_days(
    year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say which are days of the calendar."""
    good = (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1900) & (year <= 2100)
    month = np.where(good, month, 1)
    year = np.where(good, year, 2000)
    found: NDArray[np.bool_] = good & (_days(year, month, day) < _days(year, month + 1, 1))
    return found


def _dated(found: NDArray[np.int64]) -> bool:
    earliest, latest = window_s()
    return bool(earliest <= found.min() // NS_PER_S and found.max() // NS_PER_S <= latest)


def _refuse(values: NDArray[np.int64], name: str) -> None:
    """Say what is wrong with numbers that are neither epochs nor all of the calendar."""
    fits = [(form[0], _fields(values, form[1])[1]) for form in _forms_of(values)]
    form, good = max(fits, key=lambda fit: fit[1].sum(), default=("", np.zeros(1, np.bool_)))
    if good[0]:
        row = int(np.argmin(good))
        raise BadCell(
            f"{name} {values[row]} is no time written like the first, {values[0]} ({form})", row
        )
    if _DAYS[0] <= values[0] <= _DAYS[1]:
        raise BadCell(f"{name} {values[0]} is no day of the calendar ({_FORMS[0][0]})", 0)
    largest = int(np.argmax(np.abs(values)))
    if abs(int(values[largest])) < _LEAST_EPOCH:
        raise BadCell(f"{name} {values[0]} is not a time: write {TIME_FORMS}", 0)
    _refuse_other_units(values, name)
    factor = _FACTORS[_unit(values)]
    check_window(values // (NS_PER_S // factor), name, values, per_s=1)
