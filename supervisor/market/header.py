"""Which of a CSV file's first lines are its header: none, one, or several as yfinance writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from supervisor.market.names import LEVELS, Label, is_known, levels, plain, roles_of

_NUMBER = re.compile(r"[$€£¥]?[+-]?[\d.,'’\s]*\d[KMBT]?%?")
_TIME = re.compile(r"\d{4}[-./]\d|\d{1,2}[-./ ]\w{1,3}[-./ ,]|[A-Z][a-z]{2} \d")
_MOST_HEADERS = 4


@dataclass(frozen=True, slots=True)
class Header:
    """What was found in the first lines.

    Attributes
    ----------
    labels : list of tuple of str
        Of each column, what the header's lines say, from the top.
    lines : int
        Lines, empty ones not counted, before the data.
    bare : bool
        Whether there is no header: the labels are the first row's cells then.
    """

    labels: list[Label]
    lines: int
    bare: bool = False


def read_header(rows: Sequence[Sequence[str]]) -> Header:
    """Find the header among a file's first rows of cells."""
    start = _title_lines(rows)
    first = rows[start]
    if _is_data(first) and not _names_columns(first):
        return Header([(cell,) for cell in first], start, bare=True)
    end = start + 1
    while end < min(len(rows), start + _MOST_HEADERS) and _continues(rows[end], first):
        end += 1
    width = len(first)
    heads = [[*row, *[""] * (width - len(row))] for row in rows[start:end]]
    labels = [tuple(cells) for cells in zip(*heads, strict=True)]
    if len(heads) > 1:
        # the first column's cells name the levels, and perhaps the index itself
        labels[0] = (next((cell for cell in reversed(labels[0]) if _is_time_name(cell)), ""),)
    else:
        labels = [levels(cell) or (cell,) for (cell,) in labels]
    return Header([(_bare_name(label[0]), *label[1:]) for label in labels], end)


def _is_time_name(name: str) -> bool:
    return any(part == "time" for part, _ in roles_of(name))


def _bare_name(name: str) -> str:
    return name.removeprefix("#").strip()


def _title_lines(rows: Sequence[Sequence[str]]) -> int:
    """Count the lines before the table: a title, an address, comments."""
    width = max(map(len, rows))
    at = 0
    while at < len(rows) - 1 and not _names_columns(rows[at]):
        comment = rows[at][0].startswith("#")
        alone = len([cell for cell in rows[at] if cell]) <= 1 < width
        if not comment and not (alone and len(rows[at]) < width):
            break
        at += 1
    return at


def _is_data(row: Sequence[str]) -> bool:
    """Whether a row has numbers."""
    return any(_NUMBER.fullmatch(cell[:64]) or _TIME.match(cell[:64]) for cell in row if cell)


def _names_columns(row: Sequence[str]) -> bool:
    return any(is_known(cell) for cell in row)


def _continues(row: Sequence[str], first: Sequence[str]) -> bool:
    """Whether a row belongs to the header whose first line is this."""
    if len(row) > len(first):
        return False
    if plain(row[0]) in LEVELS and not any(_TIME.match(cell) for cell in row):
        return True
    if _is_data(row):
        return False
    # a row of texts alone: tickers below fields, with nothing below the time's name
    return row[0] == "" and any(row)
