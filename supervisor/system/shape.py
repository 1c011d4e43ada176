"""The border between what a file says and what the program relies on.

A file may be damaged, of another version, or of another author. What was parsed from it is
turned into a record here, field by field, by the record's own annotations, or refused with the
field's name. So nothing behind the border meets a text where it needs a number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from supervisor.errors import brief

T = TypeVar("T")

_MOST = 10**300
"""A larger whole number fits into no float, so that a division by it fails."""


class ShapeError(TypeError, ValueError):
    """What was read is not a record of the kind that is needed; the message names the field."""


class Between(NamedTuple):
    """In ``Annotated[int, Between(…)]`` or of float: the least and the largest value."""

    least: float
    most: float


class Matching(NamedTuple):
    """In ``Annotated[str, Matching(…)]``: what the whole text must match."""

    pattern: re.Pattern[str]


class Like(NamedTuple):
    """In ``Annotated[dict[str, Any], Like(Record)]``: stays a dict, but is checked as a record."""

    kind: Any


Pid = Annotated[int, Between(0, 2**31 - 1)]
"""Never negative: to kill(2) that means a group of processes. 0 is no process."""

AtLeastOne = Annotated[int, Between(1, 2**53)]

Count = Annotated[int, Between(0, 2**53)]
"""A number of things, or of bytes."""

Seconds = Annotated[float, Between(0, 2**40)]
"""A length of time, in s."""

Instant = Annotated[float, Between(0, 2**40)]
"""Unix time, in s."""


def read_as(kind: type[T], plain: object) -> T:
    """Turn plain values, as JSON has them, into a record.

    Parameters
    ----------
    kind : type
        A NamedTuple, a dataclass, or what may be the type of a field of one: str, int, float,
        bool, None, Path, an Enum, list, tuple, dict, a union of these, or Any.
    plain : object
        The values. Keys that the record does not have are left out; a field that has a default
        may be missing.

    Raises
    ------
    ShapeError
        If a field is missing or of another type, a number is not finite or too large, or a
        text cannot be encoded.
    """
    found: T = _value(kind, plain, "")
    return found


def _value(hint: Any, plain: Any, at: str) -> Any:
    """Check one value; ``at`` is the path of keys to it."""
    if hint is Any:
        return plain
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(arguments, plain, at)
    if origin in (Union, UnionType):
        return _either(arguments, plain, at)
    if origin is list:
        return [_value(arguments[0], one, f"{at}[{i}]") for i, one in _items(plain, at)]
    if origin is tuple:
        return _tuple(arguments, plain, at)
    if origin is dict:
        return _dict(arguments, plain, at)
    if hint in _PLAIN:
        return _PLAIN[hint](plain, at)
    if issubclass(hint, Enum):
        return _member(hint, plain, at)
    return hint(**read_fields(hint, plain, at))


def _annotated(arguments: tuple[Any, ...], plain: Any, at: str) -> Any:
    hint, *limits = arguments
    for limit in limits:
        if isinstance(limit, Like):
            _value(limit.kind, plain, at)
            return plain
    value = _value(hint, plain, at)
    for limit in limits:
        if isinstance(limit, Between) and not limit.least <= value <= limit.most:
            raise _refusal(plain, f"a number from {limit.least:g} to {limit.most:g}", at)
        if isinstance(limit, Matching) and not limit.pattern.fullmatch(value):
            raise _refusal(plain, f"a text like {limit.pattern.pattern}", at)
    return value


def _either(hints: tuple[Any, ...], plain: Any, at: str) -> Any:
    refusal: ShapeError | None = None
    for hint in hints:
        try:
            return _value(hint, plain, at)
        except ShapeError as error:
            refusal = refusal or error
    raise refusal or _refusal(plain, "of a known type", at)


def _tuple(arguments: tuple[Any, ...], plain: Any, at: str) -> tuple[Any, ...]:
    items = _items(plain, at)
    if len(arguments) == 2 and arguments[1] is ...:
        return tuple(_value(arguments[0], one, f"{at}[{i}]") for i, one in items)
    if len(items) != len(arguments):
        raise _refusal(plain, f"a list of {len(arguments)}", at)
    return tuple(
        _value(hint, one, f"{at}[{i}]") for hint, (i, one) in zip(arguments, items, strict=True)
    )


def _dict(arguments: tuple[Any, ...], plain: Any, at: str) -> dict[Any, Any]:
    if not isinstance(plain, dict):
        raise _refusal(plain, "an object", at)
    kind, hint = arguments
    found = {}
    for key, one in plain.items():
        where = _below(at, key)
        found[_key(kind, key, where)] = _value(hint, one, where)
    return found


def _key(kind: Any, key: str, at: str) -> Any:
    """Check a key: JSON has only texts, where we may have numbers."""
    if kind is not int:
        return _text(key, at)
    if not (key.isascii() and key.isdecimal()):
        raise _refusal(key, "a whole number", at)
    return _whole(int(key[:300]), at)


def read_fields(kind: Any, plain: object, at: str = "", **instead: Any) -> dict[str, Any]:
    """Check the fields of a record without making it; see :func:`read_as`.

    Parameters
    ----------
    kind : type
        A NamedTuple or a dataclass.
    plain : object
        The values.
    at : str
        The path of keys to them, for messages.
    **instead : type
        By the name of a type that an annotation has, the type to check for.
    """
    if not isinstance(plain, dict):
        raise _refusal(plain, "an object", at)
    hints, needed = _fields(kind, tuple(instead.items()))
    missing = needed - plain.keys()
    if missing:
        raise ShapeError(f"{_below(at, min(missing))} is missing")
    return {
        name: _value(hint, plain[name], _below(at, name))
        for name, hint in hints.items()
        if name in plain
    }


@functools.cache
def _fields(
    kind: Any, instead: tuple[tuple[str, Any], ...]
) -> tuple[dict[str, Any], frozenset[str]]:
    """The annotations of a record's fields, and the names of those without a default."""
    hints = get_type_hints(kind, localns=dict(instead) or None, include_extras=True)
    if dataclasses.is_dataclass(kind):
        fields = [field for field in dataclasses.fields(kind) if field.init]
        unset = dataclasses.MISSING
        needed = {f.name for f in fields if f.default is unset and f.default_factory is unset}
        return {field.name: hints[field.name] for field in fields}, frozenset(needed)
    names: tuple[str, ...] = kind._fields
    return {n: hints[n] for n in names}, frozenset(names) - kind._field_defaults.keys()


def _items(plain: Any, at: str) -> list[tuple[int, Any]]:
    if not isinstance(plain, list | tuple):  # a tuple: it has not been in a file yet
        raise _refusal(plain, "a list", at)
    return list(enumerate(plain))


def _member(kind: type[Enum], plain: Any, at: str) -> Enum:
    try:
        return kind(plain)
    except (ValueError, TypeError):
        known = ", ".join(str(one.value) for one in kind)
        raise _refusal(plain, f"one of {known}", at) from None


def _text(plain: Any, at: str) -> str:
    if not isinstance(plain, str):
        raise _refusal(plain, "a text", at)
    try:
        plain.encode("utf-8", "surrogateescape")  # bytes of a path that are not UTF-8 are meant
    except UnicodeEncodeError:
        raise _refusal(plain, "a text that can be encoded", at) from None
    return plain


def _path(plain: Any, at: str) -> Path:
    if not _text(plain, at) or "\0" in plain:
        raise _refusal(plain, "a path", at)
    return Path(plain)


def _whole(plain: Any, at: str) -> int:
    if not isinstance(plain, int) or isinstance(plain, bool) or not -_MOST < plain < _MOST:
        raise _refusal(plain, "a whole number", at)
    return plain


def _number(plain: Any, at: str) -> float:
    if isinstance(plain, float) and math.isfinite(plain):
        return plain
    if isinstance(plain, float) or not isinstance(plain, int):
        raise _refusal(plain, "a finite number", at)
    return _whole(plain, at)


def _truth(plain: Any, at: str) -> bool:
    if not isinstance(plain, bool):
        raise _refusal(plain, "true or false", at)
    return plain


def _nothing(plain: Any, at: str) -> None:
    if plain is not None:
        raise _refusal(plain, "null", at)


_PLAIN: dict[Any, Any] = {
    str: _text, int: _whole, float: _number, bool: _truth, Path: _path, NoneType: _nothing,
    None: _nothing,
}  # fmt: skip


def _below(at: str, key: object) -> str:
    return f"{at}.{key}" if at else str(key)


def _refusal(plain: object, wanted: str, at: str) -> ShapeError:
    return ShapeError(f"{at or 'it'} must be {wanted}, not {brief(plain)}")
