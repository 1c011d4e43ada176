"""Which times market data may have: what lies outside was read wrongly, or written wrongly."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.market.columns import BadCell, shown

NS_PER_S = 10**9
EARLIEST_YEAR = 1960
YEARS_AHEAD = 2

_EARLIEST_S = -315_619_200  # 1960-01-01
_AHEAD_S = YEARS_AHEAD * 366 * 86_400


def window_s() -> tuple[int, int]:
    """First and last time that is accepted, in s since the epoch: 1960 to two years from now."""
    return _EARLIEST_S, int(time.time()) + _AHEAD_S


def check_years(years: NDArray[np.int64], name: str, cells: Any) -> None:
    """Refuse years out of the window, of which nanoseconds may overflow."""
    latest = _latest_year()
    odd = (years < EARLIEST_YEAR) | (years > latest)
    if odd.any():
        row = int(np.argmax(odd))
        raise BadCell(
            f"{name} {shown(cells[row])} lies outside the years {EARLIEST_YEAR} to {latest}: "
            "correct it or delete the row",
            row,
        )


def check_window(
    found: NDArray[np.int64], name: str, cells: Any = None, per_s: int = NS_PER_S
) -> None:
    """Refuse times before 1960 or more than two years ahead.

    Parameters
    ----------
    found : ndarray of int64, shape (n,)
        Times since the epoch.
    name : str
        The column's name, for messages.
    cells : sequence, optional
        What they were read from, for messages.
    per_s : int
        Units of `found` in a second.

    Raises
    ------
    BadCell
        Names the first row that lies outside.
    """
    if not len(found):
        return
    earliest, latest = (limit * per_s for limit in window_s())
    if found.min() >= earliest and found.max() <= latest:
        return
    row = int(np.argmax((found < earliest) | (found > latest)))
    stamp = str(np.datetime64(int(found[row]) // per_s, "s"))
    cell = stamp if cells is None else str(cells[row])
    read = "" if cell.startswith(stamp[:4]) else f", read as {stamp[:10]},"
    raise BadCell(
        f"{name} {shown(cell)}{read} lies outside the years {EARLIEST_YEAR} to "
        f"{_latest_year()}: correct it or delete the row",
        row,
    )


def _latest_year() -> int:
    return time.gmtime(window_s()[1]).tm_year
