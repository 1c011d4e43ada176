"""From signals to positions: which bars a combination buys and sells on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.torch_backtest.stop import Poll


@dataclass(frozen=True)
class Positions:
    """The positions of a batch, a row per combination, in order of time.

    Rows are as long as the longest one; the others are filled up with positions that open and
    close at bar ``n_bars``, which exists in no series and stands for "after the last bar".

    Attributes
    ----------
    entry, exit : tensor of int64, shape (n_combinations, n_positions)
        Bars on whose close a position is opened and closed. A last position that is never
        closed has the exit ``n_bars``. At least one position per row.
    opened, closed : tensor of int64, shape (n_combinations,)
        How many are real, and how many of these are closed.
    """

    entry: torch.Tensor
    exit: torch.Tensor
    opened: torch.Tensor
    closed: torch.Tensor


def positions(enter: torch.Tensor, leave: torch.Tensor, poll: Poll) -> Positions:
    """Follow the signals: while flat only `enter` counts, while holding only `leave`.

    Parameters
    ----------
    enter, leave : tensor of bool, shape (n_combinations, n_bars)
        Never both true on one bar, so the last signal tells whether a position is held.
    poll : Poll
        Called between operators.
    """
    n_combinations, n_bars = enter.shape
    changes = _changes(enter, leave, poll)
    poll()
    rows = torch.arange(n_combinations + 1, device=enter.device) * n_bars
    first = torch.searchsorted(changes, rows)  # of each row, among all changes
    count = first[1:] - first[:-1]
    width = 2 * max(1, (int(count.max()) + 1) // 2)
    poll()
    row = changes // n_bars
    bars = torch.full((n_combinations, width), n_bars, device=enter.device)
    place = torch.arange(len(changes), device=enter.device) - first[row]
    bars.view(-1)[row * width + place] = changes - row * n_bars
    poll()
    return Positions(
        bars[:, 0::2].contiguous(), bars[:, 1::2].contiguous(), (count + 1) // 2, count // 2
    )


def _changes(enter: torch.Tensor, leave: torch.Tensor, poll: Poll) -> torch.Tensor:
    """Places at which a position is opened or closed, alternately within a row.

    Returns
    -------
    tensor of int64, shape (n_changes,)
        ``combination * n_bars + bar``, ascending.
    """
    n_bars = enter.shape[1]
    signals = _starts(enter)
    signals |= _starts(leave)
    poll()
    places = signals.view(-1).nonzero().squeeze(1)
    poll()
    holds = enter.reshape(-1)[places]
    held = torch.zeros_like(holds)  # nothing is, before the first signal of a row
    row = places // n_bars
    held[1:] = holds[:-1] & (row[1:] == row[:-1])
    return places[holds != held]


def _starts(signal: torch.Tensor) -> torch.Tensor:
    """First bars of each stretch on which a signal is true; the others change nothing."""
    starts = signal.clone()
    starts[:, 1:] &= ~signal[:, :-1]
    return starts
