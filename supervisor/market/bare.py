"""Files without a header: klines of Binance, Kraken's OHLCVT, HistData, MetaTrader 4 and the like.

They begin with the time, and four prices follow: which is which shows in their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supervisor.market.columns import BadCell
from supervisor.market.times import is_clock, join_times, times
from supervisor.market.written_numbers import numbers

_ORDERS = (
    ("open", "high", "low", "close"),
    ("open", "close", "high", "low"),  # Bitfinex
    ("low", "high", "open", "close"),  # Coinbase
)
_LEAST_ROWS = 2


@dataclass(frozen=True, slots=True)
class Recognised:
    """Positions by part, and that of the instrument's name."""

    parts: dict[str, list[int]]
    symbol_at: int | None


def recognise(sample: Sequence[Sequence[str]]) -> Recognised | None:
    """Find time, prices and volume in the first rows of a file; None if it isn't clear."""
    if len(sample) < _LEAST_ROWS:
        return None
    columns = [list(column) for column in zip(*sample, strict=True)]
    symbol_at = 0 if not _is_time(columns[0]) and numbers_in(columns[0]) is None else None
    start = 0 if symbol_at is None else 1
    while start < len(columns) and start < 3 and not _is_time(columns[start]):
        start += 1
    if start >= len(columns) or not _is_time(columns[start]):
        return None
    when = [start]
    if start + 1 < len(columns) and _is_pair(columns[start], columns[start + 1]):
        when.append(start + 1)
    first = when[-1] + 1
    prices = [numbers_in(column) for column in columns[first : first + 4]]
    if len(prices) < 4 or any(price is None or not (price > 0).all() for price in prices):
        return None
    order = _order([price for price in prices if price is not None])
    if order is None:
        return None
    parts = {"time": when} | {part: [first + at] for at, part in enumerate(order)}
    if first + 4 < len(columns):
        volume = numbers_in(columns[first + 4])
        if volume is not None and (volume >= 0).all():
            parts["volume"] = [first + 4]
    return Recognised(parts, symbol_at)


def _order(prices: Sequence[NDArray[np.float64]]) -> tuple[str, ...] | None:
    """Return the first order in which every high is the highest and every low the lowest."""
    highest, lowest = np.max(prices, axis=0), np.min(prices, axis=0)
    for order in _ORDERS:
        high, low = prices[order.index("high")], prices[order.index("low")]
        if (high == highest).all() and (low == lowest).all():
            return order
    return None


def _is_time(column: list[str]) -> bool:
    try:
        found = times(np.array(column, dtype=object), "time")
    except BadCell as bad:
        return "month/day or day/month" in bad.message
    steps = np.diff(found)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _is_pair(dates: list[str], clock: list[str]) -> bool:
    if not is_clock(np.array(clock, dtype=object)):
        return False
    try:
        found = join_times(
            np.array(dates, dtype=object), np.array(clock, dtype=object), ("date", "time"), []
        )
    except BadCell:
        return False
    days = times(np.array(dates, dtype=object), "date")
    # digits may be a price as well as a time of day: only the latter makes dates differ
    return ":" in clock[0] or bool((np.diff(days) == 0).any() and (np.diff(found) != 0).all())


def numbers_in(column: list[str]) -> NDArray[np.float64] | None:
    """Read the cells as numbers; None if one of them is none."""
    try:
        return numbers({"it": np.array(column, dtype=object)}, {"it": "it"}, [])["it"]
    except BadCell:
        return None
