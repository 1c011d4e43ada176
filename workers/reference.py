"""The slow oracle: every built-in strategy, bar by bar, as its definition reads.

Nothing here is shared with the kernels, and nothing is clever: Python numbers,
one loop per definition, prices as exact decimals where ties could matter. Every
backend must agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Signal = list[bool]
"""One truth value per bar."""


class Bars(Protocol):
    """High, low and close, each of shape (n_bars,), and the bars in a year."""

    @property
    def high(self) -> NDArray[np.float64]: ...
    @property
    def low(self) -> NDArray[np.float64]: ...
    @property
    def close(self) -> NDArray[np.float64]: ...
    @property
    def bars_per_year(self) -> float: ...


_DIGITS = 50
"""Of what is a fraction that never ends."""

_ROUNDING = 1e-15
"""Per-bar returns that differ by less differ by the rounding of this loop alone."""


def backtest(
    strategy_name: str, bars: Bars, params: Mapping[str, float], fee: float = 0.0005
) -> dict[str, float]:
    """Backtest one combination.

    Parameters
    ----------
    strategy_name : str
        One of :data:`workers.catalog.STRATEGIES`.
    bars : Bars
        What to trade.
    params : mapping of str to number
        The strategy's parameters.
    fee : float, optional
        Fraction of the traded value that each fill costs.

    Returns
    -------
    dict of str to float
        As :func:`account` returns.
    """
    enter, leave = SIGNALS[strategy_name](bars, **params)
    return account(bars.close.tolist(), enter, leave, fee, bars.bars_per_year)


def account(
    close: list[float], enter: Signal, leave: Signal, fee: float, bars_per_year: float
) -> dict[str, float]:
    """Trade the signals with all the money and measure the result.

    Signals fill at the same bar's close. While flat only `enter` counts, while
    holding only `leave`. An open position is marked at the last close.

    Returns
    -------
    dict of str to float
        ``total_return``; ``sharpe``, mean over standard deviation (ddof 1) of
        the per-bar returns times √(bars per year), NaN where these do not
        vary; ``max_drawdown`` ≤ 0; ``trades``, the number of entries;
        ``exposure``, the share of bars that close with a position.

    References
    ----------
    .. [1] W. F. Sharpe, "The Sharpe Ratio", Journal of Portfolio Management
       21 (1994), with a risk-free return of zero.
    """
    cash, units, trades, held = 1.0, 0.0, 0, 0
    equity = []
    for price, entering, leaving in zip(close, enter, leave, strict=True):
        if units == 0.0 and entering:
            units, cash = cash / (1.0 + fee) / price, 0.0
            trades += 1
        elif units > 0.0 and leaving:
            units, cash = 0.0, units * price * (1.0 - fee)
        held += units > 0.0
        equity.append(cash + units * price)

    returns, worst, peak = [], 0.0, 1.0
    for before, after in pairwise([1.0, *equity]):
        returns.append(after / before - 1.0)
        peak = max(peak, after)
        worst = min(worst, after / peak - 1.0)
    n = len(returns)
    mean = math.fsum(returns) / n
    spread = math.fsum((r - mean) ** 2 for r in returns)
    return {
        "total_return": equity[-1] - 1.0,
        "sharpe": mean / math.sqrt(spread / (n - 1)) * math.sqrt(bars_per_year)
        if spread > n * _ROUNDING**2
        else math.nan,
        "max_drawdown": worst,
        "trades": float(trades),
        "exposure": held / n,
    }


def sma_cross(bars: Bars, fast: int, slow: int) -> tuple[Signal, Signal]:
    """Long while SMA(fast) > SMA(slow) and both exist; ties are decided exactly."""
    prices = _whole_numbers(bars.close)
    short, long = _window_sums(prices, fast), _window_sums(prices, slow)
    enter = [
        a is not None and b is not None and a * slow > b * fast
        for a, b in zip(short, long, strict=True)
    ]
    return enter, [not above for above in enter]


def bollinger_reversion(bars: Bars, window: int, width: float) -> tuple[Signal, Signal]:
    """Buy when the close is below the lower band, sell when it is above the average.

    The bands lie `width` population standard deviations (ddof 0) from the
    simple average of the closes.

    References
    ----------
    .. [1] J. Bollinger, "Bollinger on Bollinger Bands", McGraw-Hill 2001: the
       population formula, 20 bars and 2 deviations as the usual choice.
    """
    prices = _whole_numbers(bars.close)
    sums = _window_sums(prices, window)
    squares = _window_sums([price * price for price in prices], window)
    factor = Fraction(str(width)) ** 2
    enter, leave = [], []
    for price, total, total_squares in zip(prices, sums, squares, strict=True):
        if total is None or total_squares is None:
            enter.append(False)
            leave.append(False)
            continue
        # price < mean - width * std, squared and without a root, so exactly
        distance = window * price - total
        variance = window * total_squares - total * total
        beyond = distance**2 * factor.denominator > factor.numerator * variance
        enter.append(distance < 0 and beyond)
        leave.append(distance > 0)
    return enter, leave


def rsi_reversion(bars: Bars, window: int, lower: float, upper: float) -> tuple[Signal, Signal]:
    """Buy when the RSI is below `lower`, sell when it is above `upper`.

    The first averages of gains and losses are plain ones over the first
    `window` changes; later ones are Wilder's, ``(previous · (window − 1) +
    new) / window``. Where nothing has moved at all the RSI is 50.

    References
    ----------
    .. [1] J. W. Wilder, "New Concepts in Technical Trading Systems", Trend
       Research 1978, section VI.
    """
    close = [Decimal(price) for price in _whole_numbers(bars.close)]
    enter, leave = [False] * len(close), [False] * len(close)
    gain = loss = Decimal(0)
    with localcontext(prec=_DIGITS):
        for bar, (before, after) in enumerate(pairwise(close), start=1):
            up, down = max(after - before, Decimal(0)), max(before - after, Decimal(0))
            if bar <= window:
                gain, loss = gain + up, loss + down
                if bar < window:
                    continue
                gain, loss = gain / window, loss / window
            else:
                gain = (gain * (window - 1) + up) / window
                loss = (loss * (window - 1) + down) / window
            rsi = 100 * gain / (gain + loss) if gain + loss > 0 else Decimal(50)
            rsi = round(rsi, _DIGITS - 10)  # averages that never end in decimals tie, too
            enter[bar], leave[bar] = rsi < _decimal(lower), rsi > _decimal(upper)
    return enter, leave


def donchian_breakout(bars: Bars, entry: int, exit: int) -> tuple[Signal, Signal]:
    """Buy above the highest high of the last `entry` bars, sell below the lowest low of `exit`.

    The bar itself does not count among the last ones.

    References
    ----------
    .. [1] R. D. Donchian, "High Finance in Copper", Financial Analysts
       Journal 16 (1960), the "four-week rule"; with a shorter exit channel as
       in the Turtle rules, C. Faith, "Way of the Turtle", McGraw-Hill 2007.
    """
    high, low, close = bars.high.tolist(), bars.low.tolist(), bars.close.tolist()
    enter, leave = [], []
    for bar, price in enumerate(close):
        enter.append(bar >= entry and price > max(high[bar - entry : bar]))
        leave.append(bar >= exit and price < min(low[bar - exit : bar]))
    return enter, leave


SIGNALS: Mapping[str, Callable[..., tuple[Signal, Signal]]] = {
    "sma_cross": sma_cross,
    "bollinger_reversion": bollinger_reversion,
    "rsi_reversion": rsi_reversion,
    "donchian_breakout": donchian_breakout,
}
"""Entry and exit signals of each strategy."""


def _decimal(number: float) -> Decimal:
    """The decimal that was written."""
    return Decimal(repr(float(number)))


def _whole_numbers(prices: NDArray[np.float64]) -> list[int]:
    """The decimals that were written in the file, in units of the last digit of any.

    Prices with more than 12 decimals, or 15 digits, were not written as decimals but computed:
    then each is the binary number that it is.
    """
    written = [Decimal(repr(price)) for price in prices.tolist()]
    decimals = max(0, *(-int(price.normalize().as_tuple().exponent) for price in written))
    if decimals <= 12 and max(written) * 10**decimals < 2**53:
        return [int(price * 10**decimals) for price in written]
    exact = [Fraction(price) for price in prices.tolist()]
    unit = math.lcm(*(price.denominator for price in exact))
    return [int(price * unit) for price in exact]


def _window_sums(values: list[int], window: int) -> list[int | None]:
    """Sum of the `window` values up to and including each; None where there are fewer."""
    sums = [0, *accumulate(values)]
    return [
        sums[end] - sums[end - window] if end >= window else None
        for end in range(1, len(values) + 1)
    ]
