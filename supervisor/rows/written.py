"""An axis of a grid as text: ``name=start:stop:step`` or ``name=a,b,c``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from supervisor.errors import ConfigError
from supervisor.rows.axes import MAX_AXIS_VALUES, Value

MAX_EXPONENT = 300
"""Largest power of ten accepted in a range, either way."""

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NO_NUMBER = re.compile(r"[+-]?0\d", re.ASCII)
"""A leading zero: part of a time or an identifier, 09:30 or 00012."""

_PART = re.compile(r"""\s*((?:"[^"]*"|'[^']*')\s*(?=,|$)|[^,]*)(?:,|$)""")
"""A value of a list; a comma in quotes parts nothing."""

_WORDS = {"true": True, "false": False}


def parse_axis(text: str) -> tuple[str, Sequence[Value | None]]:
    """Parse ``name=start:stop:step`` or ``name=a,b,c`` as given on the command line.

    ``stop`` is included when the steps hit it: ``fast=5:50:5`` ends with 50, ``x=0:1:0.3``
    with 0.9. Steps are taken as decimals, so ``0:1:0.1`` is exactly 0, 0.1, … 1: 11 values.

    In a list, ``true``, ``false`` and ``None`` are what they are in Python, a number is a
    number, and anything else is text: so is what begins with a zero that no number has, such
    as ``00012`` and ``09:30``, and what stands in quotes. Digits beside ``00012`` are text too.

    Raises
    ------
    ConfigError
        If the text has neither form, or the range is empty.
    """
    name, equals, spec = text.partition("=")
    name = name.strip()
    if not equals or not name or not spec.strip():
        raise ConfigError(f"--grid {text!r}: write name=start:stop:step or name=a,b,c", key="grid")
    if _is_range(spec):
        return name, _parse_range(name, spec)
    return name, _parse_list(name, spec)


def _parse_list(name: str, spec: str) -> list[Value | None]:
    parts = [part.strip() for part in _PART.findall(spec)]
    while parts and not parts[-1]:  # behind a comma that ends the list, and at its end
        parts.pop()
    for part in parts:
        if not part:
            raise ConfigError(
                f'grid axis {name}={spec} has an empty value: remove a comma, or write "" for '
                "an empty text",
                key="grid",
            )
        if part[0] in "([{":
            raise ConfigError(
                f"grid axis {name}={spec}: write values without brackets, as in {name}=1,2, or in "
                "quotes if they are texts; tuples can be given in Python",
                key="grid",
            )
    if all(part.isascii() and part.isdigit() for part in parts) and any(
        map(_NO_NUMBER.match, parts)
    ):
        return list(parts)  # identifiers, of which some begin with a zero
    return [_parse_scalar(part) for part in parts]


def _is_range(spec: str) -> bool:
    parts = [part.strip() for part in spec.split(":")]
    if len(parts) == 1 or "," in spec or spec.strip()[0] in "\"'":
        return False
    return not any(_NO_NUMBER.match(part) for part in parts)


def _parse_range(name: str, spec: str) -> Sequence[Value]:
    parts = [part.strip() for part in spec.split(":")]
    if len(parts) == 2:
        parts.append("1")
    try:
        if len(parts) != 3:
            raise ValueError  # noqa: TRY301 - one message for every malformed range
        start, stop, step = (_parse_number(part) for part in parts)
    except ValueError:
        raise ConfigError(
            f"grid axis {name}={spec}: a range is start:stop:step, three numbers", key="grid"
        ) from None
    if step <= 0:
        raise ConfigError(f"grid axis {name}={spec}: the step must be positive", key="grid")
    count = (stop - start) // step + 1
    if count <= 0:
        raise ConfigError(f"grid axis {name}={spec} is empty: start lies beyond stop", key="grid")
    if count > MAX_AXIS_VALUES:
        raise ConfigError(
            f"grid axis {name}={spec} has {count:,} values; at most {MAX_AXIS_VALUES:,}",
            key="grid",
        )
    if all(
        part.denominator == 1 and _is_int(text)
        for part, text in zip((start, stop, step), parts, strict=True)
    ):
        return range(int(start), int(start) + int(step) * int(count), int(step))
    # exact: integers over one denominator, rounded once by the division
    unit = math.lcm(start.denominator, step.denominator)
    first, stride = int(start * unit), int(step * unit)
    return [(first + i * stride) / unit for i in range(int(count))]


def _parse_number(text: str) -> Fraction:
    """Read a decimal exactly.

    Raises
    ------
    ValueError
        If it is none, or of a size that no parameter has: the exact value of
        1e-999999999 would fill the memory.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(text) from None
    if not number.is_finite() or abs(number.adjusted()) > MAX_EXPONENT:
        raise ValueError(text)
    return Fraction(number)


def _is_int(text: str) -> bool:
    return text.lstrip("+-").isdigit()


def _parse_scalar(text: str) -> Value | None:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text == "None":
        return None
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) or text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(text)
    return text
