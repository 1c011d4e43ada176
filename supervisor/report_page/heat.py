"""How a metric depends on two parameters: the best over all others, in a small table.

The results are read one row group at a time and reduced at once, so ten million
rows take no more memory than a row group. An axis of many values is divided into
bins of neighbouring values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError
from supervisor.rows.grid import Grid
from supervisor.rows.ranking import TRADES, Ranking
from supervisor.rows.results import numbers, opened
from supervisor.rows.values import to_arrow_column

MAX_BINS = 160
"""Per axis: more cells could not be told apart on a screen."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Parameters to show; ``y`` is None where only one varies."""

    x: str
    y: str | None


@dataclass(frozen=True, slots=True)
class Heat:
    """A table of best values.

    Attributes
    ----------
    axes : Axes
        What the columns and the rows stand for.
    metric : str
        What the values are.
    x_labels, y_labels : tuple of str
        One per column, one per row; a bin is named by its first and last value.
    x_ticks, y_ticks : tuple of str
        The same, short: a bin's first value.
    values : ndarray of float64, shape (n_rows, n_columns)
        Best value over all combinations of the cell; NaN where there is none.
    others : tuple of str
        Varying parameters that the best was taken over.
    binned : tuple of str
        Parameters of which neighbouring values share a cell.
    """

    axes: Axes
    metric: str
    x_labels: tuple[str, ...]
    y_labels: tuple[str, ...]
    x_ticks: tuple[str, ...]
    y_ticks: tuple[str, ...]
    values: NDArray[np.float64]
    others: tuple[str, ...]
    binned: tuple[str, ...]
    ascending: bool = False
    """Whether the lowest value is the best."""


def choose_axes(grid: Grid, x: str | None = None, y: str | None = None) -> Axes | None:
    """Choose what to show: as asked, else the numeric parameters with most values.

    Returns
    -------
    Axes or None
        None where no parameter has two values.

    Raises
    ------
    ConfigError
        If a name is no parameter of the run, or both are the same.
    """
    for option, name in (("x", x), ("y", y)):
        if name is not None and name not in grid.names:
            raise ConfigError(
                f"--{option} {name!r} is no parameter of this run; "
                f"its parameters: {', '.join(grid.names)}",
                key=option,
            )
    if x is not None and x == y:
        raise ConfigError(f"--x and --y both name {x!r}: name two parameters", key="y")
    free = [name for name in grid.names if name not in (x, y) and len(grid.axis(name)) > 1]
    # numbers before words, long axes before short ones; sorting keeps the grid's order of equals
    free.sort(key=lambda name: (grid.axis(name).dtype.kind not in "if", -len(grid.axis(name))))
    wanted = [name for name in (x, y) if name is not None]
    wanted += free[: 2 - len(wanted)]
    if not wanted:
        return None
    if x is None and y is None:
        wanted.sort(key=grid.names.index)
    elif x is None and len(wanted) == 2:
        wanted.reverse()  # only y was named
    return Axes(wanted[0], wanted[1] if len(wanted) == 2 else None)


def read(
    results: Path,
    grid: Grid,
    axes: Axes,
    metric: str,
    max_bins: int = MAX_BINS,
    ranking: Ranking | None = None,
) -> Heat:
    """Read a results file and keep the best of each cell.

    Parameters
    ----------
    results : Path
        ``results.parquet``.
    grid : Grid
        The run's grid.
    axes : Axes
        What to show.
    metric : str
        A column of the file.
    max_bins : int, optional
        Columns and rows at most.
    ranking : Ranking, optional
        What is better: by default a larger value.
    """
    x = _Bins.of(axes.x, grid.axis(axes.x), max_bins)
    y = _Bins.of(axes.y, grid.axis(axes.y), max_bins) if axes.y else None
    cells = np.full(len(x.labels) * (len(y.labels) if y else 1), -np.inf)
    ranking = ranking or Ranking()
    names = [axes.x, metric, *([axes.y] if axes.y else [])]
    names += [TRADES] if ranking.min_trades else []
    with opened(results) as file:
        if absent := set(names) - set(file.schema_arrow.names):
            raise ValueError(f"it has no column {min(absent)}, which run.json names")
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(dict.fromkeys(names)))
            trades = numbers(table.column(TRADES)) if ranking.min_trades else None
            scores = ranking.scores(numbers(table.column(metric)), trades)
            cell = x.place(table.column(axes.x))
            if y:
                cell = cell + y.place(table.column(axes.y)) * len(x.labels)
            np.maximum.at(cells, cell, scores)
    cells = np.where(np.isinf(cells), np.nan, ranking.sign * cells)
    shown = [bins for bins in (x, y) if bins]
    return Heat(
        axes=axes,
        metric=metric,
        x_labels=x.labels,
        y_labels=y.labels if y else (),
        x_ticks=x.ticks,
        y_ticks=y.ticks if y else (),
        values=cells.reshape(-1, len(x.labels)),
        others=tuple(
            name for name in grid.names if name not in (axes.x, axes.y) and len(grid.axis(name)) > 1
        ),
        binned=tuple(bins.name for bins in shown if len(bins.labels) < len(bins.values)),
        ascending=ranking.ascending,
    )


@dataclass(frozen=True, slots=True)
class _Bins:
    """An axis cut into at most so many bins of neighbouring values.

    Attributes
    ----------
    name : str
    values : ndarray, shape (n_values,)
        Numbers in rising order, words in the grid's.
    labels, ticks : tuple of str
        One per bin.
    """

    name: str
    values: NDArray[np.generic]
    labels: tuple[str, ...]
    ticks: tuple[str, ...]

    @classmethod
    def of(cls, name: str, axis: NDArray[np.generic], max_bins: int) -> _Bins:
        values = axis if axis.dtype == object else np.sort(axis)
        count = min(len(values), max_bins)
        # bin b holds the ranks r with r * count // len(values) == b
        first = -(-np.arange(count + 1) * len(values) // count)
        names = [(_label(values[low]), _label(values[high - 1])) for low, high in pairwise(first)]
        labels = tuple(low if low == high else f"{low} … {high}" for low, high in names)
        return cls(name, values, labels, tuple(low for low, _ in names))

    def place(self, column: Any) -> NDArray[np.int64]:
        """Bin of each value of a column.

        Raises
        ------
        ValueError
            If a value does not lie on the axis: the plan is not that of these results.
        """
        if self.values.dtype == object and not all(isinstance(v, str) for v in self.values):
            known = {
                repr(v): at
                for at, v in enumerate(to_arrow_column(self.values.tolist()).to_pylist())
            }
            rank = np.array([known.get(repr(value), -1) for value in column.to_pylist()])
            on_axis = bool(np.all(rank >= 0))
        elif self.values.dtype == object:
            import pyarrow as pa
            import pyarrow.compute

            found = pyarrow.compute.index_in(column, value_set=pa.array(self.values))
            on_axis = not found.null_count
            rank = found.fill_null(0).to_numpy()
        else:
            values = column.to_numpy()
            rank = np.minimum(np.searchsorted(self.values, values), len(self.values) - 1)
            on_axis = bool(np.all(self.values[rank] == values))
        if not on_axis:
            raise ValueError(f"a value of {self.name} is not in the grid of run.json")
        return np.asarray(rank, dtype=np.int64) * len(self.labels) // len(self.values)


def _label(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
