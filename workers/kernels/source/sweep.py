"""The sweep itself: time in tiles, all combinations of a batch through each.

A strategy yields signals: a bit per bar for "enter" and one for "leave", 64 bars
to a word. The accounting, common to all, jumps from set bit to set bit and works
only where the position changes.
"""

from __future__ import annotations

import math

from workers.kernels.blocks import TILE, TILE_BARS, WORD
from workers.kernels.compiler import helper
from workers.kernels.scratch import (
    ENTRIES,
    HELD_BARS,
    LOWEST,
    PEAK,
    SQUARES,
    SUM,
    UNITS,
    VALUE,
    WORST,
)
from workers.kernels.source.lanes import (
    average_greater,
    greater,
    highest_bit,
    lowest_bit,
    nonzero,
    prefetch,
)
from workers.poll import stop_requested

_AHEAD = 2
"""Combinations from now for which memory is asked: half a microsecond each in a tile, and an
answer takes a fifth of one. The next one's alone would do, less surely."""

_ALL = -1  # a word with every bit set
_FEW = -2  # the same without bit 0: shifted left by k, the bits after k


def sweep_average_crosses(  # type: ignore[no-untyped-def]
    line, tables, scratch, sums, front, extremes, fast, slow, fast_at, slow_at, rows
):
    """Backtest long-while-SMA(fast)-above-SMA(slow) for a batch of combinations.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag, polled once per combination and tile (≤ 4,096 bars).
    tables : PrefixTables
        Tables over the bars.
    scratch : Scratch
        From :func:`workers.kernels.scratch.make_scratch`, for as many combinations.
    sums : ndarray of float64, shape (front + n_tiles * 4096 + 1,)
        Running sums of the closes after `front` zeros, see :func:`average_greater`.
    front : int
        Index in `sums` at which the bars start; at least 63.
    extremes : ndarray of float64
        Per window, the lowest average in each block, then the highest;
        ``n_tiles * 64`` each.
    fast, slow : ndarray of int64, shape (n,)
        The combinations: ``fast < slow``.
    fast_at, slow_at : ndarray of int64, shape (n,)
        Where each one's windows start in `extremes`.
    rows : ndarray of float64, shape (n, 5)
        Output, columns as in :data:`workers.catalog.COLUMNS`.

    Returns
    -------
    bool
        False when a stop was requested: `rows` is then unfinished.
    """
    close, entries, exits, spans, falls, tiles, fees, units, bars_per_year = tables
    n_bars, n_tiles = len(close), len(tiles)
    high = n_tiles * TILE  # from a window's lows to its highs
    state, enter, leave = scratch
    for tile in range(n_tiles):
        block = tile * TILE
        first_bar = tile * TILE_BARS
        end_bar = min(first_bar + TILE_BARS, n_bars)
        for c in range(len(fast)):
            if stop_requested(line):
                return False
            since = slow[c] - 1  # the first bar on which both averages exist
            if since >= end_bar:
                continue
            later = slow_at[min(c + _AHEAD, len(fast) - 1)] + block
            prefetch(extremes, later)
            prefetch(extremes, later + high)
            # Whole blocks at once: does one average's range lie above the other's?
            f, s = fast_at[c] + block, slow_at[c] + block
            above = greater(extremes, f, extremes, s + high)
            below = greater(extremes, s, extremes, f + high)
            for b in range(TILE):
                enter[b] = -((above >> b) & 1)
            # Bar by bar only where the ranges overlap, and not before they exist:
            # that would read before the start of `sums`.
            unclear = ~(above | below)
            if since > first_bar:
                unclear &= _ALL << ((since - first_bar) // WORD)
            while unclear != 0:
                b = lowest_bit(unclear)
                unclear &= unclear - 1
                start = first_bar + b * WORD
                if start >= end_bar:
                    break
                enter[b] = average_greater(sums, front + start + 1, fast[c], slow[c])
            _forget_before(enter, since - first_bar)
            for b in range(TILE):
                leave[b] = ~enter[b]
            _account(
                close, entries, exits, spans, falls, tiles, fees,
                tile, enter, 0, leave, 0, state, c,
            )  # fmt: skip
    for c in range(len(fast)):
        _finish(close, units, bars_per_year, state, c, rows)
    return True


def sweep_signals(  # type: ignore[no-untyped-def]
    line, tables, scratch, enter, leave, enter_at, leave_at, rows
):
    """Backtest a batch of combinations whose entry and exit signals are known.

    Parameters
    ----------
    line, tables, scratch, rows
        As for :func:`sweep_average_crosses`, as is what is returned.
    enter, leave : ndarray of int64
        Signals of ``n_tiles * 64`` words each, a block per word, a bar per bit.
    enter_at, leave_at : ndarray of int64, shape (n,)
        Where each combination's signals start in `enter` and `leave`.
    """
    close, entries, exits, spans, falls, tiles, fees, units, bars_per_year = tables
    state = scratch.state
    for tile in range(len(tiles)):
        block = tile * TILE
        for c in range(len(enter_at)):
            if stop_requested(line):
                return False
            later = min(c + _AHEAD, len(enter_at) - 1)
            prefetch(enter, enter_at[later] + block)
            prefetch(leave, leave_at[later] + block)
            _account(
                close, entries, exits, spans, falls, tiles, fees,
                tile, enter, enter_at[c] + block, leave, leave_at[c] + block, state, c,
            )  # fmt: skip
    for c in range(len(enter_at)):
        _finish(close, units, bars_per_year, state, c, rows)
    return True


@helper
def _forget_before(words, bar):  # type: ignore[no-untyped-def]
    """Clear the bits of all bars before `bar`, counted from the tile's first."""
    if bar > 0:
        for b in range(bar // WORD):
            words[b] = 0
        words[bar // WORD] &= _ALL << (bar % WORD)


@helper
def _account(  # type: ignore[no-untyped-def]
    close, entries, exits, spans, falls, tiles, fees,
    tile, enter, enter_at, leave, leave_at, state, c,
):  # fmt: skip
    """Carry one combination through one tile, touching only bars where it trades.

    Enters at the close of a bar whose `enter` bit is set while flat, leaves at
    the close of a bar whose `leave` bit is set while holding.
    """
    units, value = state[c, UNITS], state[c, VALUE]
    peak, lowest, worst = state[c, PEAK], state[c, LOWEST], state[c, WORST]
    first_bar = tile * TILE_BARS
    end_bar = min(first_bar + TILE_BARS, len(close))
    some_enter, some_leave = nonzero(enter, enter_at), nonzero(leave, leave_at)
    # A position carried over counts as opened just before the tile.
    opened, sum_before, squares_before = first_bar, 0, 0
    holding = units > 0.0
    bar = first_bar - 1
    while True:
        if not holding:
            bar = first_bar + _next_bit(enter, enter_at, some_enter, bar + 1 - first_bar)
            if bar >= end_bar:
                break
            holding, opened = True, bar
            units = value * fees.entry_factor / close[bar]
            sum_before, squares_before = entries[bar].sum, entries[bar].squares
            state[c, ENTRIES] += 1.0
        bar = first_bar + _next_bit(leave, leave_at, some_leave, bar + 1 - first_bar)
        until = min(bar, end_bar)
        low, high = _extremes(entries, exits, spans, len(falls), opened, until)
        if (
            units * high > peak
            or (units * low < lowest and opened // WORD == until // WORD)
            or (low < worst * high and low * peak < lowest * high)
        ):
            peak, lowest, worst = _hold(
                close, entries, exits, spans, falls, opened, until, units, peak, lowest, worst
            )
        else:
            lowest = min(lowest, units * low)
        state[c, HELD_BARS] += until - opened
        if bar >= end_bar:
            state[c, SUM] += tiles[tile].sum - sum_before
            state[c, SQUARES] += tiles[tile].squares - squares_before
            break
        holding = False
        value = units * close[bar] * fees.exit_factor
        peak, lowest, worst = _see(value, value, peak, lowest, worst)
        state[c, SUM] += exits[bar].sum - sum_before
        state[c, SQUARES] += exits[bar].squares - squares_before
    state[c, UNITS] = units if holding else 0.0
    state[c, VALUE] = value
    state[c, PEAK], state[c, LOWEST], state[c, WORST] = peak, lowest, worst


@helper
def _next_bit(words, at, some, start):  # type: ignore[no-untyped-def]
    """Index of the first set bit from `start` on, ``TILE_BARS`` if there is none.

    `some` tells which of the 64 words from `at` on have a bit set.
    """
    if start >= TILE_BARS:
        return TILE_BARS
    block = start // WORD
    word = words[at + block] & (_ALL << (start % WORD))
    if word == 0:
        some &= _FEW << block
        if some == 0:
            return TILE_BARS
        block = lowest_bit(some)
        word = words[at + block]
    return block * WORD + lowest_bit(word)


@helper
def _extremes(entries, exits, spans, n_blocks, start, end):  # type: ignore[no-untyped-def]
    """Lowest and highest close on the bars from `start` to before `end`, without a branch.

    Exact over several blocks. Within one block they are merely bounds: the
    bars up to the block's end and those from its start both include ours.
    """
    first, last = start // WORD, end // WORD
    between = last - first - 1  # whole blocks
    level = highest_bit(between | 1) if between > 0 else 0
    left = level * n_blocks + min(first + 1, n_blocks - 1)
    right = level * n_blocks + max(last - (1 << level), 0)
    low, high = min(spans[left].low, spans[right].low), max(spans[left].high, spans[right].high)
    low, high = (low, high) if between > 0 else (math.inf, 0.0)
    low_since, high_since = entries[start].low, entries[start].high
    low_until, high_until = exits[end].low, exits[end].high
    if first == last:
        return max(low_since, low_until), min(high_since, high_until)
    return min(low, low_since, low_until), max(high, high_since, high_until)


@helper
def _hold(  # type: ignore[no-untyped-def]
    close, entries, exits, spans, falls, start, end, units, peak, lowest, worst
):
    """Equity's extremes after holding `units` on the bars from `start` to before `end`.

    Called where extremes alone do not tell: at a new peak, or if the deepest
    fall so far may be inside. Block by block, and bar by bar only in blocks
    that could matter.
    """
    first, last = start // WORD, end // WORD
    if first == last:
        return _walk(close, start, end, units, peak, lowest, worst)
    low, high = entries[start].low, entries[start].high
    for b in range(first, last):
        if b > first:
            low, high = spans[b].low, spans[b].high
        if _may_matter(falls[b], peak, lowest, worst):
            since = max(start, b * WORD)
            peak, lowest, worst = _walk(close, since, (b + 1) * WORD, units, peak, lowest, worst)
        else:
            peak, lowest, worst = _see(units * low, units * high, peak, lowest, worst)
    if end % WORD != 0:
        if _may_matter(falls[last], peak, lowest, worst):
            return _walk(close, last * WORD, end, units, peak, lowest, worst)
        low, high = exits[end].low, exits[end].high
        peak, lowest, worst = _see(units * low, units * high, peak, lowest, worst)
    return peak, lowest, worst


@helper
def _may_matter(fall, peak, lowest, worst):  # type: ignore[no-untyped-def]
    """Whether a fall to this ratio would be the deepest so far."""
    return fall < worst and fall * peak < lowest


@helper
def _see(low, high, peak, lowest, worst):  # type: ignore[no-untyped-def]
    """Account for equity between `low` and `high` with no deeper fall in between."""
    lowest = min(lowest, low)
    if high > peak:
        return high, high, min(worst, lowest / peak)
    return peak, lowest, worst


@helper
def _walk(close, start, end, units, peak, lowest, worst):  # type: ignore[no-untyped-def]
    """Account for equity bar by bar."""
    for bar in range(start, end):
        equity = units * close[bar]
        peak, lowest, worst = _see(equity, equity, peak, lowest, worst)
    return peak, lowest, worst


@helper
def _finish(close, units, bars_per_year, state, c, rows):  # type: ignore[no-untyped-def]
    """Turn a combination's final state into its row."""
    n = len(close)
    value = state[c, VALUE]
    if state[c, UNITS] > 0.0:
        value = state[c, UNITS] * close[n - 1]
    mean = state[c, SUM] * units.sum / n
    spread = state[c, SQUARES] * units.squares - n * mean * mean
    rows[c, 0] = value - 1.0
    rows[c, 1] = math.nan
    if n > 1 and spread > 0.0:
        rows[c, 1] = mean / math.sqrt(spread / (n - 1)) * math.sqrt(bars_per_year)
    rows[c, 2] = min(state[c, WORST], state[c, LOWEST] / state[c, PEAK]) - 1.0
    rows[c, 3] = state[c, ENTRIES]
    rows[c, 4] = state[c, HELD_BARS] / n
