"""Find open, high, low, close, volume and time in what a user calls market data, and check them.

Whatever is wrong is one :class:`~supervisor.errors.DataError` that names the
file, the row and the fix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DataError
from supervisor.market.columns import BadCell, first_text, floats, join_text, shown, times
from supervisor.market.tables import Table, open_table

_NAMES: dict[str, tuple[frozenset[str], ...]] = {
    # best name first: a worse one counts only where no better one is there
    "open": (frozenset({"open", "o", "openprice"}),),
    "high": (frozenset({"high", "h", "highprice"}),),
    "low": (frozenset({"low", "l", "lowprice"}),),
    "close": (
        frozenset({"close", "c", "closeprice"}),
        frozenset({"adjclose", "adjustedclose", "closeadj"}),
    ),
    "volume": (
        frozenset({"volume", "vol", "v"}),
        frozenset({"tickvolume", "tickvol"}),
    ),
    "time": (
        frozenset(
            {"time", "date", "datetime", "timestamp", "opentime", "gmttime", "utctime", "localtime"}
        ),
        frozenset({"unix", "unixtime", "epoch", "ts", "t", "dt", "index"}),
    ),
}
_PRICES = ("open", "high", "low", "close")
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d.*)?")


@dataclass(frozen=True, slots=True)
class Market:
    """Checked columns, each of shape (n_bars,): float64, ``time`` int64 ns since the epoch, UTC."""

    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    time: NDArray[np.int64]
    source: str


def read_market(source: object) -> Market:
    """Read and check market data; see :func:`supervisor.market.bars.load_bars`."""
    table = open_table(source)
    try:
        return _checked(table)
    except BadCell as bad:
        row = None if bad.row is None else table.row(bad.row)
        raise DataError(bad.message, path=table.source, row=row) from None


# --- what to take ------------------------------------------------------------------------------


def _checked(table: Table) -> Market:
    where = _assign(table)
    order = [at for ats in where.values() for at in ats]
    numbers = [ats[0] for role, ats in where.items() if role != "time"]
    taken = dict(zip(order, table.columns(order, numbers), strict=True))
    values = {
        role: floats(taken[ats[0]], table.names[ats[0]] or role)
        for role, ats in where.items()
        if role != "time"
    }
    time = _times([taken[at] for at in where["time"]], [table.names[a] for a in where["time"]])
    _check_lengths({len(column) for column in (*values.values(), time)})
    for role in _PRICES:
        if role in values:
            _check_price(role, values[role])
    if "volume" in values:
        _check_volume(values["volume"])
    if "high" in values and "low" in values:
        _check_range(values["high"], values["low"])
    _check_order(time)
    close = values["close"]
    return Market(
        open=values.get("open", close),
        high=values.get("high", close),
        low=values.get("low", close),
        close=close,
        volume=values["volume"] if "volume" in values else np.zeros(len(close)),
        time=time,
        source=table.source,
    )


def _assign(table: Table) -> dict[str, tuple[int, ...]]:
    """Find which column plays which part; two of them for a date and a time of day."""
    plain = [_plain(name) for name in table.names]
    where: dict[str, tuple[int, ...]] = {}
    for role, ranks in _NAMES.items():
        for names in ranks:
            found = tuple(at for at, name in enumerate(plain) if name in names)
            if found:
                where[role] = found
                break
    if "time" not in where and table.index is not None:
        where["time"] = (table.index,)
    for role in ("close", "time"):
        if role not in where:
            listed = ", ".join(shown(name) for name in table.names[:20]) or "none"
            more = ", …" if len(table.names) > 20 else ""
            raise BadCell(f"no {role} column among {listed}{more}: name one {role!r} in the header")
    for role, found in where.items():
        is_pair = role == "time" and len(found) == 2 and "date" in (plain[at] for at in found)
        if len(found) > 1 and not is_pair:
            _refuse_ambiguous(role, [table.names[at] for at in found])
    where["time"] = tuple(sorted(where["time"], key=lambda at: plain[at] != "date"))
    return where


def _plain(name: object) -> str:
    """Strip a column's name of what varies: case, blanks, <brackets>, ``1.`` numbering, ``_``."""
    text = str(name).lstrip("\ufeff").strip().lower().strip("<>\"' ")
    return re.sub(r"^\d+\.\s+|[\s_\-.]", "", text)


def _refuse_ambiguous(role: str, names: Sequence[str]) -> NoReturn:
    listed = " and ".join(shown(name) for name in names)
    raise BadCell(f"{listed} could each be the {role} column: rename or remove all but one")


def _times(columns: Sequence[Any], names: Sequence[str]) -> NDArray[np.int64]:
    if len(columns) == 1:
        return times(columns[0], names[0] or "time")
    if not _CLOCK.fullmatch(first_text(columns[1])):
        _refuse_ambiguous("time", names)
    return times(join_text(*columns), "time")


# --- what to refuse ----------------------------------------------------------------------------


def _check_lengths(lengths: set[int]) -> None:
    if len(lengths) > 1:
        raise BadCell(f"the columns differ in length: {sorted(lengths)}")
    (n_bars,) = lengths
    if n_bars == 0:
        raise BadCell("has no rows: at least 2 bars are needed")
    if n_bars == 1:
        raise BadCell("has one row only: at least 2 bars are needed")


def _check_price(role: str, values: NDArray[np.float64]) -> None:
    if values.min() > 0 and values.max() < np.inf:  # NaN fails both
        return
    row = int(np.flatnonzero(~((values > 0) & (values < np.inf)))[0])
    value = values[row]
    if np.isnan(value):
        raise BadCell(f"{role} is missing (empty or NaN): fill it in or delete the row", row)
    if np.isinf(value):
        raise BadCell(f"{role} is infinite: correct it or delete the row", row)
    raise BadCell(f"{role} is {value:g}: prices must be positive", row)


def _check_volume(values: NDArray[np.float64]) -> None:
    if values.min() >= 0 and values.max() < np.inf:
        return
    row = int(np.flatnonzero(~((values >= 0) & (values < np.inf)))[0])
    value = values[row]
    if np.isnan(value):
        raise BadCell("volume is missing (empty or NaN): fill it in or drop the column", row)
    raise BadCell(f"volume is {value:g}: it must be finite and not negative", row)


def _check_range(high: NDArray[np.float64], low: NDArray[np.float64]) -> None:
    odd = high < low
    if odd.any():
        row = int(np.argmax(odd))
        raise BadCell(f"high {high[row]:.15g} is below low {low[row]:.15g}: correct the row", row)


def _check_order(time: NDArray[np.int64]) -> None:
    steps = np.diff(time)
    if steps.min() > 0:
        return
    row = int(np.argmax(steps <= 0)) + 1
    here, before = (str(time[at : at + 1].view("M8[ns]")[0]).partition(".")[0]
                    for at in (row, row - 1))  # fmt: skip
    if steps[row - 1] == 0:
        raise BadCell(f"time {here} occurs twice: remove one of the rows", row)
    if steps.max() < 0:
        raise BadCell(f"time {here} comes after {before}: newest first; reverse the rows", row)
    raise BadCell(f"time {here} comes after {before}: sort the rows by time", row)
