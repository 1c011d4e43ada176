"""A parameter grid as numbers: combination ``i`` is decoded from ``i`` alone.

A grid is never expanded. Its size is a product, a combination is an index, a
chunk is a range of indices. Index and parameters are converted by mixed radix,
with the *last* axis varying fastest, as in nested loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError, brief

Value = int | float | str | bool

Index = TypeVar("Index", int, NDArray[np.int64])

MAX_COMBINATIONS = 2**32
"""Largest grid accepted: at 20,000 combinations a second, two and a half days."""

MAX_EXPONENT = 300
"""Largest power of ten accepted in a range, either way."""

MAX_PARAMETERS = 1000

MAX_AXIS_VALUES = 10_000_000
"""Longest single axis: its values are held in memory."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A rectangular grid of parameters.

    Parameters
    ----------
    names : tuple of str
        Parameter names, slowest-varying first.
    axes : tuple of ndarray, each of shape (n_values,)
        Values of each parameter, in the order they are tried. int64 for
        integers, float64 for floats, bool or object (str) otherwise.
    """

    names: tuple[str, ...]
    axes: tuple[NDArray[np.generic], ...]

    @classmethod
    def of(cls, axes: Mapping[str, Iterable[Value] | Value]) -> Grid:
        """Build a grid from a mapping of name to values (or to one value).

        Raises
        ------
        ConfigError
            If there is no axis, an axis is empty, repeats a value or mixes
            kinds, or the product exceeds :data:`MAX_COMBINATIONS`.
        """
        if len(axes) > MAX_PARAMETERS:
            raise ConfigError(
                f"the grid has {len(axes):,} parameters; at most {MAX_PARAMETERS:,}", key="grid"
            )
        if not axes:
            raise ConfigError(
                "the grid is empty: give at least one parameter, e.g. fast=5:50:5", key="grid"
            )
        names = tuple(axes)
        grid = cls(names, tuple(_axis(name, axes[name]) for name in names))
        if grid.size > MAX_COMBINATIONS:
            shape = " × ".join(str(len(axis)) for axis in grid.axes)
            raise ConfigError(
                f"the grid has {shape} = {grid.size:,} combinations; at most "
                f"{MAX_COMBINATIONS:,} can be swept: widen a step or shorten an axis",
                key="grid",
            )
        return grid

    @property
    def size(self) -> int:
        """Number of combinations."""
        return math.prod(len(axis) for axis in self.axes)

    def digits(self, index: Index) -> dict[str, Index]:
        """Decode combinations into each parameter's position on its axis.

        Parameters
        ----------
        index : int or ndarray of int64
            One combination, or several.

        Returns
        -------
        dict of str to int, or to ndarray of int64 of the same shape
        """
        digits: dict[str, Index] = {}
        for name, axis in zip(self.names[:0:-1], self.axes[:0:-1], strict=True):
            rest = index // len(axis)
            digits[name] = index - rest * len(axis)  # several times as fast as % on arrays
            index = rest
        digits[self.names[0]] = index
        return {name: digits[name] for name in self.names}

    def digit(self, name: str, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Decode one parameter only: its position on its axis, for each combination."""
        at, n = self.names.index(name), len(self.axis(name))
        if at < len(self.axes) - 1:
            index = index // math.prod(len(axis) for axis in self.axes[at + 1 :])
        return index if at == 0 else index - index // n * n

    def decode(self, indices: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        """Decode combinations into a column of values per parameter.

        Returns
        -------
        dict of str to ndarray, each of shape (n,)
        """
        return {name: self.axis(name)[digit] for name, digit in self.digits(indices).items()}

    def columns(self, start: int, stop: int) -> dict[str, NDArray[np.generic]]:
        """Decode combinations ``start`` to ``stop`` (exclusive) into a column per parameter.

        Returns
        -------
        dict of str to ndarray, each of shape (stop - start,)
        """
        return self.decode(np.arange(start, stop, dtype=np.int64))

    def params(self, index: int) -> dict[str, Value]:
        """Parameters of combination ``index`` as plain Python values."""
        params: dict[str, Value] = {}
        for name, digit in self.digits(index).items():
            value = self.axis(name)[digit]
            params[name] = value.item() if isinstance(value, np.generic) else value
        return params

    def index(self, params: Mapping[str, Value]) -> int:
        """Index of the combination with exactly these parameters.

        Raises
        ------
        KeyError
            If a value does not lie on its axis.
        """
        index = 0
        for name, axis in zip(self.names, self.axes, strict=True):
            # not axis == value: NumPy drops NULs at the end of a text it compares with
            try:
                at = axis.tolist().index(params[name])
            except ValueError:
                raise KeyError(f"{name}={params[name]!r} is not on the grid") from None
            index = index * len(axis) + at
        return index

    def axis(self, name: str) -> NDArray[np.generic]:
        """Values of one parameter."""
        return self.axes[self.names.index(name)]

    def to_json(self) -> dict[str, list[Value]]:
        """Plain values, for ``run.json``."""
        return {n: a.tolist() for n, a in zip(self.names, self.axes, strict=True)}


def parse_axis(text: str) -> tuple[str, Sequence[Value]]:
    """Parse ``name=start:stop:step`` or ``name=a,b,c`` as given on the command line.

    ``stop`` is included when the steps hit it: ``fast=5:50:5`` ends with 50.
    Steps are taken as decimals, so ``0.1:0.3:0.1`` is exactly 0.1, 0.2, 0.3.

    Raises
    ------
    ConfigError
        If the text has neither form, or the range is empty.
    """
    name, equals, spec = text.partition("=")
    name = name.strip()
    if not equals or not name or not spec.strip():
        raise ConfigError(f"--grid {text!r}: write name=start:stop:step or name=a,b,c", key="grid")
    if ":" in spec:
        return name, _parse_range(name, spec)
    return name, [_parse_scalar(part.strip()) for part in spec.split(",") if part.strip()]


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


def _parse_scalar(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _axis(name: str, values: Iterable[Value] | Value) -> NDArray[np.generic]:
    if not name:
        raise ConfigError("grid: a parameter's name must not be empty", key="grid")
    _check_text(name, "grid: a parameter is named")
    if isinstance(values, (bool, int, float, str)):
        values = [values]
    if isinstance(values, range):
        _check_length(name, len(values))
        array = _from_range(name, values)
    elif isinstance(values, Iterable):
        plain = [v.item() if isinstance(v, np.generic) else v for v in values]
        _check_length(name, len(plain))
        array = _typed(name, plain)
        _refuse_repeated(name, array)
    else:
        raise ConfigError(
            f"grid axis {name!r} is a {type(values).__name__}: give a list of values", key="grid"
        )
    if len(array) == 0:
        raise ConfigError(f"grid axis {name!r} is empty", key="grid")
    array.flags.writeable = False
    return array


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


def _refuse_repeated(name: str, array: NDArray[np.generic]) -> None:
    """Refuse two values that are one: as they are stored, large integers may meet as floats."""
    values = array.tolist()
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


def _typed(name: str, values: Sequence[object]) -> NDArray[np.generic]:
    kinds = {type(value) for value in values}
    if kinds <= {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            raise ConfigError(
                f"grid axis {name!r} has an integer beyond 64 bits", key="grid"
            ) from None
    if kinds <= {int, float}:
        try:
            array = np.array(values, dtype=np.float64)
        except OverflowError:
            raise ConfigError(
                f"grid axis {name!r} has a number beyond the range of a double", key="grid"
            ) from None
        if not np.all(np.isfinite(array)):
            raise ConfigError(f"grid axis {name!r} has a value that is not finite", key="grid")
        return array
    if kinds == {bool}:
        return np.array(values, dtype=np.bool_)
    if kinds == {str}:
        for text in values:
            _check_text(str(text), f"grid axis {name!r} has the value")
        return np.array(values, dtype=object)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ConfigError(
        f"grid axis {name!r} mixes or holds unusable types ({names}): "
        "use numbers, or only text, or only true/false",
        key="grid",
    )
