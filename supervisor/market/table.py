"""Columns of a file or a container, by position, not read yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor.market.names import Label


@dataclass(frozen=True, slots=True)
class Table:
    """What a user's data is and what its columns are called.

    Attributes
    ----------
    source : str
        The file, or ``"data"``.
    labels : sequence of tuple of str
        What the user called each column: a name, or one for each level of a header.
    index : int or None
        Position of the column that serves as index: pandas' own, or a first one without a name.
    columns : callable
        Reads the columns at some positions; the second argument tells which of
        them should be numbers (a hint: others may come too, as text).
    row : callable
        Turns a 0-based row into what the user calls it.
    sample : sequence of list of str
        The first rows of a CSV file.
    bare : bool
        Whether there is no header; the labels are the first row then.
    semicolons : bool
        Whether semicolons part the cells.
    """

    source: str
    labels: Sequence[Label]
    index: int | None
    columns: Callable[[Sequence[int], Collection[int]], Sequence[Any]]
    row: Callable[[int], int] = int
    sample: Sequence[list[str]] = field(default_factory=list)
    bare: bool = False
    semicolons: bool = False

    def name(self, at: int) -> str:
        """What a column is called in messages."""
        return " ".join(part for part in self.labels[at] if part)
