"""Lowest, highest and deepest fall of the closes from one bar to another, many at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workers.torch_backtest.stop import Poll
from workers.torch_backtest.tables import BLOCK, Spans, Tables


class _Spans:
    """:class:`workers.torch_backtest.tables.Spans` on the device, all levels in one row."""

    def __init__(self, spans: Spans, device: torch.device) -> None:
        self.n_levels, self.n = spans.low.shape
        self.low, self.high, self.fall = (
            torch.from_numpy(rows).to(device).view(-1)
            for rows in (spans.low, spans.high, spans.fall)
        )


class Ranges:
    """Questions about the closes on the bars from `start` to before `end`.

    Parameters
    ----------
    tables : Tables
    device : torch.device

    References
    ----------
    .. [1] M. A. Bender, M. Farach-Colton, "The LCA Problem Revisited", LATIN 2000, the sparse
       table for range minimum queries.
    """

    def __init__(self, tables: Tables, device: torch.device) -> None:
        self._bars = _Spans(tables.bars, device)
        self._blocks = _Spans(tables.blocks, device)
        # log2 of every number of bars or blocks that is looked up, rounded down; 0 for 0
        longest = max(self._blocks.n, BLOCK) + 1
        self._log2 = torch.tensor([max(k, 1).bit_length() - 1 for k in range(longest)]).to(device)
        self._nothing_lower = torch.tensor(torch.inf, dtype=torch.float64, device=device)
        self._nothing_higher = torch.tensor(0.0, dtype=torch.float64, device=device)

    def extremes(
        self, start: torch.Tensor, end: torch.Tensor, poll: Poll
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest close of each range; infinity and 0 where a range is empty.

        Any range is the union of two spans of up to 32 bars, at its start and at its end, and
        of two spans of whole blocks between [1]_. They may overlap.

        Parameters
        ----------
        start, end : tensor of int64, any shape
            Bars; `end` may be the number of bars.
        poll : Poll
            Called between operators.
        """
        first, last = _whole_blocks(start, end)
        low, high = self._two_spans(self._bars, start, end, end - start)
        poll()
        between_low, between_high = self._two_spans(self._blocks, first, last, last - first)
        poll()
        return torch.minimum(low, between_low), torch.maximum(high, between_high)

    def _two_spans(
        self, spans: _Spans, start: torch.Tensor, end: torch.Tensor, length: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Extremes of the longest span at the start and of that at the end of each range."""
        level = self._log2[length.clamp(0, (1 << (spans.n_levels - 1)))]
        row = level * spans.n
        left = row + start.clamp(max=spans.n - 1)
        right = row + (end - (1 << level)).clamp(min=0)
        some = length > 0
        low = torch.minimum(spans.low[left], spans.low[right])
        high = torch.maximum(spans.high[left], spans.high[right])
        return (
            torch.where(some, low, self._nothing_lower),
            torch.where(some, high, self._nothing_higher),
        )

    def falls(self, start: torch.Tensor, end: torch.Tensor, poll: Poll) -> torch.Tensor:
        """Deepest fall within each range: the lowest ratio of a close to a close before it.

        A range is cut into spans that do *not* overlap, one after the other: a close in one
        would otherwise be set against a later close in another.

        Parameters
        ----------
        start, end : tensor of int64, shape (n,)
            Ranges that are not empty.
        poll : Poll
            Called between operators.
        """
        first, last = _whole_blocks(start, end)
        no_block = first >= last
        head_end = torch.where(no_block, end, first * BLOCK)
        tail_start = torch.where(no_block, end, last * BLOCK)
        seen = _Seen(start)
        for spans, at, until in (
            (self._bars, start, head_end),
            (self._blocks, first, last),
            (self._bars, tail_start, end),
        ):
            self._walk(spans, at, until, seen.add, poll)
        return seen.fall

    def _walk(
        self,
        spans: _Spans,
        at: torch.Tensor,
        until: torch.Tensor,
        see: Callable[[torch.Tensor, _Spans, torch.Tensor], None],
        poll: Poll,
    ) -> None:
        """Show spans that join, from long ones to short ones, where a range has room for them."""
        for level in range(spans.n_levels - 1, -1, -1):
            poll()
            fits = until - at >= 1 << level
            see(fits, spans, level * spans.n + at.clamp(max=spans.n - 1))
            at = at + fits * (1 << level)


class _Seen:
    """Highest close and deepest fall so far, per range."""

    def __init__(self, ranges: torch.Tensor) -> None:
        self._high = torch.zeros_like(ranges, dtype=torch.float64)
        self.fall = torch.ones_like(self._high)

    def add(self, here: torch.Tensor, spans: _Spans, at: torch.Tensor) -> None:
        """Add one more span where `here` is true."""
        fall = torch.minimum(spans.fall[at], spans.low[at] / self._high)  # inf at first
        self.fall = torch.where(here, torch.minimum(self.fall, fall), self.fall)
        self._high = torch.where(here, torch.maximum(self._high, spans.high[at]), self._high)


def _whole_blocks(start: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First block that begins at `start` or later, and the block in which `end` lies."""
    return (start + (BLOCK - 1)) // BLOCK, end // BLOCK
