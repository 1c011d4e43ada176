"""How many bars a year has, counted from the calendar that the data shows.

Regular bars are counted as vectorbt counts them by default, in years of 365 days, whatever
weekends and holidays are missing: a bar a day is 365, a bar an hour around the clock 8,760.
Where trading pauses every day, the bars of one session are counted, and a year has 252
sessions, or 365 where weekends are traded too. Every count is one that most days agree on: it
does not depend on single bars that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 10**9
_DAY_S = 86_400
YEAR_DAYS = 365
"""Days in a year as vectorbt counts them by default (``year_freq='365 days'``)."""
SESSIONS = 252
"""Sessions in a year where weekends and holidays are not traded."""

_REGULAR = 0.6
"""Share of the steps from bar to bar that have the same length where bars are regular."""
_WHOLE = 0.95
"""Share of a session's bars that are there where the rest is missing by chance."""


@dataclass(frozen=True, slots=True)
class Year:
    """Bars in a year, and how they were counted.

    Attributes
    ----------
    bars : float
        What ratios are annualised with.
    words : str
        For the report: ``252 × 390 = 98,280 bars a year, from the data's sessions``.
    """

    bars: float
    words: str


def year_of(
    time: NDArray[np.int64], bars_per_year: float | None = None, year_days: int | None = None
) -> Year:
    """Count the bars in a year.

    Parameters
    ----------
    time : ndarray of int64, shape (n_bars,), in ns since the epoch
        Strictly increasing.
    bars_per_year : float, optional
        What the user says, in place of counting.
    year_days : int, optional
        Days, or sessions, in a year as the user says.
    """
    if bars_per_year is not None:
        return Year(float(bars_per_year), f"{_number(bars_per_year)} bars a year, as given")
    if len(time) < 2:
        return _product(year_days or YEAR_DAYS, 1.0, "days of one bar", year_days)
    step_s = _usual_step_s(time)
    if step_s is not None and step_s < _DAY_S * 0.75 and _without_gap(time):
        return _around_the_clock(step_s, year_days)
    if step_s is not None and step_s >= _DAY_S * 0.75:
        return _of_days(step_s, year_days)
    sessions = _sessions(time)
    if step_s is None and (sessions is None or sessions.bars < 1.5):
        return _of_span(time, year_days)
    if sessions is None or (step_s is not None and sessions.around_the_clock(step_s)):
        return _around_the_clock(step_s, year_days)
    days = YEAR_DAYS if sessions.weekends else SESSIONS
    return _product(year_days or days, sessions.bars, "the data's sessions", year_days)


def by_median_spacing(time: NDArray[np.int64]) -> float:
    """Count as runs did before there was a calendar: 365 days at the median spacing."""
    spacing_ns = float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    return YEAR_DAYS * _DAY_S * NS_PER_S / spacing_ns if spacing_ns > 0 else float(YEAR_DAYS)


# --- regular bars ------------------------------------------------------------------------------


def _usual_step_s(time: NDArray[np.int64]) -> float | None:
    """Length of the steps if most are as long, in s; else None."""
    steps = np.diff(time)
    if _without_gap(time):  # a quarter of the time of a median
        return float(steps[0]) / NS_PER_S
    usual = int(np.median(steps))
    # clocks that change by an hour make a day of 23 or 25
    slack = 3_700 * NS_PER_S if usual >= 0.9 * _DAY_S * NS_PER_S else usual // 50
    if usual >= 26 * _DAY_S * NS_PER_S:
        slack = usual // 12  # months
    like = np.abs(steps - usual) <= slack
    if like.mean() < _REGULAR:
        return None
    exact = steps == usual
    return usual / NS_PER_S if exact.any() else float(np.median(steps[like])) / NS_PER_S


def _without_gap(time: NDArray[np.int64]) -> bool:
    steps = np.diff(time)
    return bool((steps == steps[0]).all())


def _of_days(step_s: float, year_days: int | None) -> Year:
    days = step_s / _DAY_S
    if 27.5 <= days <= 31.5:
        return Year(12.0, f"12 bars a year, one a month{_kept(year_days)}")
    if 89 <= days <= 92.5:
        return Year(4.0, f"4 bars a year, one a quarter{_kept(year_days)}")
    if days > 1.5:
        bars = YEAR_DAYS / days
        return Year(
            bars, f"{YEAR_DAYS} / {_number(days)} = {_number(bars)} bars a year, "
            f"one every {_number(days)} days{_kept(year_days)}"
        )  # fmt: skip
    return _product(year_days or YEAR_DAYS, 1.0 / days, "daily bars", year_days)


def _kept(year_days: int | None) -> str:
    return "" if year_days is None else f" (a year of {year_days} days changes nothing)"


def _of_span(time: NDArray[np.int64], year_days: int | None) -> Year:
    """Count bars at days that are not equally far apart: Mondays and Thursdays, month ends."""
    bars = (len(time) - 1) * YEAR_DAYS * _DAY_S * NS_PER_S / float(time[-1] - time[0])
    return Year(bars, f"{_number(bars)} bars a year, as the data has on average{_kept(year_days)}")


def _around_the_clock(step_s: float | None, year_days: int | None) -> Year:
    bars = _DAY_S / step_s if step_s else 1.0
    return _product(year_days or YEAR_DAYS, bars, "bars around the clock", year_days)


def _product(days: float, bars: float, whence: str, year_days: int | None) -> Year:
    total = days * bars
    given = ", days as given" if year_days is not None else ""
    return Year(
        total,
        f"{_number(days)} × {_number(bars)} = {_number(total)} bars a year, from {whence}{given}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


# --- sessions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sessions:
    """What most days have.

    Attributes
    ----------
    bars : float
        Bars in a session.
    slots : int
        Times of day at which most days have a bar.
    pause_s : float
        The longest step between two bars of a day and to the next one's first, in s, on most.
    weekends : bool
        Whether Saturdays and Sundays have sessions.
    """

    bars: float
    slots: int
    pause_s: float
    weekends: bool

    def around_the_clock(self, step_s: float) -> bool:
        """Whether bars of this length follow one another all day."""
        return self.pause_s < max(2 * step_s, 1800.0) or self.slots >= 0.99 * _DAY_S / step_s


def _sessions(time: NDArray[np.int64]) -> _Sessions | None:
    """Count the bars of each day; None if there are not two days to compare."""
    seconds = time // NS_PER_S
    seconds = seconds - _quietest_s(seconds)
    day = seconds // _DAY_S
    first = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    if len(first) < 2:
        return None
    counts = np.diff(first, append=len(day))
    usual = float(np.median(counts))
    full = counts >= 0.5 * usual
    if not full.any():
        return None
    mean = float(counts[full].mean())
    slots = _slots(seconds, first, counts)
    return _Sessions(
        bars=float(slots) if abs(mean - slots) <= (1 - _WHOLE) * slots else mean,
        slots=slots,
        pause_s=_pause_s(seconds, first),
        weekends=_weekends(day[first][full], day[0], day[-1]),
    )


def _quietest_s(seconds: NDArray[np.int64]) -> int:
    """Find the second of the day at which to cut: amid the longest time without bars."""
    used = np.flatnonzero(np.bincount(seconds % _DAY_S // 60))
    gaps = np.diff(used, append=used[0] + _DAY_S // 60)
    longest = int(np.argmax(gaps))
    if gaps[longest] * 60 < 1800:
        return 0
    return int((used[longest] + (gaps[longest] + 1) // 2) % (_DAY_S // 60)) * 60


def _slots(seconds: NDArray[np.int64], first: NDArray[np.intp], counts: NDArray[np.intp]) -> int:
    """Count the times since the day's first bar at which most days have one.

    From the first bar, so that summer time does not part the days.
    """
    since = seconds - np.repeat(seconds[first], counts)
    full = np.repeat(counts >= 0.5 * np.median(counts), counts)
    often = np.bincount(since[full])
    days = int((counts >= 0.5 * np.median(counts)).sum())
    return max(1, int(((2 * often >= days) & (often > 0)).sum()))


def _pause_s(seconds: NDArray[np.int64], first: NDArray[np.intp]) -> float:
    """Longest step of each day, that to the next day's first bar included; that of most days."""
    steps = np.diff(seconds)
    longest: NDArray[Any] = np.maximum.reduceat(steps, first[:-1])
    return float(np.median(longest))


def _weekends(days: NDArray[np.int64], first: int, last: int) -> bool:
    """Whether Saturdays and Sundays have sessions, on most weekends."""
    weekday = (days + 3) % 7  # 0: Monday
    every = (np.arange(first, last + 1) + 3) % 7
    for day in (5, 6):
        there = int((every == day).sum())
        if not there or 2 * int((weekday == day).sum()) <= there:
            return False
    return True
