"""Signals at ties: prices that touch a band, an RSI at a level, a close at the channel's edge."""

from __future__ import annotations

from decimal import Decimal, localcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from supervisor.rows.grid import Grid
from tests.support import bands
from tests.support.chunks import FakeBars, backtest_all
from workers import reference
from workers.indicators.exact import RSI_TIE, ExactPrices, ratio
from workers.indicators.prices import decimal_scale, whole_prices
from workers.kernels.entries import rsi


def fifty_digits(
    close: NDArray[np.float64], window: int, width: float
) -> tuple[list[bool], list[bool]]:
    """Where each bar is below the band, and above the average: by means, roots and 50 digits."""
    of_file = decimal_scale(close) is not None
    prices = [Decimal(repr(price)) if of_file else Decimal(price) for price in close.tolist()]
    enter, leave = [False] * len(prices), [False] * len(prices)
    tiny = Decimal(10) ** -50
    with localcontext(prec=100):
        for bar in range(window - 1, len(prices)):
            part = prices[bar + 1 - window : bar + 1]
            mean = sum(part) / window
            deviation = (sum((price - mean) ** 2 for price in part) / window).sqrt()
            distance = prices[bar] - mean
            band = Decimal(repr(width)) * deviation
            enter[bar] = -distance > band + abs(band) * tiny and -distance > abs(mean) * tiny
            leave[bar] = distance > abs(mean) * tiny
    return enter, leave


@pytest.mark.parametrize("name", bands.SERIES)
def test_bands_against_fifty_digits(name: str) -> None:
    close = bands.SERIES[name]
    for window, width in bands.BANDS:
        if width > 1e100 or 0 < width < 1e-100 or window > 20:
            continue
        enter, leave = bands.signals(close, window, width)
        wanted = fifty_digits(close, window, width)
        assert enter.tolist() == wanted[0], (window, width)
        assert leave.tolist() == wanted[1], (window, width)


@pytest.mark.parametrize("name", bands.SERIES)
def test_bands_against_the_reference(name: str) -> None:
    close = bands.SERIES[name]
    bars: Any = SimpleNamespace(close=close)
    for window, width in bands.BANDS:
        enter, leave = bands.signals(close, window, width)
        wanted = reference.bollinger_reversion(bars, window, width)
        assert (enter.tolist(), leave.tolist()) == wanted, (window, width)


@pytest.mark.parametrize("name", bands.SERIES)
@pytest.mark.parametrize(("window", "width"), [(2, 1.0), (5, 2.0), (10, 3.0), (17, 4.0)])
def test_what_no_price_can_reach_is_not_traded(name: str, window: int, width: float) -> None:
    """One price of N is at most the root of N - 1 deviations from their average."""
    close = bands.SERIES[name]
    bars = FakeBars.of(close)
    row = backtest_all(bars, Grid.of({"window": [window], "width": [width]}), "bollinger_reversion")
    assert row[0, 3] == 0


def test_a_long_series_of_six_decimals_has_no_band_of_two_bars() -> None:
    close = np.round(30_000.0 + np.cumsum(np.random.default_rng(7).normal(0.0, 3.0, 20_000)), 6)
    for prices in (close, close.astype(np.float32).astype(np.float64)):
        enter, _ = bands.signals(prices, 2, 1.0)
        assert not enter.any()


def rsi_of_fifty_digits(close: NDArray[np.float64], window: int) -> list[Decimal | None]:
    prices = [Decimal(repr(price)) for price in close.tolist()]
    gain = loss = Decimal(0)
    found: list[Decimal | None] = [None] * len(prices)
    with localcontext(prec=50):
        for bar, (before, after) in enumerate(pairwise(prices), start=1):
            up, down = max(after - before, Decimal(0)), max(before - after, Decimal(0))
            if bar <= window:
                gain, loss = gain + up / window, loss + down / window
            else:
                gain = (gain * (window - 1) + up) / window
                loss = (loss * (window - 1) + down) / window
            if bar >= window:
                value = 100 * gain / (gain + loss) if gain + loss else Decimal(50)
                found[bar] = round(value, 40)
    return found


RSI_SERIES = {
    "only up": np.round(1.1 + 0.00007 * np.arange(400), 5),
    "only down": np.round(1.1 - 0.00007 * np.arange(400), 5),
    "up and down": np.round(1.1 + 0.1 * (np.arange(400) % 2), 1),
    "three up, seven down": np.where(np.arange(400) % 2, 1.3, 1.0) - 0.1 * (np.arange(400) > 9),
    "then constant": np.concatenate([np.array([1.0, 1.3, 0.6]), np.full(397, 0.6)]),
    "walk": bands.SERIES["five decimals"],
}


@pytest.mark.parametrize("name", RSI_SERIES)
@pytest.mark.parametrize("window", [1, 2, 3, 14])
def test_an_rsi_at_a_level_is_not_beyond_it(name: str, window: int) -> None:
    close = np.round(RSI_SERIES[name], 6)
    curve = np.empty(4096)
    assert rsi(np.zeros(8, np.int64), whole_prices(close), window, curve)
    bars: Any = SimpleNamespace(close=close)
    exact = rsi_of_fifty_digits(close, window)
    for level in (0, 30, 50, 70, 100):
        below = (curve < level - RSI_TIE)[: len(close)].tolist()
        above = (curve > level + RSI_TIE)[: len(close)].tolist()
        assert below == [value is not None and value < level for value in exact], level
        assert above == [value is not None and value > level for value in exact], level
        assert (below, above) == reference.rsi_reversion(bars, window, level, level)


def test_a_close_at_the_edge_of_the_channel_is_not_beyond_it() -> None:
    """Prices themselves are compared: nothing is rounded."""
    close = np.array([1.1, 1.2, 1.2, 1.3, 1.0, 1.0, 0.9] * 20)
    bars = FakeBars.of(close)
    enter, leave = reference.donchian_breakout(bars, 2, 2)
    row = backtest_all(bars, Grid.of({"entry": [2], "exit": [2]}), "donchian_breakout")
    wanted = reference.account(close.tolist(), enter, leave, 0.0005, bars.bars_per_year)
    assert row[0, 3] == wanted["trades"]


@pytest.mark.parametrize(
    ("width", "wanted"),
    [(2.0, (2, 1)), (2.1, (21, 10)), (0.0, (0, 1)), (1e300, (0, 1)), (2**0.5, None)],
)
def test_widths_are_the_decimals_that_were_written(
    width: float, wanted: tuple[int, int] | None
) -> None:
    numerator, denominator = ratio(width)
    assert max(numerator, denominator) <= 2**60
    if wanted is None:
        assert Decimal(numerator) / Decimal(denominator) == Decimal(repr(width))
    else:
        assert (numerator, denominator) == wanted


def test_prices_that_do_not_fit_are_rounded_and_stay_equal() -> None:
    close = np.exp(np.random.default_rng(1).normal(0.0, 9.0, 5000))
    close[100:200] = close[100]
    exact = ExactPrices.of(close)
    assert exact.shift(5000) > 0
    whole = exact.in_window(5000)
    assert int(whole.max()) * 5000 < 2**62
    assert len(set(whole[100:200].tolist())) == 1
    assert exact.shift(2) == 0 or exact.reach.bit_length() > 60
