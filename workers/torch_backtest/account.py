"""From positions to results, a row per combination.

Only elementwise operators, gathers, minima, maxima, sums of integers and running products in
a fixed order: no result depends on the device, on how operators are scheduled, or on the rest
of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.torch_backtest.positions import Positions
from workers.torch_backtest.ranges import Ranges
from workers.torch_backtest.stop import Poll
from workers.torch_backtest.tables import Tables

_ROUNDING = 1e-15
"""Per-bar returns that differ by less differ by rounding alone, as in the reference."""


class Market:
    """The tables on the device.

    Parameters
    ----------
    tables : Tables
    device : torch.device
        On the CPU the tables' memory is used as it is, shared between workers.
    """

    def __init__(self, tables: Tables, device: torch.device) -> None:
        self.tables = tables
        self.cost, self.received, self.entry_sums, self.exit_sums = (
            torch.from_numpy(table).to(device)
            for table in (tables.cost, tables.received, tables.entry_sums, tables.exit_sums)
        )
        self.entry_squares, self.exit_squares = (
            torch.from_numpy(table).to(device)
            for table in (tables.entry_squares, tables.exit_squares)
        )
        self.ranges = Ranges(tables, device)


@dataclass(frozen=True)
class _Equity:
    """Equity through a row of positions, from 1.

    Attributes
    ----------
    units : tensor of float64, shape (n_combinations, n_positions)
        Held in each position.
    after : tensor of float64, shape (n_combinations, n_positions)
        Equity after each exit; after the last bar for a position that is not closed.
    """

    units: torch.Tensor
    after: torch.Tensor


def account(market: Market, held: Positions, poll: Poll) -> NDArray[np.float64]:
    """Trade the positions with all the money and measure the result.

    Parameters
    ----------
    market : Market
        The tables on the device.
    held : Positions
        A batch's positions, on the same device.
    poll : Poll
        Called between operators.

    Returns
    -------
    ndarray of float64, shape (n_combinations, 5)
        Columns as in :data:`workers.catalog.COLUMNS`.
    """
    equity = _equity(market, held, poll)
    worst = _deepest_fall(market, held, equity, poll)
    sums = (market.exit_sums[held.exit] - market.entry_sums[held.entry]).sum(1)
    poll()
    squares = (market.exit_squares[held.exit] - market.entry_squares[held.entry]).sum(1)
    poll()
    bars = (held.exit - held.entry).sum(1)
    counts = torch.stack([sums, squares, bars, held.opened, held.closed]).cpu().numpy()
    amounts = torch.stack([_final(held, equity), worst]).cpu().numpy()
    return finish(market.tables, counts, amounts)


def _final(held: Positions, equity: _Equity) -> torch.Tensor:
    """Equity after the last real position of each row: beyond, rounding depends on the batch."""
    last = (held.opened - 1).clamp(min=0)  # with none, the first, which changes nothing
    return equity.after.gather(1, last[:, None]).squeeze(1)


def _equity(market: Market, held: Positions, poll: Poll) -> _Equity:
    cost = market.cost[held.entry]
    poll()
    growth = market.received[held.exit] / cost
    poll()
    after = running_products(growth, poll)
    before = torch.ones_like(after)
    before[:, 1:] = after[:, :-1]
    return _Equity(before / cost, after)


def running_products(values: torch.Tensor, poll: Poll) -> torch.Tensor:
    """Product of each row's elements up to each one.

    ``cumprod`` would multiply in an order that on a GPU depends on the shape of the whole
    batch. Here element `i` is multiplied in an order that depends on `i` alone [1]_.

    References
    ----------
    .. [1] W. D. Hillis, G. L. Steele, "Data Parallel Algorithms", Communications of the ACM
       29 (1986).
    """
    products = values
    reach = 1
    while reach < values.shape[1]:
        longer = products.clone()
        longer[:, reach:] *= products[:, :-reach]
        products = longer
        reach *= 2
        poll()
    return products


def _deepest_fall(market: Market, held: Positions, equity: _Equity, poll: Poll) -> torch.Tensor:
    """Lowest ratio of equity to a higher equity before it, per combination; at most 1.

    Within a position the lowest equity is set against the highest one *before* the position,
    and the position's own prices against each other. The latter is more work, and done only
    where the range of the prices is wide enough to matter.
    """
    low, high = market.ranges.extremes(held.entry, held.exit, poll)
    highest = equity.units * high
    poll()
    peak = torch.ones_like(equity.after)  # before each position
    peak[:, 1:] = torch.maximum(highest, equity.after).cummax(1).values[:, :-1].clamp(min=1.0)
    poll()
    ratio = torch.minimum(equity.units * low / peak, equity.after / torch.maximum(peak, highest))
    poll()
    count = torch.arange(ratio.shape[1], device=ratio.device)
    ratio.masked_fill_(count >= held.opened[:, None], 1.0)  # these are there to fill
    worst = ratio.amin(1).clamp(max=1.0)
    poll()
    row, place = (low / high < worst[:, None]).nonzero(as_tuple=True)
    if len(row):
        falls = market.ranges.falls(held.entry[row, place], held.exit[row, place], poll)
        worst.scatter_reduce_(0, row, falls, "amin")
    return worst


def finish(
    tables: Tables, counts: NDArray[np.int64], amounts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn what was counted into rows.

    Parameters
    ----------
    tables : Tables
        Where the units, the fee and the number of bars are.
    counts : ndarray of int64, shape (5, n_combinations)
        Returns and squared returns from the tables, bars held, positions opened and closed.
    amounts : ndarray of float64, shape (2, n_combinations)
        Final equity, and the deepest fall as a ratio.

    Returns
    -------
    ndarray of float64, shape (n_combinations, 5)
    """
    sums, squares, bars, opened, closed = counts
    n, fee = tables.n_bars, tables.fee
    at_entry = fee / (1.0 + fee)
    total = sums * tables.sum_unit - (opened * at_entry + closed * fee)
    spread = squares * tables.square_unit + (opened * at_entry**2 + closed * fee**2)
    mean = total / n
    spread -= n * mean * mean
    rows = np.full((len(sums), 5), np.nan)
    rows[:, 0] = amounts[0] - 1.0
    varies = (spread > n * _ROUNDING**2) & (n > 1)
    deviation = np.sqrt(spread[varies] / max(n - 1, 1))
    rows[varies, 1] = mean[varies] / deviation * np.sqrt(tables.bars_per_year)
    rows[:, 2] = amounts[1] - 1.0
    rows[:, 3] = opened
    rows[:, 4] = bars / n
    return rows
