"""What decides ties: whole prices and widths for Bollinger bands, a least distance for the RSI.

With whole prices, the distance ``D = N·price − sum`` of a price from its trailing average and
the variance ``V = N·(sum of squares) − sum²`` are whole numbers, and a price lies below the
band where ``D < 0`` and ``D² > width² · V``. Two integers bound them: the number of bars in
the window and the range of the prices. Their product stays below 2⁶², so `D` and the sum fit
into 64 bits and `V` into 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from workers.indicators.prices import decimal_scale

SLACK = 2.0**-48
"""A deviation and a width are rounded by less than this share; what lies closer together is
compared in whole numbers."""

RSI_TIE = 1e-9
"""An RSI that is this close to a level, of 100, has reached it and is not beyond: rounding in
Wilder's averages is ten thousand times finer, and would decide by chance."""

_MOST_BITS = 62
_NARROW_BITS = 32
_MANTISSA_BITS = 53
_MOST_DENOMINATOR = 2**60


@dataclass(frozen=True)
class ExactPrices:
    """Prices as whole numbers of 64 bits, from 0 to :attr:`reach`.

    Attributes
    ----------
    whole : ndarray of int64, shape (n_bars,)
        Prices above the lowest, in units of their last decimal, or of their last binary digit
        where they are no decimals.
    reach : int
        The highest of them.
    """

    whole: NDArray[np.int64]
    reach: int

    @classmethod
    def of(cls, close: NDArray[np.float64]) -> ExactPrices:
        """Convert closes, in quote currency: ndarray of float64, shape (n_bars,)."""
        scale = decimal_scale(close)
        whole = _binary(close) if scale is None else np.rint(close * scale).astype(np.int64)
        whole -= whole.min()
        return cls(whole, int(whole.max()))

    def shift(self, window: int) -> int:
        """How many binary digits are dropped, so that a window's sums fit; 0 for most prices.

        Not more than a series of 15 digits needs in a window of 512 bars.
        """
        bits = (max(1, self.reach) * min(window, len(self.whole))).bit_length()
        return max(0, bits - _MOST_BITS)

    def in_window(self, window: int) -> NDArray[np.int64]:
        """Return the prices as a window of this length takes them, rounded where it must be."""
        shift = self.shift(window)
        return self.whole if shift == 0 else (self.whole + (1 << shift >> 1)) >> shift

    def is_narrow(self, window: int) -> bool:
        """Whether the variances of such a window fit into 63 bits."""
        reach = self.reach >> self.shift(window)
        return (max(1, reach) * min(window, len(self.whole))).bit_length() <= _NARROW_BITS


def _binary(close: NDArray[np.float64]) -> NDArray[np.int64]:
    """Convert prices to units of the last binary digit of any, or of the last that fits."""
    mantissas, exponents = np.frexp(close)
    digits = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64)
    last = exponents - _MANTISSA_BITS + np.log2(digits & -digits).astype(np.int64)
    unit = max(int(last.min()), int(exponents.max()) - _MOST_BITS)
    return np.rint(np.ldexp(close, -unit)).astype(np.int64)


def ratio(width: float) -> tuple[int, int]:
    """Return a width, the decimal that was written, as numerator and denominator below 2⁶⁰.

    Widths that have no such form are far from every deviation: then it is (0, 1).
    """
    exact = Fraction(repr(float(width))).limit_denominator(_MOST_DENOMINATOR)
    fits = exact.numerator < _MOST_DENOMINATOR
    return (exact.numerator, exact.denominator) if fits else (0, 1)
