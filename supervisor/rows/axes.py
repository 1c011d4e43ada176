"""One axis of a grid: values of any kind become a column, and stay what the user gave."""

from __future__ import annotations

import datetime as dt
import enum
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError, brief
from supervisor.rows.values import MUTABLE, Opaque, is_native, label_of, to_arrow_column

Value = int | float | str | bool
"""A value that a column of numbers or texts has; others are objects of Python's."""

MAX_AXIS_VALUES = 10_000_000
"""Longest single axis: its values are held in memory."""

_SINGLE = (bool, int, float, str, dt.date, dt.time, dt.timedelta, Decimal, enum.Enum, np.generic)
_NONE = frozenset({type(None)})
_NUMBERS = frozenset({int, float})


class Axis(NamedTuple):
    """A parameter's values.

    Attributes
    ----------
    column : ndarray, shape (n_values,)
        As results have them, see :class:`supervisor.rows.grid.Grid`.
    exact : tuple or None
        As the function gets them, where the column has another type.
    """

    column: NDArray[np.generic]
    exact: tuple[Any, ...] | None = None


def make_axis(name: str, values: Any, *, repeated: bool = False) -> Axis:
    """Make an axis of values, or of one.

    Parameters
    ----------
    name : str
        The parameter.
    values : iterable, or a single value
        In the order they are tried.
    repeated : bool
        Whether two may be equal.

    Raises
    ------
    ConfigError
        If there is none, one is repeated, or they are of kinds that no column can hold.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError("grid: a parameter's name must not be empty", key="grid")
    _check_text(name, "grid: a parameter is named")
    if isinstance(values, _SINGLE) or values is None:
        values = [values]
    if isinstance(values, range):
        _check_length(name, len(values))
        axis = Axis(_from_range(name, values))
    elif isinstance(values, Iterable):
        plain = [_plain(value) for value in values]
        _check_length(name, len(plain))
        axis = _typed(name, plain)
        if not repeated:
            _refuse_repeated(name, axis)
    else:
        raise ConfigError(
            f"grid axis {name!r} is a {type(values).__name__}: give a list of values", key="grid"
        )
    if len(axis.column) == 0:
        raise ConfigError(f"grid axis {name!r} is empty", key="grid")
    axis.column.flags.writeable = False
    return axis


def _plain(value: Any) -> Any:
    """Turn a number of NumPy's into Python's; its times stay: they are finer."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        return value.item()
    return value


def _check_text(text: str, what: str) -> None:
    """Refuse a text that no file of results can hold: it came from bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} {brief(text)}, which is not UTF-8", key="grid") from None


def _from_range(name: str, values: range) -> NDArray[np.generic]:
    """Convert a range without making a Python object of each value."""
    if values and not all(-(2**63) <= end < 2**63 for end in (values[0], values[-1])):
        raise ConfigError(f"grid axis {name!r} has an integer beyond 64 bits", key="grid")
    # from its length: the stop itself may lie beyond 64 bits
    return np.arange(len(values), dtype=np.int64) * values.step + values.start


def _refuse_repeated(name: str, axis: Axis) -> None:
    """Refuse two values that are one: as they are stored, large integers may meet as floats."""
    values = axis.column.tolist()
    if len(set(values)) == len(values):
        return
    seen: set[object] = set()
    twice = next(v for v in values if v in seen or seen.add(v))  # type: ignore[func-returns-value]
    raise ConfigError(f"grid axis {name!r} repeats the value {twice!r}", key="grid")


def _check_length(name: str, length: int) -> None:
    if length > MAX_AXIS_VALUES:
        raise ConfigError(
            f"grid axis {name!r} has {length:,} values; at most {MAX_AXIS_VALUES:,}", key="grid"
        )


def _typed(name: str, values: Sequence[Any]) -> Axis:
    kinds = frozenset(type(value) for value in values)
    if str in kinds:
        for text in (value for value in values if type(value) is str):
            _check_text(text, f"grid axis {name!r} has the value")
    if kinds <= {int}:
        try:
            return Axis(np.array(values, dtype=np.int64))
        except OverflowError:
            raise ConfigError(
                f"grid axis {name!r} has an integer beyond 64 bits", key="grid"
            ) from None
    if kinds <= _NUMBERS:
        return Axis(_floats(name, values), None if kinds == {float} else tuple(values))
    if kinds == {bool}:
        return Axis(np.array(values, dtype=np.bool_))
    if kinds == {str}:
        return Axis(_objects(values))
    _check_kinds(name, values, kinds)
    if all(map(is_native, values)) or kinds - _NONE == {Opaque}:
        exact = list(values)
    else:
        exact = [value if value is None else Opaque(label_of(value), value) for value in values]
        _refuse_like_named(name, (value.label for value in exact if value is not None))
    try:
        cells = to_arrow_column(exact).to_pylist()
    except ConfigError as error:
        raise ConfigError(f"grid axis {name!r} {error}", key="grid") from None
    column = [value.label if isinstance(value, Opaque) else value for value in exact]
    if len(set(column)) == len(column):  # else one of them is given twice
        _refuse_like_named(name, map(repr, cells))
    return Axis(_objects(column), tuple(exact))


def _floats(name: str, values: Sequence[Any]) -> NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except OverflowError:
        raise ConfigError(
            f"grid axis {name!r} has a number beyond the range of a double", key="grid"
        ) from None
    if not np.all(np.isfinite(array)):
        raise ConfigError(
            f"grid axis {name!r} has a value that is not finite: give a number, or None", key="grid"
        )
    return array


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """Make an array of objects; NumPy would take tuples apart."""
    array = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        array[at] = value
    return array


def _check_kinds(name: str, values: Sequence[Any], kinds: frozenset[type]) -> None:
    """Refuse kinds that one column of results cannot keep apart, and what a call could change."""
    mixed = len(kinds - _NONE) > 1 and not kinds - _NONE <= _NUMBERS
    if mixed and not any(map(is_native, values)):
        mixed = False  # their labels are texts, all of them
    if mixed or any(issubclass(kind, MUTABLE) for kind in kinds):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ConfigError(
            f"grid axis {name!r} mixes or holds unusable types ({names}): use values of one "
            "kind (and None), such as numbers, texts, true and false, dates or tuples; "
            "a tuple in place of a list",
            key="grid",
        )
    moments = [value for value in values if isinstance(value, dt.datetime | dt.time)]
    if len({value.tzinfo is None for value in moments}) > 1:
        raise ConfigError(
            f"grid axis {name!r} mixes times with and without a zone: give all of them one",
            key="grid",
        )
    numbers = (value for value in values if isinstance(value, float | Decimal))
    if not all(math.isfinite(number) for number in numbers):
        raise ConfigError(
            f"grid axis {name!r} has a value that is not finite: give a number, or None", key="grid"
        )


def _refuse_like_named(name: str, cells: Iterable[str]) -> None:
    """Refuse values that results could not tell apart: a time of day there has no zone."""
    twice, count = Counter(cells).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"grid axis {name!r} has two values that results would both call {brief(twice)}: give "
            "texts, and look the values up in the function",
            key="grid",
        )
