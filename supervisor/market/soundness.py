"""What is refused in columns that were read: each check names the first row and the fix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supervisor.market.columns import BadCell, shown

_ROUNDING = 1e-6
"""Relative difference that float32 and arithmetic make."""
_MOST_DECIMALS = 6


def check_lengths(lengths: set[int]) -> None:
    """Refuse columns of unequal length, and fewer than two rows."""
    if len(lengths) > 1:
        raise BadCell(f"the columns differ in length: {sorted(lengths)}")
    (n_bars,) = lengths
    if n_bars == 0:
        raise BadCell("has no rows: at least 2 bars are needed")
    if n_bars == 1:
        raise BadCell("has one row only: at least 2 bars are needed")


def check_price(part: str, values: NDArray[np.float64]) -> None:
    """Refuse prices that are missing, infinite or not positive."""
    if values.min() > 0 and values.max() < np.inf:  # NaN fails both
        return
    row = int(np.flatnonzero(~((values > 0) & (values < np.inf)))[0])
    value = values[row]
    if np.isnan(value):
        raise BadCell(f"{part} is missing (empty or NaN): fill it in or delete the row", row)
    if np.isinf(value):
        raise BadCell(f"{part} is infinite: correct it or delete the row", row)
    raise BadCell(f"{part} is {value:g}: prices must be positive", row)


def check_volume(values: NDArray[np.float64]) -> None:
    """Refuse volumes that are missing, infinite or negative."""
    if values.min() >= 0 and values.max() < np.inf:
        return
    row = int(np.flatnonzero(~((values >= 0) & (values < np.inf)))[0])
    value = values[row]
    if np.isnan(value):
        raise BadCell("volume is missing (empty or NaN): fill it in or drop the column", row)
    raise BadCell(f"volume is {value:g}: it must be finite and not negative", row)


def check_range(high: NDArray[np.float64], low: NDArray[np.float64]) -> None:
    """Refuse highs below lows."""
    odd = high < low * (1 - _ROUNDING)
    if odd.any():
        row = int(np.argmax(odd))
        raise BadCell(f"high {high[row]:.15g} is below low {low[row]:.15g}: correct the row", row)


def check_holds_close(
    part: str,
    values: NDArray[np.float64],
    close: NDArray[np.float64],
    name: str,
    *,
    adjusted: bool,
) -> None:
    """Refuse highs below the close, and lows above it: breakouts would be computed wrongly.

    What rounding to the decimals of the column explains is accepted.

    Parameters
    ----------
    part : str
        ``high`` or ``low``.
    values : ndarray of float64, shape (n_bars,)
        Highs or lows.
    close : ndarray of float64, shape (n_bars,)
        Closes.
    name : str
        Column of the close.
    adjusted : bool
        Whether that is an adjusted close.
    """
    beyond = close - values if part == "high" else values - close
    if beyond.max() <= 0:
        return
    odd = beyond > np.maximum(_ROUNDING * close, _half_unit(values) * (1 + 1e-9))
    count = int(odd.sum())
    if not count:
        return
    row = int(np.argmax(odd))
    where = "below" if part == "high" else "above"
    rows = f"in {count:,} of {len(close):,} rows" if count > 1 else "in this row"
    fix = (
        f"{name} is adjusted and {part} is not: give the raw close too, and choose the adjusted "
        f"one with --columns close={shown(name)[1:-1]}, or leave high and low out with --columns "
        f"high={shown(name)[1:-1]},low={shown(name)[1:-1]}"
        if adjusted
        else f"correct the data, or take another column with --columns {part}=NAME"
    )
    raise BadCell(
        f"{part} {values[row]:.15g} is {where} the close {close[row]:.15g} {rows}: {fix}", row
    )


def _half_unit(values: NDArray[np.float64]) -> float:
    """Half of the last decimal that a column has; 0 where it has many."""
    for decimals in range(_MOST_DECIMALS + 1):
        scaled = values * 10**decimals
        if (np.abs(scaled - np.rint(scaled)) <= 1e-9 * np.abs(scaled)).all():
            return 0.5 / float(10**decimals)
    return 0.0


def check_order(time: NDArray[np.int64]) -> None:
    """Refuse times that do not ascend."""
    steps = np.diff(time)
    if steps.min() > 0:
        return
    row = int(np.argmax(steps <= 0)) + 1
    here, before = (str(time[at : at + 1].view("M8[ns]")[0]).partition(".")[0]
                    for at in (row, row - 1))  # fmt: skip
    if steps[row - 1] == 0:
        raise BadCell(f"time {here} occurs twice: remove one of the rows", row)
    back_s = int(-steps[row - 1]) // 10**9
    clock = " (if a clock was set back, write UTC or an offset)" if back_s <= 7200 else ""
    raise BadCell(f"time {here} comes after {before}: sort the rows by time{clock}", row)
