"""Prices as whole numbers, so that sums are exact and ties are ties.

Prices are decimals: 1.10012 is 110012 hundred-thousandths. Sums of such
integers are exact in float64 as long as they stay below 2⁵³, whatever the
order in which they are taken; sums of the binary fractions nearest to the
prices are not, and equal averages then differ by chance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAX_DECIMALS = 12

EXACT = 2.0**53
"""Below this, every integer is a float64."""

_PART_BARS = 2**13
"""Small enough that malloc gives the same memory again, and does not ask the kernel for more."""


def whole_prices(close: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale prices to integers where their decimals allow it, else return them as they are.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        In quote currency.

    Returns
    -------
    ndarray of float64, shape (n_bars,)
        ``close * 10**k`` for the smallest `k` for which that is a whole number
        at every bar and ``/ 10**k`` gives back each price to the last bit.
    """
    scale = decimal_scale(close)
    return np.array(close) if scale is None else np.rint(close * scale)


def decimal_scale(close: NDArray[np.float64]) -> float | None:
    """Find the factor of :func:`whole_prices`; None: there is none."""
    sample = close[:: max(1, len(close) // 64)]
    for decimals in range(MAX_DECIMALS + 1):
        scale = 10.0**decimals
        parts = (close[part] for part in _parts(close))
        if _is_scale(scale, sample) and all(_is_scale(scale, part) for part in parts):
            return scale
    return None


def _is_scale(scale: float, close: NDArray[np.float64]) -> bool:
    whole = np.rint(close * scale)
    return np.array_equal(whole / scale, close) and bool(np.abs(whole).max() < EXACT)


def _parts(close: NDArray[np.float64]) -> Iterator[slice]:
    """Cut into parts: what is computed in between stays in the cache, and needs no new memory."""
    for start in range(0, len(close), _PART_BARS):
        yield slice(start, min(start + _PART_BARS, len(close)))


def running_sums(close: NDArray[np.float64], front: int, length: int) -> NDArray[np.float64]:
    """Running sums of the closes, exact wherever whole prices fit.

    Prices are taken relative to the middle of their range, which changes no
    comparison of averages. Where sums of whole prices would not fit, prices
    are rounded to the finest power of two whose sums do: averages that differ
    by less than that (1e-11 of the price, for a year of minutes) may tie, but
    constant stretches still tie exactly and no result depends on how the
    series is cut.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        In quote currency.
    front : int
        Zeros to put before the sums.
    length : int
        Elements to return; the last sum is repeated.

    Returns
    -------
    ndarray of float64, shape (length,)
        Element ``front + i`` is the sum of the first `i` closes.
    """
    scale, middle, step = _summable(close)
    sums = np.zeros(length)
    for part in _parts(close):
        prices = close[part] if scale is None else np.rint(close[part] * scale)
        at = front + 1 + part.start
        into = sums[at : at + len(prices)]
        np.cumsum(np.rint((prices - middle) / step), out=into)
        into += sums[at - 1]  # exact, as all sums are
    sums[front + 1 + len(close) :] = sums[front + len(close)]
    return sums


def _summable(close: NDArray[np.float64]) -> tuple[float | None, float, float]:
    """Find the scale, then the middle, then the step that give whole numbers with exact sums."""
    scale = decimal_scale(close)
    low, high = float(close.min()), float(close.max())
    if scale is not None:
        least, most = float(np.rint(low * scale)), float(np.rint(high * scale))
        middle = float(np.rint((least + most) / 2.0))
        if max(1.0, most - middle, middle - least) * len(close) < EXACT:
            return scale, middle, 1.0
    middle = (low + high) / 2.0
    reach = max(high - middle, middle - low) * len(close)
    fits = np.ceil(np.log2(max(reach / EXACT, np.finfo(float).tiny)) + 1.0)
    return None, middle, float(2.0**fits)
