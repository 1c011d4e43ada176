"""Strategies whose entries and exits are rows of signals, a bit per bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.cupy_backtest.device import Buffer, Device, Event, Grid, opened
from workers.cupy_backtest.layout import (
    BANDS,
    BREAKOUTS,
    LADDER,
    LEVELS,
    MOST_THREADS,
    SIGNALS,
    SOURCES,
    Struct,
    struct,
)
from workers.cupy_backtest.programs import WARP, Axes, Digits, Ready, windows_of
from workers.cupy_backtest.rows import Queue, Rows, Slots
from workers.indicators.exact import RSI_TIE, ExactPrices, ratio
from workers.indicators.prices import whole_prices
from workers.kernels.blocks import TILE, TILE_BARS

if TYPE_CHECKING:
    from workers.strategies.market import Bars

_WORD_BYTES = 8
_SHARE_OF_FREE = 2
"""All rows of a grid are filled at once where they take at most one half of what is free."""


class LevelRows:
    """Signals of the RSI below, or above, levels: one window and one level for each row.

    Parameters
    ----------
    prices : ndarray of float64, shape (n_bars,)
        What from.
    windows, bounds : ndarray, of shapes (n_windows,) and (n_bounds,)
        Slot ``window * n_bounds + bound`` stands for two of them.
    above : bool
        On which side of a level.
    """

    def __init__(
        self,
        prices: NDArray[np.float64],
        windows: NDArray[np.int64],
        bounds: NDArray[np.float64],
        *,
        above: bool,
    ) -> None:
        self._prices = prices
        self._windows = windows
        self._bounds = bounds
        self._above = above
        self._prices_there: Buffer | None = None
        self.rows = Rows(len(windows) * len(bounds), _row_bytes(len(prices)), self._fill)

    def open(self, device: Device) -> None:
        self._prices_there = device.upload(self._prices)

    def _fill(self, queue: Queue, slots: Slots, words: Buffer) -> Any:
        window, bound = np.divmod(slots, len(self._bounds))
        inputs: dict[str, NDArray[Any]] = {
            "windows": self._windows[window].astype(np.int32),
            "bounds": self._bounds[bound],
            "above": np.full(len(slots), self._above, np.int32),
        }
        there = {name: queue.device.upload(array) for name, array in inputs.items()}
        levels = struct(
            LEVELS,
            prices=opened(self._prices_there),
            words=words,
            n_bars=len(self._prices),
            n_rows=len(slots),
            **there,
        )
        # one thread goes through all bars: the more multiprocessors they are on, the better
        grid = Grid(-(-len(slots) // WARP), WARP)
        queue.device.launch("fill_rsi", grid, (queue.stop, levels), queue.stream)
        return there

    def forget(self) -> None:
        self.rows.forget()


class BandRows:
    """Signals of prices below the band of a width, or above the average: one window for each row.

    Parameters
    ----------
    prices : ExactPrices
        What from.
    windows, widths : ndarray, of shapes (n_windows,) and (n_widths,)
        Slot ``window * n_widths + width`` stands for two of them.
    above : bool
        Whether above the average; the width is then not used.
    """

    def __init__(
        self,
        prices: ExactPrices,
        windows: NDArray[np.int64],
        widths: NDArray[np.float64],
        *,
        above: bool,
    ) -> None:
        self._prices = prices
        self._windows = windows
        self._shifts = np.array([prices.shift(int(window)) for window in windows], np.int32)
        self._widths = widths
        self._ratios = np.array([ratio(float(width)) for width in widths], np.uint64)
        self._above = above
        self._prices_there: Buffer | None = None
        n_bars = len(prices.whole)
        self.rows = Rows(len(windows) * len(widths), _row_bytes(n_bars), self._fill)

    def open(self, device: Device) -> None:
        self._prices_there = device.upload(self._prices.whole)

    def _fill(self, queue: Queue, slots: Slots, words: Buffer) -> Any:
        window, width = np.divmod(slots, len(self._widths))
        inputs: dict[str, NDArray[Any]] = {
            "windows": self._windows[window].astype(np.int32),
            "shifts": self._shifts[window],
            "widths": self._widths[width],
            "numerators": np.ascontiguousarray(self._ratios[width, 0]),
            "denominators": np.ascontiguousarray(self._ratios[width, 1]),
            "above": np.full(len(slots), self._above, np.int32),
        }
        there = {name: queue.device.upload(array) for name, array in inputs.items()}
        bands = struct(
            BANDS,
            prices=opened(self._prices_there),
            words=words,
            n_bars=len(self._prices.whole),
            n_rows=len(slots),
            **there,
        )
        grid = Grid(-(-len(slots) // WARP), WARP)  # as for LevelRows
        queue.device.launch("fill_bands", grid, (queue.stop, bands), queue.stream)
        return there

    def forget(self) -> None:
        self.rows.forget()


class _Raised(NamedTuple):
    """A ladder on the device, and when it is filled."""

    buffer: Buffer
    filled: Event


class BreakoutRows:
    """Signals of prices above the highest of some bars before: one window for each row.

    Parameters
    ----------
    close, highs : ndarray of float64, shape (n_bars,)
        Closes and highs; or both negated, closes and lows.
    windows : ndarray of int64, shape (n_windows,)
        A slot stands for one of them.
    """

    def __init__(
        self,
        close: NDArray[np.float64],
        highs: NDArray[np.float64],
        windows: NDArray[np.int64],
    ) -> None:
        self._close = close
        self._highs = np.ascontiguousarray(highs)
        n_bars = len(close)
        self._windows = np.minimum(windows, n_bars)  # no bar has so many before it
        self._levels = int(self._windows.max()).bit_length()
        self._close_there: Buffer | None = None
        self._ladder: _Raised | None = None
        self.rows = Rows(len(windows), _row_bytes(n_bars), self._fill)

    def open(self, device: Device) -> None:
        self._close_there = device.upload(self._close)

    def _fill(self, queue: Queue, slots: Slots, words: Buffer) -> Any:
        if self._ladder is None:
            self._ladder = self._raise(queue)
        queue.device.after(self._ladder.filled, queue.stream)
        n_bars, n_rows = len(self._close), len(slots)
        windows = queue.device.upload(self._windows[slots].astype(np.int32))
        breakouts = struct(
            BREAKOUTS,
            close=opened(self._close_there),
            ladder=self._ladder.buffer,
            windows=windows,
            words=words,
            n_bars=n_bars,
            n_rows=n_rows,
        )
        threads = min(-(-n_rows // WARP) * WARP, MOST_THREADS)
        grid = Grid(-(-n_bars // TILE_BARS) * -(-n_rows // threads), threads)
        queue.device.launch("fill_breakouts", grid, (queue.stop, breakouts), queue.stream)
        return windows, self._ladder

    def _raise(self, queue: Queue) -> _Raised:
        n_bars = len(self._close)
        ladder = queue.device.empty(self._levels * self._highs.nbytes)
        queue.device.copy_in(self._highs.view(np.uint8), ladder, queue.stream)
        for level in range(1, self._levels):
            argument = struct(LADDER, ladder=ladder, n_bars=n_bars, level=level)
            grid = Grid(-(-n_bars // TILE_BARS), MOST_THREADS)
            queue.device.launch("raise_ladder", grid, (queue.stop, argument), queue.stream)
        return _Raised(ladder, queue.device.event(queue.stream))

    def forget(self) -> None:
        self.rows.forget()
        self._ladder = None


class SignalProgram:
    """A strategy of two kinds of rows; implements :class:`workers.cupy_backtest.programs.Program`.

    Parameters
    ----------
    enter, leave : LevelRows, BandRows or BreakoutRows
    slots : callable
        Both slots of each combination, from its digits.
    """

    kernels: tuple[str, ...] = SOURCES["signals"] + SOURCES["fills"]
    n_inputs = 2

    def __init__(
        self,
        enter: LevelRows | BandRows | BreakoutRows,
        leave: LevelRows | BandRows | BreakoutRows,
        slots: Callable[[Digits], tuple[Slots, Slots]],
    ) -> None:
        self._enter = enter
        self._leave = leave
        self._slots = slots
        self._fits = False

    def open(self, device: Device) -> None:
        """See :class:`workers.cupy_backtest.programs.Program`."""
        self._enter.open(device)
        self._leave.open(device)
        total = self._enter.rows.total_bytes + self._leave.rows.total_bytes
        self._fits = total * _SHARE_OF_FREE <= device.free_bytes()

    def ready(self, queue: Queue, digits: Digits) -> Ready:
        """See :class:`workers.cupy_backtest.programs.Program`."""
        enter_slots, leave_slots = self._slots(digits)
        enter, enter_at = self._enter.rows.ready(queue, enter_slots, fits=self._fits)
        leave, leave_at = self._leave.rows.ready(queue, leave_slots, fits=self._fits)

        def argument(enter_at: int, leave_at: int) -> Struct:
            return struct(
                SIGNALS,
                enter=enter.buffer,
                leave=leave.buffer,
                enter_at=enter_at,
                leave_at=leave_at,
                n_enter=enter.n_rows,
                n_leave=leave.n_rows,
            )

        return Ready("sweep_signals", 0, (enter_at, leave_at), argument, (enter, leave))

    def forget(self) -> None:
        """See :class:`workers.cupy_backtest.programs.Program`."""
        self._enter.forget()
        self._leave.forget()


def bollinger_reversion(bars: Bars, axes: Axes) -> SignalProgram:
    """See :mod:`workers.strategies.bollinger_reversion`."""
    prices = ExactPrices.of(bars.close)
    windows = windows_of(axes["window"], len(prices.whole))
    widths = axes["width"].astype(np.float64)

    def slots(digits: Digits) -> tuple[Slots, Slots]:
        return digits["window"] * len(widths) + digits["width"], digits["window"]

    return SignalProgram(
        BandRows(prices, windows, widths, above=False),
        BandRows(prices, windows, np.zeros(1), above=True),
        slots,
    )


def rsi_reversion(bars: Bars, axes: Axes) -> SignalProgram:
    """See :mod:`workers.strategies.rsi_reversion`."""
    close = whole_prices(bars.close)
    windows = windows_of(axes["window"], len(close))
    lower = axes["lower"].astype(np.float64) - RSI_TIE
    upper = axes["upper"].astype(np.float64) + RSI_TIE

    def slots(digits: Digits) -> tuple[Slots, Slots]:
        window = digits["window"]
        return window * len(lower) + digits["lower"], window * len(upper) + digits["upper"]

    return SignalProgram(
        LevelRows(close, windows, lower, above=False),
        LevelRows(close, windows, upper, above=True),
        slots,
    )


def donchian_breakout(bars: Bars, axes: Axes) -> SignalProgram:
    """See :mod:`workers.strategies.donchian_breakout`: below the lowest low is above the highest
    of negated lows.
    """
    close, high, low = np.array(bars.close), np.array(bars.high), np.array(bars.low)
    entry, exit_ = (windows_of(axes[name], len(close)) for name in ("entry", "exit"))

    def slots(digits: Digits) -> tuple[Slots, Slots]:
        return digits["entry"], digits["exit"]

    return SignalProgram(BreakoutRows(close, high, entry), BreakoutRows(-close, -low, exit_), slots)


def _row_bytes(n_bars: int) -> int:
    """Bytes of a row: a bit per bar, padded to whole tiles."""
    return -(-n_bars // TILE_BARS) * TILE * _WORD_BYTES
