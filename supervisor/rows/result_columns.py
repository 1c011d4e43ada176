"""The columns of a run's results: which there are, and what each holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.market.arrow import text_to_arrow, to_arrow
from supervisor.rows.cells import CellKind
from supervisor.rows.grid import Grid
from supervisor.rows.index import Index
from supervisor.rows.names import ERROR_COLUMN, title_of
from supervisor.rows.values import to_arrow_column

WHOLE_NUMBERS = frozenset({"trades"})
"""Metrics that are counts, kept as int64 (unless a strategy returns fractions after all)."""

EXACT = 2.0**53
"""Up to here every whole number is a float64."""


@dataclass(frozen=True, slots=True)
class ResultColumns:
    """Columns of the file behind the parameters.

    Attributes
    ----------
    names : tuple of str
        Metrics as the strategies name them, in order of first appearance by combination.
    titles : tuple of str
        The same as they are called in the file: never like a parameter.
    whole : frozenset of str
        Metrics kept as int64.
    has_error : bool
        Whether there is an error column.
    kinds : mapping of str to CellKind
        What metrics are that are no numbers.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    whole: frozenset[str]
    has_error: bool
    kinds: Mapping[str, CellKind] = field(default_factory=dict)

    @classmethod
    def of(cls, index: Index, grid: Grid) -> ResultColumns:
        """Return the columns of what journals hold."""
        useful = index.columns_id[index.useful()]
        ids, firsts = np.unique(useful, return_index=True)
        in_order = [index.columns[i] for i in ids[np.argsort(firsts)]]
        names = tuple(dict.fromkeys(name for columns in in_order for name in columns))
        titles = tuple(title_of(name, grid.names) for name in names)
        kinds = {name: _kind(found) for name, found in index.kinds.items()}
        whole = WHOLE_NUMBERS & set(names) - set(kinds)
        return cls(names, titles, whole, 0 in ids, kinds)

    def with_floats(self) -> ResultColumns:
        """Return the same without counts."""
        return replace(self, whole=frozenset())

    def with_number(self, metric: str) -> ResultColumns:
        """Return the same with a metric that is a number after all."""
        kinds = {name: kind for name, kind in self.kinds.items() if name != metric}
        return replace(self, kinds=kinds, whole=self.whole | ({metric} & WHOLE_NUMBERS))

    def schema(self, grid: Grid) -> Any:
        """Return the Arrow schema, parameters first."""
        import pyarrow as pa

        fields = [
            pa.field(name, column.type, nullable=bool(column.null_count))
            for name, column in parameter_columns(grid).items()
        ]
        for name, title in zip(self.names, self.titles, strict=True):
            fields.append(pa.field(title, self._type(name)))
        if self.has_error:
            fields.append(pa.field(ERROR_COLUMN, pa.string()))
        return pa.schema(fields)

    def _type(self, name: str) -> Any:
        import pyarrow as pa

        match self.kinds.get(name):
            case CellKind.TEXT:
                return pa.string()
            case CellKind.TIME:
                return pa.timestamp("us")
            case CellKind.UTC:
                return pa.timestamp("us", "UTC")
            case CellKind.DURATION:
                return pa.duration("us")
        return pa.int64() if name in self.whole else pa.float64()


def _kind(found: set[str]) -> CellKind:
    """What a column holds whose values are of these kinds."""
    return CellKind(*found) if len(found) == 1 else CellKind.TEXT


def parameter_columns(grid: Grid) -> dict[str, Any]:
    """Return the values of each parameter as an Arrow array: a column's type, and its values."""
    return {
        name: to_arrow_column(axis.tolist())
        if axis.dtype == object and name in grid.exact
        else _plain_column(axis)
        for name, axis in zip(grid.names, grid.axes, strict=True)
    }


def parameter_values(grid: Grid, name: str) -> list[Any]:
    """Return the values of a parameter as results have them, for one row after the other."""
    axis = grid.axis(name)
    if axis.dtype == object and name in grid.exact:
        values: list[Any] = to_arrow_column(axis.tolist()).to_pylist()
    else:
        values = axis.tolist()
    return values


def metric_values(name: str, values: list[Any]) -> list[Any]:
    """Return the values of a metric as results have them: counts are whole numbers."""
    if name in WHOLE_NUMBERS:
        return [_count(value) if isinstance(value, float) else value for value in values]
    return values


def _count(value: float) -> int | float | None:
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() and abs(value) <= EXACT else value


def parameter_column(grid: Grid, name: str, digits: NDArray[np.int64]) -> Any:
    """Return the column of a parameter for combinations whose digits are these."""
    axis = grid.axis(name)
    if axis.dtype == object and name in grid.exact:
        import pyarrow as pa

        return to_arrow_column(axis.tolist()).take(pa.array(digits))
    return _plain_column(axis[digits])


def _plain_column(values: NDArray[np.generic]) -> Any:
    return text_to_arrow(values.tolist()) if values.dtype == object else to_arrow(values)
