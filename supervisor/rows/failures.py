"""Why combinations failed: the commonest errors of a results file, each with an example."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.rows.names import ERROR_COLUMN
from supervisor.rows.results import opened

_LOOKED_AT = 100_000
"""Failed combinations that are looked at: enough to see which errors are common."""
_MAX_TEXT = 300
_NAME, _PLACE = re.compile(r"\w+"), re.compile(r" \([^()\s]+:\d+\)$")
"""An error's type, and the place where it was raised."""


@dataclass(slots=True)
class Failure:
    """One kind of error: the same type, raised at the same place.

    Attributes
    ----------
    error : str
        The first such error, in the grid's order.
    params : dict of str to object
        Parameters of its combination.
    count : int
        How many there are.
    """

    error: str
    params: dict[str, Any]
    count: int = 0

    def line(self) -> str:
        """Describe it in one line."""
        error = self.error if len(self.error) <= _MAX_TEXT else f"{self.error[: _MAX_TEXT - 1]}…"
        where = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{self.count:,} × {error}, such as at {where}"


def commonest(path: Path | str, parameters: Sequence[str], most: int = 3) -> list[Failure]:
    """Find the commonest errors, holding one row group at a time.

    Parameters
    ----------
    path : Path or str
        A results file.
    parameters : sequence of str
        Columns that are parameters.
    most : int
        How many to return.

    Returns
    -------
    list of Failure
        The most common first; those of equal number as in the grid.
    """
    found: dict[str, Failure] = {}
    seen = 0
    with opened(path) as file:
        names = file.schema_arrow.names
        if ERROR_COLUMN not in names:
            return []
        at_column = names.index(ERROR_COLUMN)
        for group in range(file.num_row_groups):
            if _has_none(file.metadata.row_group(group), at_column):
                continue
            errors = file.read_row_group(group, columns=[ERROR_COLUMN]).column(0).to_pylist()
            fresh: dict[int, Failure] = {}
            for row, error in enumerate(errors):
                if error is None:
                    continue
                kind = _kind(error)
                if kind not in found:
                    found[kind] = fresh[row] = Failure(error, {})
                found[kind].count += 1
                seen += 1
            _add_parameters(file, group, fresh, parameters)
            if seen >= _LOOKED_AT:
                break
    return sorted(found.values(), key=lambda failure: -failure.count)[:most]


def _has_none(group: Any, column: int) -> bool:
    statistics = group.column(column).statistics
    known = statistics is not None and statistics.has_null_count
    return bool(known and statistics.null_count == group.num_rows)


def _kind(error: str) -> str:
    name, place = _NAME.match(error), _PLACE.search(error)
    return f"{name[0]}{place[0]}" if name and place else error


def _add_parameters(
    file: Any, group: int, fresh: dict[int, Failure], parameters: Sequence[str]
) -> None:
    if not fresh:
        return
    table = file.read_row_group(group, columns=list(parameters))
    for row, failure in fresh.items():
        values = table.slice(row, 1).to_pylist()[0]
        failure.params = {name: values[name] for name in parameters}
