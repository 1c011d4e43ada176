"""Prices as whole numbers, so that sums are exact and ties are ties.

Prices are decimals: 1.10012 is 110012 hundred-thousandths. Sums of such
integers are exact in float64 as long as they stay below 2⁵³, whatever the
order in which they are taken; sums of the binary fractions nearest to the
prices are not, and equal averages then differ by chance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_DECIMALS = 12

EXACT = 2.0**53
"""Below this, every integer is a float64."""


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
    sample = close[:: max(1, len(close) // 64)]
    for decimals in range(MAX_DECIMALS + 1):
        scale = 10.0**decimals
        if np.array_equal(np.rint(sample * scale) / scale, sample):
            whole: NDArray[np.float64] = np.rint(close * scale)
            if np.array_equal(whole / scale, close) and np.abs(whole).max() < EXACT:
                return whole
    return np.array(close)


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
    whole = whole_prices(close)
    centred = whole - np.rint((whole.min() + whole.max()) / 2.0)
    reach = max(1.0, float(np.abs(centred).max())) * len(close)
    if reach >= EXACT or not np.array_equal(centred, np.rint(centred)):
        centred = close - (close.min() + close.max()) / 2.0
        reach = float(np.abs(centred).max()) * len(close)
        step = 2.0 ** np.ceil(np.log2(max(reach, np.finfo(float).tiny) / EXACT) + 1.0)
        centred = np.rint(centred / step)
    sums = np.zeros(length)
    np.cumsum(centred, out=sums[front + 1 : front + 1 + len(close)])
    sums[front + 1 + len(close) :] = sums[front + len(close)]
    return sums
