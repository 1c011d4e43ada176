"""The strategies: which bars a batch of combinations enters and leaves on.

Decisions equal those of :mod:`workers.reference`: comparisons are of exact sums, of prices
themselves, or of curves that are computed in the reference's order. What does not exist is
NaN, which compares false with everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from workers.indicators.exact import RSI_TIE, SLACK, ExactPrices
from workers.torch_backtest import curves
from workers.torch_backtest.inputs import Averages, Channels, Inputs, Prices
from workers.torch_backtest.stop import Poll

Values = Mapping[str, NDArray[np.generic]]
"""A value per combination for each parameter, each of shape (n_combinations,)."""

_CURVES_BYTES = 128 << 20
"""Curves that a worker keeps. In a grid whose first axis is the window, one would do."""


class Signals(Protocol):
    """A strategy on one device."""

    def signals(self, values: Values, poll: Poll) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell on which bars to enter and to leave.

        Parameters
        ----------
        values : mapping of str to ndarray, shape (n_combinations,)
            The combinations' parameters.
        poll : Poll
            Called between operators.

        Returns
        -------
        enter, leave : tensor of bool, shape (n_combinations, n_bars)
            Never both true on one bar.
        """
        ...

    def forget(self) -> None:
        """Drop what is kept between batches, for want of memory."""
        ...


class SmaCross:
    """Long while SMA(fast) > SMA(slow); multiplied out, so that ties are ties."""

    def __init__(self, inputs: Averages, device: torch.device) -> None:
        sums = torch.from_numpy(inputs.sums).to(device)
        self._until = sums[inputs.front + 1 :]
        self._ago = _Shifted(sums[None], 1, inputs.front)

    def signals(self, values: Values, poll: Poll) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Signals`."""
        fast, slow = values["fast"].astype(np.int64), values["slow"].astype(np.int64)
        above = self._sums(fast, poll).mul_(self._column(slow))
        poll()
        above = above > self._sums(slow, poll).mul_(self._column(fast))
        poll()
        return above, ~above

    def _sums(self, window: NDArray[np.int64], poll: Poll) -> torch.Tensor:
        """Sums of the closes in a window up to each bar."""
        ago = self._ago.rows(np.zeros_like(window), window)
        poll()
        return torch.sub(self._until, ago, out=ago)

    def _column(self, values: NDArray[np.int64]) -> torch.Tensor:
        column = torch.from_numpy(values.astype(np.float64)[:, None])
        return column.to(self._until.device)

    def forget(self) -> None:
        """Nothing is kept."""


class DonchianBreakout:
    """Buy above the highest high of the bars before, sell below the lowest low."""

    def __init__(self, inputs: Channels, device: torch.device) -> None:
        close = torch.from_numpy(inputs.close).to(device)
        self._close = {"entry": close, "exit": -close}
        self._highest = {
            name: _Shifted(torch.from_numpy(rows).to(device), 0, inputs.front[name])
            for name, rows in (("entry", inputs.highs), ("exit", inputs.negated_lows))
        }

    def signals(self, values: Values, poll: Poll) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Signals`."""
        return self._beyond("entry", values, poll), self._beyond("exit", values, poll)

    def _beyond(self, name: str, values: Values, poll: Poll) -> torch.Tensor:
        """Bars whose close lies above all of the bars in the window before."""
        highest = self._highest[name]
        window = np.minimum(values[name].astype(np.int64), highest.front)
        # of the longest span that fits
        level = np.frexp(window.astype(np.float64))[1].astype(np.int64) - 1
        since = highest.rows(level, window)
        poll()
        until = highest.rows(level, 1 << level)
        poll()
        torch.maximum(since, until, out=since)
        poll()
        beyond: torch.Tensor = self._close[name] > since
        poll()
        return beyond

    def forget(self) -> None:
        """Nothing is kept."""


_Curve = Callable[[int, Poll], NDArray[np.float64]]
"""A curve of a window's length."""


class _Curves:
    """Curves of one indicator, a window each; as many are kept as a budget allows."""

    def __init__(self, curve: _Curve, n_bars: int, device: torch.device) -> None:
        self._curve = curve
        self._device = device
        self._kept: dict[int, torch.Tensor] = {}
        self._most = max(1, _CURVES_BYTES // (8 * n_bars))

    def rows(self, window: NDArray[np.generic], poll: Poll) -> torch.Tensor:
        """A row per window, float64, shape (n_combinations, n_bars)."""
        rows = {w: self._row(w, poll) for w in dict.fromkeys(window.tolist())}
        return torch.stack([rows[w] for w in window.tolist()])

    def _row(self, window: int, poll: Poll) -> torch.Tensor:
        kept = self._kept.get(window)
        if kept is not None:
            return kept
        row = torch.from_numpy(self._curve(window, poll)).to(self._device)
        poll()
        if len(self._kept) >= self._most:
            # the latest: where the window is not the grid's first axis, all windows come round
            # in turn, and whichever is dropped should be the one that is needed last
            self._kept.popitem()
        self._kept[window] = row
        return row

    def forget(self) -> None:
        self._kept.clear()


class RsiReversion:
    """Buy when the RSI is below `lower`, sell when it is above `upper`."""

    def __init__(self, inputs: Prices, device: torch.device) -> None:
        curve = partial(curves.rsi, inputs.prices)
        self._curves = _Curves(curve, len(inputs.prices), device)

    def signals(self, values: Values, poll: Poll) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Signals`."""
        rsi = self._curves.rows(values["window"], poll)
        poll()
        lower, upper = (
            torch.from_numpy(values[name].astype(np.float64)[:, None]).to(rsi.device)
            for name in ("lower", "upper")
        )
        enter = rsi < lower - RSI_TIE
        poll()
        return enter, rsi > upper + RSI_TIE

    def forget(self) -> None:
        """Drop the curves."""
        self._curves.forget()


class BollingerReversion:
    """Buy more than `width` deviations below the average, sell above it."""

    def __init__(self, inputs: ExactPrices, device: torch.device) -> None:
        self._exactly = curves.Deviations(inputs)
        self._curves = _Curves(self._exactly.curve, len(inputs.whole), device)

    def signals(self, values: Values, poll: Poll) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`Signals`."""
        deviations = self._curves.rows(values["window"], poll)
        poll()
        width = torch.from_numpy(values["width"].astype(np.float64)[:, None])
        width = width.to(deviations.device)
        enter = deviations < -width * (1.0 + SLACK)
        poll()
        unclear = (deviations < -width * (1.0 - SLACK)) & ~enter
        poll()
        for c in unclear.any(dim=1).nonzero()[:, 0].tolist():
            bars = unclear[c].nonzero()[:, 0]
            window, of_width = int(values["window"][c]), float(values["width"][c])
            below = self._exactly.below_band(bars.cpu().numpy(), window, of_width, poll)
            enter[c, bars] = torch.from_numpy(below).to(enter.device)
        poll()
        return enter, deviations > 0.0

    def forget(self) -> None:
        """Drop the curves."""
        self._curves.forget()


class _Shifted:
    """Rows of a table as they were some bars ago.

    Parameters
    ----------
    table : tensor of float64, shape (n_rows, front + after + n_bars)
    after : int
        Elements of a row that are skipped between its front and what belongs to the first bar.
    front : int
        Elements of a row that lie before its first one, NaN.
    """

    def __init__(self, table: torch.Tensor, after: int, front: int) -> None:
        self.front = front
        self._table = table
        self._first = front + after
        self._n_bars = table.shape[1] - self._first

    def rows(self, row: NDArray[np.int64], by: NDArray[np.int64]) -> torch.Tensor:
        """Element ``[c, bar]``: what row ``row[c]`` says of the bar ``by[c]`` bars before."""
        # further back than the front is where the front is as long as the series: all is NaN
        start = self._first - np.minimum(by, self._first)
        return torch.stack(
            [
                self._table[r, s : s + self._n_bars]
                for r, s in zip(row.tolist(), start.tolist(), strict=True)
            ]
        )


def make_signals(strategy_name: str, inputs: Inputs, device: torch.device) -> Signals:
    """Build a built-in strategy on a device, from what its entry in ``INPUTS`` computed."""
    return cast("Signals", _CLASSES[strategy_name](inputs, device))


_CLASSES = {
    "sma_cross": SmaCross,
    "bollinger_reversion": BollingerReversion,
    "rsi_reversion": RsiReversion,
    "donchian_breakout": DonchianBreakout,
}
