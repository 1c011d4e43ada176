"""A parameter grid as numbers: combination ``i`` is decoded from ``i`` alone.

A grid is never expanded. Its size is a product, a combination is an index, a
chunk is a range of indices. Index and parameters are converted by mixed radix,
with the *last* axis varying fastest, as in nested loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError
from supervisor.rows.axes import MAX_AXIS_VALUES, Axis, Value, make_axis
from supervisor.rows.values import Opaque, from_plain, is_native, label_of, to_plain
from supervisor.rows.written import parse_axis

__all__ = ["MAX_AXIS_VALUES", "MAX_COMBINATIONS", "MAX_POINTS", "Grid", "Value", "parse_axis"]

Index = TypeVar("Index", int, NDArray[np.int64])

MAX_COMBINATIONS = 2**32
"""Largest grid accepted: at 20,000 combinations a second, two and a half days."""

MAX_PARAMETERS = 1000

MAX_POINTS = 1_000_000
"""Longest list of single points: each is written down."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A rectangular grid of parameters, or a list of points.

    Parameters
    ----------
    names : tuple of str
        Parameter names, slowest-varying first.
    axes : tuple of ndarray, each of shape (n_values,)
        Values of each parameter, in the order they are tried, as results have them. int64 for
        integers, float64 for floats, bool, or objects: texts, dates, decimals, tuples, None,
        and labels of values that only the user's program knows.
    exact : mapping of str to tuple
        The values that a function gets of those parameters whose axis has another type.
    points : mapping of str to ndarray of int64, shape (size,), or None
        Of a list of points, the position of each on each parameter's axis. None: every
        combination of the axes' values is a point.
    """

    names: tuple[str, ...]
    axes: tuple[NDArray[np.generic], ...]
    exact: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    points: Mapping[str, NDArray[np.int64]] | None = None

    @classmethod
    def of(cls, axes: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Grid:
        """Build a grid from a mapping of name to values (or to one value), or from points.

        Points are mappings of name to value, all with the same names.

        Raises
        ------
        ConfigError
            If there is no axis, an axis is empty, repeats a value or mixes
            kinds, or the product exceeds :data:`MAX_COMBINATIONS`.
        """
        if not isinstance(axes, Mapping):
            return cls._of_points(list(axes))
        _check_parameters(len(axes))
        if not axes:
            raise ConfigError(
                "the grid is empty: give at least one parameter, e.g. fast=5:50:5", key="grid"
            )
        names = tuple(axes)
        grid = cls._made({name: make_axis(name, axes[name]) for name in names})
        if grid.size > MAX_COMBINATIONS:
            shape = " × ".join(str(len(axis)) for axis in grid.axes)
            raise ConfigError(
                f"the grid has {shape} = {grid.size:,} combinations; at most "
                f"{MAX_COMBINATIONS:,} can be swept: widen a step or shorten an axis",
                key="grid",
            )
        return grid

    @classmethod
    def _made(
        cls, axes: Mapping[str, Axis], points: Mapping[str, NDArray[np.int64]] | None = None
    ) -> Grid:
        exact = {name: axis.exact for name, axis in axes.items() if axis.exact is not None}
        return cls(tuple(axes), tuple(axis.column for axis in axes.values()), exact, points)

    @classmethod
    def _of_points(cls, points: list[Mapping[str, Any]]) -> Grid:
        if not points:
            raise ConfigError(
                "the grid is empty: give at least one point, e.g. {'fast': 5, 'slow': 20}",
                key="grid",
            )
        if len(points) > MAX_POINTS:
            raise ConfigError(
                f"the grid has {len(points):,} points; at most {MAX_POINTS:,} can be listed",
                key="grid",
            )
        names = _names_of(points)
        _check_parameters(len(names))
        axes, places = {}, {}
        for name in names:
            distinct, places[name] = _distinct([point[name] for point in points])
            axes[name] = make_axis(name, distinct, repeated=True)
        return cls._made(axes, places)

    @property
    def size(self) -> int:
        """Number of combinations."""
        if self.points is not None:
            return len(self.points[self.names[0]])
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
        if self.points is not None:
            return {name: _item(self.points[name][index]) for name in self.names}
        digits: dict[str, Index] = {}
        for name, axis in zip(self.names[:0:-1], self.axes[:0:-1], strict=True):
            rest = index // len(axis)
            digits[name] = index - rest * len(axis)  # several times as fast as % on arrays
            index = rest
        digits[self.names[0]] = index
        return {name: digits[name] for name in self.names}

    def digit(self, name: str, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Decode one parameter only: its position on its axis, for each combination."""
        if self.points is not None:
            return self.points[name][index]
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

    def params(self, index: int) -> dict[str, Any]:
        """Parameters of combination ``index`` as the user gave them."""
        if self.exact or self.points is not None:
            pairs = zip(self.names, self.axes, strict=True)
            digits = self.digits(index)
            return {name: self._given(name, axis, digits[name]) for name, axis in pairs}
        # each call of a function waits for this: no detours
        params: dict[str, Any] = dict.fromkeys(self.names)
        for name, axis in zip(self.names[:0:-1], self.axes[:0:-1], strict=True):
            index, digit = divmod(index, len(axis))
            params[name] = axis.item(digit)
        params[self.names[0]] = self.axes[0].item(index)
        return params

    def _given(self, name: str, axis: NDArray[np.generic], digit: int) -> Any:
        exact = self.exact.get(name)
        return axis.item(digit) if exact is None else exact[digit]

    def index(self, params: Mapping[str, Any]) -> int:
        """Index of the combination with exactly these parameters; of equal points, of the first.

        Raises
        ------
        KeyError
            If a value does not lie on its axis.
        """
        digits = {}
        for name, axis in zip(self.names, self.axes, strict=True):
            # not axis == value: NumPy drops NULs at the end of a text it compares with
            try:
                digits[name] = list(self.exact.get(name, axis.tolist())).index(params[name])
            except ValueError:
                raise KeyError(f"{name}={params[name]!r} is not on the grid") from None
        if self.points is not None:
            same = [self.points[name] == digit for name, digit in digits.items()]
            found = np.flatnonzero(np.logical_and.reduce(same))
            if len(found) == 0:
                raise KeyError(f"{dict(params)!r} is not on the grid")
            return int(found[0])
        index = 0
        for name, axis in zip(self.names, self.axes, strict=True):
            index = index * len(axis) + digits[name]
        return index

    def axis(self, name: str) -> NDArray[np.generic]:
        """Values of one parameter."""
        return self.axes[self.names.index(name)]

    def to_json(self) -> dict[str, list[Any]]:
        """Plain values of each axis, for ``run.json``."""
        return {
            name: [to_plain(value) for value in self.exact[name]]
            if name in self.exact
            else axis.tolist()
            for name, axis in zip(self.names, self.axes, strict=True)
        }

    def points_to_json(self) -> dict[str, list[int]] | None:
        """Each point's positions on the axes, for ``run.json``; None: there are no points."""
        if self.points is None:
            return None
        return {name: places.tolist() for name, places in self.points.items()}

    @classmethod
    def from_json(
        cls, axes: Mapping[str, list[Any]], points: Mapping[str, list[int]] | None = None
    ) -> Grid:
        """Rebuild a grid from what :meth:`to_json` and :meth:`points_to_json` gave.

        Raises
        ------
        ConfigError, ValueError
            If it is not that.
        """
        if not isinstance(axes, Mapping) or not isinstance(points, Mapping | None):
            raise ValueError("the grid is no mapping")  # noqa: TRY004 - of what was read
        values = {
            name: list(map(from_plain, axis)) if isinstance(axis, list) else axis
            for name, axis in axes.items()
        }
        if points is None:
            return cls.of(values)
        made = {name: make_axis(name, axis, repeated=True) for name, axis in values.items()}
        try:
            places = {name: np.array(points[name], dtype=np.int64) for name in made}
        except OverflowError:
            raise ValueError("the points do not lie on their axes") from None
        sizes = {place.size for place in places.values()}
        for name, place in places.items():
            if (
                place.ndim != 1
                or len(sizes) != 1
                or not np.all((place >= 0) & (place < len(made[name].column)))
            ):
                raise ValueError("the points do not lie on their axes")
        return cls._made(made, places)

    def opaque(self) -> dict[str, dict[str, Any]]:
        """Values that travel with the function: by parameter and label."""
        return {
            name: {value.label: value.value for value in exact if isinstance(value, Opaque)}
            for name, exact in self.exact.items()
            if any(isinstance(value, Opaque) for value in exact)
        }


def _check_parameters(number: int) -> None:
    if number > MAX_PARAMETERS:
        raise ConfigError(
            f"the grid has {number:,} parameters; at most {MAX_PARAMETERS:,}", key="grid"
        )


def _names_of(points: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the first point; every other one has the same."""
    names = tuple(points[0])
    for at, point in enumerate(points):
        if not isinstance(point, Mapping) or set(point) != set(names):
            raise ConfigError(
                f"grid: point {at} does not have the parameters of point 0 "
                f"({', '.join(map(str, names))}), and no others",
                key="grid",
            )
    if not names:
        raise ConfigError("the grid is empty: its points have no parameter", key="grid")
    return names


def _distinct(values: list[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values, in order of appearance, and the place of each among them."""
    seen: dict[Any, int] = {}
    distinct: list[Any] = []
    places = np.empty(len(values), dtype=np.int64)
    for at, value in enumerate(values):
        key = type(value), value if is_native(value) else label_of(value)
        place = seen.setdefault(key, len(distinct))
        if place == len(distinct):
            distinct.append(value)
        places[at] = place
    return distinct, places


def _item(place: Any) -> Any:
    """A plain number for one combination."""
    return int(place) if isinstance(place, np.int64) else place
