"""Bars in a year are counted from the calendar that the data shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from supervisor.market.bars import Bars
from supervisor.market.trading_year import by_median_spacing, year_of

Times = NDArray[np.int64]

DAYS = pd.bdate_range("2020-01-01", "2021-12-31")
EVERY_DAY = pd.date_range("2020-01-01", "2021-12-31")


def ns(stamps: pd.DatetimeIndex) -> Times:
    if stamps.tz is not None:
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    return np.asarray(stamps.as_unit("ns")).astype("M8[ns]").astype(np.int64)


def sessions(days: pd.DatetimeIndex, minutes: list[int], zone: str = "UTC") -> Times:
    stamps = [day + pd.Timedelta(minutes=minute) for day in days for minute in minutes]
    return ns(pd.DatetimeIndex(stamps).tz_localize(zone))


def around_the_clock(*, close_at_16: bool) -> Times:
    """Hours from Sunday evening to Friday afternoon, of New York."""
    hours = pd.date_range("2020-01-01", "2021-12-31", freq="h", tz="America/New_York")
    week = hours.day_of_week
    shut = (week == 5) | ((week == 4) & (hours.hour > 16)) | ((week == 6) & (hours.hour < 17))
    return ns(hours[~shut & ~(close_at_16 & (hours.hour == 16))])


CASES = {
    # right number, times
    "09:30 and 13:30": (504, sessions(DAYS, [570, 810])),
    "the same in New York": (504, sessions(DAYS, [570, 810], "America/New_York")),
    "the same, weekends too": (730, sessions(EVERY_DAY, [570, 810])),
    "00:00 and 16:00": (730, sessions(EVERY_DAY, [0, 960])),
    "three at odd times": (756, sessions(DAYS, [570, 660, 900])),
    "390 minutes": (98_280, sessions(DAYS[:80], list(range(570, 960)), "America/New_York")),
    "two days of 390 minutes": (98_280, sessions(DAYS[:2], list(range(570, 960)))),
    "a pause at noon": (60_480, sessions(DAYS[:80], [*range(570, 690), *range(780, 900)])),
    "7 hours": (1764, sessions(DAYS, list(range(570, 960, 60)), "America/New_York")),
    "futures, an hour's pause": (5796, around_the_clock(close_at_16=True)),
    "currencies, hourly": (8760, around_the_clock(close_at_16=False)),
    "hourly": (8760, ns(pd.date_range("2020-01-01", periods=9000, freq="h"))),
    "minutes of one day": (525_600, sessions(DAYS[:1], list(range(570, 960)))),
    "days": (365, ns(DAYS)),
    "days, weekends too": (365, ns(EVERY_DAY)),
    "midnights of New York": (365, ns(DAYS.tz_localize("America/New_York"))),
    "weeks": (365 / 7, ns(pd.date_range("2010-01-03", periods=300, freq="7D"))),
    "months": (12, ns(pd.date_range("2010-01-01", periods=100, freq="MS"))),
    "last trading days of months": (12, ns(pd.date_range("2010-01-01", periods=100, freq="BME"))),
    "quarters": (4, ns(pd.date_range("2010-01-01", periods=60, freq="QS"))),
}


def thinned(time: Times, how: str) -> Times:
    """Leave out 1 % of the bars."""
    n = max(1, len(time) // 100)
    keep = np.ones(len(time), np.bool_)
    if how == "by chance":
        keep[np.random.default_rng(1).choice(len(time), n, replace=False)] = False
    elif how == "the first of many days":
        keep[np.flatnonzero(np.diff(time // (86_400 * 10**9), prepend=0))[:n]] = False
    else:
        start = {"the first": 0, "the last": len(time) - n, "in the middle": len(time) // 2}[how]
        keep[start : start + n] = False
    return time[keep]


@pytest.mark.parametrize("name", CASES)
def test_bars_in_a_year_whichever_are_missing(name: str) -> None:
    right, time = CASES[name]
    assert year_of(time).bars == pytest.approx(right, rel=1e-12)
    for how in ("by chance", "the first", "the last", "in the middle"):
        assert year_of(thinned(time, how)).bars == pytest.approx(right, rel=1e-12), how
    worst = year_of(thinned(time, "the first of many days")).bars
    assert worst == pytest.approx(right, rel=0.01)
    for few in (1, 2, 3):
        if len(time) > 4:
            assert year_of(time[few:]).bars == pytest.approx(right, rel=1e-12)
            assert year_of(time[:-few]).bars == pytest.approx(right, rel=1e-12)


def test_bars_at_irregular_times_are_counted_on_average() -> None:
    twice_a_week = EVERY_DAY[EVERY_DAY.day_of_week.isin([0, 3])]
    assert year_of(ns(twice_a_week)).bars == pytest.approx(104.3, rel=0.01)
    rng = np.random.default_rng(0)
    opening = sessions(DAYS, [570])
    ticks = np.sort(opening[:, None] + rng.integers(0, 23_400 * 10**9, (len(DAYS), 50))).ravel()
    assert year_of(ticks).bars == pytest.approx(252 * 50, rel=0.01)


def test_what_the_user_says_and_the_words() -> None:
    time = CASES["390 minutes"][1]
    assert year_of(time).words == "252 × 390 = 98,280 bars a year, from the data's sessions"
    assert year_of(time, year_days=365).bars == 365 * 390
    assert "as given" in year_of(time, year_days=365).words
    assert year_of(time, bars_per_year=1000.5) == (year_of(time[:1], bars_per_year=1000.5))
    assert year_of(ns(DAYS), year_days=252).words == (
        "252 × 1 = 252 bars a year, from daily bars, days as given"
    )
    hourly = CASES["hourly"][1]
    assert year_of(hourly).words == "365 × 24 = 8,760 bars a year, from bars around the clock"
    assert year_of(hourly, year_days=252).bars == 252 * 24
    assert "changes nothing" in year_of(CASES["weeks"][1], year_days=252).words
    assert year_of(time[:1]).bars == 365


def test_runs_of_before_the_calendar_keep_the_median_spacing() -> None:
    time = CASES["390 minutes"][1]
    assert by_median_spacing(time) == 525_600
    assert by_median_spacing(time[:1]) == 365


def test_bars_take_another_year_without_a_copy() -> None:
    price = np.array([1.0, 2.0])
    stamps = np.array([0, 86_400 * 10**9])
    bars = Bars(price, price, price, price, price, stamps)
    assert bars.annualised_with(365.0) is bars  # taken over, and not counted anew
    assert bars.bars_per_year == 365
    other = bars.annualised_with(252.0)
    assert (other.bars_per_year, bars.bars_per_year) == (252, 365)
    assert np.shares_memory(other.close, bars.close)
