from __future__ import annotations

import numpy as np

from supervisor.market.bars import load_bars
from supervisor.market.example import MINUTES_PER_YEAR, POINTS, example_bars

DIGEST = "800faca00c24dfde915dfd89b406edc2419a6c25492a23d927e340bb5251e128"
FIELDS = ("open", "high", "low", "close", "volume", "time")


def test_the_year_is_the_same_bytes_everywhere() -> None:
    bars = example_bars()
    assert len(bars) == MINUTES_PER_YEAR
    assert bars.bars_per_year == MINUTES_PER_YEAR
    assert bars.digest() == DIGEST


def test_fewer_bars_are_a_prefix_of_more() -> None:
    year = example_bars(5000)
    for n_bars in (1, 2, 180, 181, 960, 961, 4999):
        part = example_bars(n_bars)
        assert len(part) == n_bars
        for name in FIELDS:
            assert np.array_equal(getattr(part, name), getattr(year, name)[:n_bars])


def test_it_passes_the_checks_a_users_file_must_pass() -> None:
    bars = example_bars()
    assert len(load_bars({name: getattr(bars, name) for name in FIELDS})) == len(bars)
    assert np.all(bars.high >= np.maximum(bars.open, bars.close))
    assert np.all(bars.low <= np.minimum(bars.open, bars.close))
    assert np.array_equal(bars.open[1:], bars.close[:-1])
    assert bars.volume.min() > 0


def test_prices_are_decimals_with_five_places() -> None:
    bars = example_bars(20_000)
    for name in ("open", "high", "low", "close"):
        prices = getattr(bars, name)
        assert prices[:50].tolist() == [float(f"{price:.5f}") for price in prices[:50]]
        assert np.array_equal(np.rint(prices * POINTS) / POINTS, prices)


def test_some_stretches_trend_and_some_revert() -> None:
    close = example_bars().close
    regimes = close[: len(close) // 960 * 960].reshape(-1, 960)
    moves = np.diff(regimes, axis=1)
    # how far a regime goes, in deviations of as many independent steps
    reach = np.abs(regimes[:, -1] - regimes[:, 0]) / np.sqrt(moves.var(axis=1) * 959)
    assert np.mean(reach > 2) > 0.1  # 0.05 by chance
    # moves are taken back three hours later
    echo = np.mean(moves[:, 180:] * moves[:, :-180], axis=1) / moves.var(axis=1)
    assert np.mean(echo < -0.15) > 0.2  # none by chance
