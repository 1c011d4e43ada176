"""Values of a parameter that are neither numbers nor texts: None, dates, decimals, tuples, enums.

A value is written to ``run.json`` so that the same value, of the same type, is read again. One
of a type that only the user's program knows, an enum's member for example, travels to the
workers with the function; front, warden and results know it by its *label*.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from supervisor.errors import ConfigError, brief

_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "date": dt.date.fromisoformat,
    "datetime": dt.datetime.fromisoformat,
    "time": dt.time.fromisoformat,
    "decimal": Decimal,
}

PLAIN = frozenset({bool, int, float, str})
"""Types that JSON has."""

_WRITTEN: dict[type, str] = {
    dt.date: "date",
    dt.datetime: "datetime",
    dt.time: "time",
    dt.timedelta: "timedelta",
    Decimal: "decimal",
    tuple: "tuple",
}
NATIVE = PLAIN | frozenset(_WRITTEN) | {type(None)}
"""Types whose values can be written down."""

MUTABLE = (list, dict, set, bytearray)
"""What a call of a function could change for the next one."""

_LABEL_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value that travels with the function.

    Attributes
    ----------
    label : str
        What it is called where only its name matters: in results, reports and ``run.json``.
    value : object
        Itself; None where it is not known.
    """

    label: str
    value: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.label


def is_native(value: object) -> bool:
    """Whether a value can be written down, and be read again with its type."""
    if type(value) is tuple:
        return all(map(is_native, value))
    if isinstance(value, dt.datetime | dt.time) and value.tzinfo is not None:
        return type(value) in NATIVE and isinstance(value.tzinfo, dt.timezone)
    return type(value) in NATIVE


def label_of(value: object) -> str:
    """Return a name for a value, as short as it is clear."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    name = getattr(value, "__qualname__", None)
    text = name if isinstance(name, str) else str(value)
    return " ".join(text.split())[:_LABEL_LENGTH]


def to_plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if value is None or type(value) in PLAIN:
        return value
    if isinstance(value, Opaque):
        return {"opaque": value.label}
    kind = _WRITTEN[type(value)]
    if isinstance(value, tuple):
        return {kind: [to_plain(part) for part in value]}
    if isinstance(value, dt.timedelta):
        return {kind: [value.days, value.seconds, value.microseconds]}
    return {kind: str(value) if isinstance(value, Decimal) else value.isoformat()}


def from_plain(plain: Any) -> Any:
    """Read what :func:`to_plain` gave.

    Raises
    ------
    ValueError
        If it is not that.
    """
    if not isinstance(plain, dict):
        return plain
    try:
        ((kind, written),) = plain.items()
        match kind:
            case "opaque":
                return Opaque(str(written))
            case "tuple":
                return tuple(from_plain(part) for part in written)
            case "timedelta":
                return dt.timedelta(*written)
        return _FROM_TEXT[kind](written)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        raise ValueError(f"{brief(plain)} is no value of a parameter") from None


def to_arrow_column(values: Sequence[Any]) -> Any:
    """Return the values of an axis as an Arrow array, each type as Arrow has it.

    Tuples are lists, and texts where their parts are of several kinds.

    Raises
    ------
    ConfigError
        If Arrow has no such column.
    """
    import pyarrow as pa

    plain = [value.label if isinstance(value, Opaque) else value for value in values]
    try:
        return pa.array(plain)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        if {type(value) for value in plain} <= {tuple, type(None)}:
            # parts of several kinds, as in ("sma", 5), are no list that Arrow has
            return pa.array([None if value is None else repr(value) for value in plain])
        why = str(error).partition("\n")[0]
        raise ConfigError(f"cannot be kept in a results file: {why}", key="grid") from None
