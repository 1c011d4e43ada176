"""Bars made up on the spot, so that a newcomer needs no file.

Everything is integer arithmetic on a counter-based hash, so the bars are the
same bytes on every machine and with every version of NumPy, and the first n of
them do not depend on how many are made.

References
----------
Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014: the mixing function (splitmix64).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from supervisor.market.bars import Bars

MINUTES_PER_YEAR = 525_600
POINTS = 100_000
"""Points in one unit of price: five decimals, as exchange rates are quoted."""

_START_NS = 1_672_531_200 * 10**9  # 2023-01-01 00:00 UTC
_MINUTE_NS = 60 * 10**9
_BASE, _LEAST, _SPAN = 110_000, 70_000, 80_000  # in points: 1.10000 within 0.70000 to 1.50000
_FRACTION = 4096  # the walk counts in fractions of a point
_REGIME_BARS = 2880
_REVERT_BARS = 180
_SLICE_BARS = 16_384


def example_bars(n_bars: int = MINUTES_PER_YEAR) -> Bars:
    """Make one-minute bars of an invented exchange rate, without gaps.

    The rate is a random walk whose volatility and drift change every two days;
    where there is no drift, most of a move is given back three hours later. So
    there are stretches that trend and stretches that revert.

    Parameters
    ----------
    n_bars : int
        A year by default. Fewer are a prefix of more.

    Returns
    -------
    Bars
        From 2023-01-01 00:00 UTC on; prices have five decimals.
    """
    return Bars.from_slices(_slices(n_bars), n_bars, source="example")


def _slices(n_bars: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Columns slice by slice: arrays that stay in the cache take a fifth of the time."""
    walk = _Walk()
    for start in range(0, n_bars, _SLICE_BARS):
        stop = min(start + _SLICE_BARS, n_bars)
        time = _START_NS + np.arange(start, stop, dtype=np.int64) * _MINUTE_NS
        yield {"time": time, **walk.take(start, stop)}


class _Walk:
    """The walk, and what it has to remember from slice to slice."""

    def __init__(self) -> None:
        self._height = 0  # in fractions of a point
        self._close = _BASE
        self._passing = np.zeros(_REVERT_BARS, dtype=np.int64)

    def take(self, start: int, stop: int) -> dict[str, NDArray[np.float64]]:
        """Columns of the bars `start` to `stop`; slices come in order and without gaps."""
        noise = _mix(np.arange(start, stop, dtype=np.uint64))
        drift, volatility, swing = _regimes(start, stop)
        # four fields of 12 bits: their sum is nearly normal, with deviation 2,365
        step = _field(noise, 0, 12)
        for shift in (12, 24, 36):
            step += _field(noise, shift, 12)
        step -= 8190
        # the swing's share of a step is taken back three hours later
        passing = np.concatenate((self._passing, step * swing))
        step *= volatility
        step += drift
        step += passing[_REVERT_BARS:]
        step -= passing[: stop - start]
        self._passing = passing[stop - start :]
        step[0] += self._height
        height = np.cumsum(step)
        self._height = height[-1]
        close = _fold(height // _FRACTION)
        open_ = np.concatenate(([self._close], close[:-1]))
        self._close = close[-1]

        reach = 1 + volatility // 2
        high = np.maximum(open_, close) + _field(noise, 48, 8) * reach // 64
        low = np.minimum(open_, close) - _field(noise, 56, 8) * reach // 64
        # busiest at noon, four times as busy as at midnight
        busy = 720 - np.abs(np.arange(start, stop) % 1440 - 720)
        volume = (240 + busy) * (64 + (_field(noise, 20, 8) + volatility * 8)) // 64
        return {
            "open": open_ / POINTS,
            "high": high / POINTS,
            "low": low / POINTS,
            "close": close / POINTS,
            "volume": volume.astype(np.float64),
        }


def _regimes(
    start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Drift, lasting and passing volatility at each bar, in fractions of a point."""
    first = start // _REGIME_BARS
    dice = _mix(np.arange(first, stop // _REGIME_BARS + 1, dtype=np.uint64) + np.uint64(2**63))
    # a third of the regimes go up, a third down, a third nowhere
    trend = _field(dice, 0, 16) % 3 - 1
    drift = trend * (_FRACTION // 2)
    volatility = 6 + _field(dice, 16, 16) % 14
    swing = np.where(trend == 0, 2, 0) * volatility
    at = np.arange(start, stop) // _REGIME_BARS - first
    return drift[at], volatility[at], swing[at]


def _fold(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reflect a walk that starts at 0 so that the price stays within its band."""
    offset = (points + _BASE - _LEAST) % (2 * _SPAN)
    return _LEAST + np.minimum(offset, 2 * _SPAN - offset)


def _mix(counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash counters to 64 well-mixed bits each; multiplication wraps, as intended."""
    z = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _field(bits: NDArray[np.uint64], shift: int, width: int) -> NDArray[np.int64]:
    return ((bits >> np.uint64(shift)) & np.uint64(2**width - 1)).astype(np.int64)
