"""Backtests by launching the kernels one by one, with no backend around them; imports no Numba."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.cupy_backtest import layout, tables
from workers.cupy_backtest.layout import Struct, struct
from workers.indicators.exact import RSI_TIE, ExactPrices, ratio
from workers.indicators.prices import running_sums, whole_prices
from workers.kernels.blocks import TILE, TILE_BARS

Columns = Mapping[str, NDArray[Any]]
"""Each parameter's values, a combination per element."""

CROSS_KERNELS = ("sweep_crosses", "sweep_crosses_far", "sweep_crosses_wide")


class Series(NamedTuple):
    """The attributes of :class:`Bars` that backtests use."""

    close: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    bars_per_year: float = 525_600.0


@dataclass
class Launches:
    """Launches kernels of a library that :mod:`tests.support.gpu.kernels` has built.

    Attributes
    ----------
    threads : int
        In a block.
    flag : ndarray of int64
        The stop flag's line.
    unfinished : ndarray of int32
        Set by a kernel that left early.
    """

    library: Any
    threads: int = 32
    flag: NDArray[np.int64] = field(default_factory=lambda: np.zeros(8, np.int64))
    unfinished: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1, np.int32))
    seen: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1, np.int32))

    def launch(self, kernel: str, blocks: int, *arguments: Struct) -> None:
        assert tuple(argument.dtype for argument in arguments) == layout.KERNELS[kernel]
        addresses = [argument.ctypes.data for argument in arguments]
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        getattr(self.library, f"launch_{kernel}")(pointers, blocks, self.threads)

    def groups(self, n: int) -> int:
        """Blocks that have a thread for each of `n`."""
        return -(-n // self.threads)

    @property
    def stop(self) -> Struct:
        return _struct(layout.STOP, flag=self.flag, seen=self.seen, unfinished=self.unfinished)

    def rows(
        self, strategy: str, bars: Any, columns: Columns, fee: float, **options: Any
    ) -> NDArray[np.float64]:
        """Backtest combinations; what a kernel has not written is -1."""
        prefix = tables.make_prefix_tables(np.array(bars.close), fee, bars.bars_per_year)
        names = ("close", "entries", "exits", "spans", "falls", "tiles")
        accounting = _struct(
            layout.TABLES,
            **{name: getattr(prefix, name) for name in names},
            entry_factor=prefix.fees.entry_factor,
            exit_factor=prefix.fees.exit_factor,
            unit_sum=prefix.units.sum,
            unit_squares=prefix.units.squares,
            bars_per_year=prefix.bars_per_year,
            n_bars=len(prefix.close),
            n_tiles=len(prefix.tiles),
            n_blocks=len(prefix.falls),
        )
        n = len(next(iter(columns.values())))
        rows = np.full((n, 5), -1.0)
        batch = _struct(layout.BATCH, rows=rows, n=n)
        kernel, argument, _held = getattr(self, f"_{strategy}")(bars, columns, **options)
        self.launch(kernel, self.groups(n), accounting, self.stop, argument, batch)
        return rows

    def _sma_cross(
        self,
        bars: Any,
        columns: Columns,
        kernel: str = "sweep_crosses",
        ranged: bool = True,
        spoilt_from: int | None = None,
    ) -> tuple[str, Struct, Any]:
        """Sums from bar `spoilt_from` on become nonsense once the ranges are filled."""
        close = np.array(bars.close)
        n_tiles = -(-len(close) // TILE_BARS)
        pairs = np.concatenate([columns["fast"], columns["slow"]])
        windows, at = _distinct(pairs.astype(np.int32))
        front = reach = int(windows.max())
        sums = running_sums(close, front, front + n_tiles * TILE_BARS + 1)
        ranges = np.empty((n_tiles * TILE, len(windows), 2), np.float32)
        wanted = _struct(
            layout.RANGES,
            sums=sums,
            windows=windows,
            ranges=ranges,
            front=front,
            n_bars=len(close),
            n_tiles=n_tiles,
            n_windows=len(windows),
        )
        self.launch("fill_ranges", n_tiles * self.groups(len(windows)), self.stop, wanted)
        if spoilt_from is not None:
            sums[front + spoilt_from :] = np.nan
        read = sums if kernel == "sweep_crosses_wide" else wrapped(sums)
        fast, slow = windows[at[: len(at) // 2]], windows[at[len(at) // 2 :]]
        fast_at, slow_at = np.array_split(at, 2)
        held = read, ranges, fast, slow, fast_at, slow_at
        argument = _struct(
            layout.CROSSES,
            sums=read,
            ranges=ranges if ranged else 0,
            fast=fast,
            slow=slow,
            fast_at=fast_at if ranged else 0,
            slow_at=slow_at if ranged else 0,
            front=front,
            reach=reach,
            n_windows=len(windows),
        )
        return kernel, argument, held

    def _bollinger_reversion(self, bars: Any, columns: Columns) -> tuple[str, Struct, Any]:
        window, width = columns["window"], columns["width"]
        return _sweep_signals(
            self.bands(bars.close, window, width, above=False),
            self.bands(bars.close, window, np.zeros(len(window)), above=True),
        )

    def _rsi_reversion(self, bars: Any, columns: Columns) -> tuple[str, Struct, Any]:
        close, window = whole_prices(bars.close), columns["window"]
        return _sweep_signals(
            self.levels(close, window, columns["lower"] - RSI_TIE, above=False),
            self.levels(close, window, columns["upper"] + RSI_TIE, above=True),
        )

    def _donchian_breakout(self, bars: Any, columns: Columns) -> tuple[str, Struct, Any]:
        close, high, low = (np.array(part) for part in (bars.close, bars.high, bars.low))
        return _sweep_signals(
            self._breakouts(close, high, columns["entry"]),
            self._breakouts(-close, -low, columns["exit"]),
        )

    def bands(
        self, close: Any, window: Any, width: Any, *, above: bool
    ) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """Rows of signals by word, and each combination's row."""
        exact = ExactPrices.of(close)
        pairs, at = _distinct(np.stack([window, width], axis=1).astype(np.float64))
        windows, widths = pairs[:, 0].astype(np.int32), np.array(pairs[:, 1])
        shifts = np.array([exact.shift(int(window)) for window in windows], np.int32)
        ratios = np.array([ratio(float(width)) for width in widths], np.uint64).T.copy()
        words = _no_words(len(close), len(pairs))
        sides = np.full(len(pairs), above, np.int32)
        bands = _struct(
            layout.BANDS,
            prices=exact.whole,
            windows=windows,
            shifts=shifts,
            widths=widths,
            numerators=ratios[0],
            denominators=ratios[1],
            above=sides,
            words=words,
            n_bars=len(close),
            n_rows=len(pairs),
        )
        self.launch("fill_bands", self.groups(len(pairs)), self.stop, bands)
        return words, at

    def levels(
        self, prices: Any, window: Any, bound: Any, *, above: bool
    ) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """Rows of signals by word, and each combination's row."""
        pairs, at = _distinct(np.stack([window, bound], axis=1).astype(np.float64))
        n_rows = len(pairs)
        words = _no_words(len(prices), n_rows)
        windows, bounds = pairs[:, 0].astype(np.int32), np.array(pairs[:, 1])
        sides = np.full(n_rows, above, np.int32)
        levels = _struct(
            layout.LEVELS,
            prices=prices,
            windows=windows,
            bounds=bounds,
            above=sides,
            words=words,
            n_bars=len(prices),
            n_rows=n_rows,
        )
        self.launch("fill_rsi", self.groups(n_rows), self.stop, levels)
        return words, at

    def _breakouts(
        self, close: Any, extreme: Any, window: Any
    ) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        windows, at = _distinct(window.astype(np.int32))
        n_bars, n_tiles = len(close), -(-len(close) // TILE_BARS)
        ladder = np.full((int(windows.max()).bit_length(), n_bars), np.nan)
        ladder[0] = extreme
        for level in range(1, len(ladder)):
            rung = _struct(layout.LADDER, ladder=ladder, n_bars=n_bars, level=level)
            self.launch("raise_ladder", n_tiles, self.stop, rung)
        words = _no_words(n_bars, len(windows))
        wanted = _struct(
            layout.BREAKOUTS,
            close=close,
            ladder=ladder,
            windows=windows,
            words=words,
            n_bars=n_bars,
            n_rows=len(windows),
        )
        self.launch("fill_breakouts", n_tiles * self.groups(len(windows)), self.stop, wanted)
        return words, at


def wrapped(sums: NDArray[np.float64]) -> NDArray[np.int32]:
    """Sums modulo 2³², whether or not that decides anything."""
    return sums.astype(np.int64).astype(np.uint32).view(np.int32)


def _sweep_signals(
    enter: tuple[NDArray[np.uint64], NDArray[np.int32]],
    leave: tuple[NDArray[np.uint64], NDArray[np.int32]],
) -> tuple[str, Struct, Any]:
    argument = _struct(
        layout.SIGNALS,
        enter=enter[0],
        leave=leave[0],
        enter_at=enter[1],
        leave_at=leave[1],
        n_enter=enter[0].shape[1],
        n_leave=leave[0].shape[1],
    )
    return "sweep_signals", argument, (enter, leave)


def _no_words(n_bars: int, n_rows: int) -> NDArray[np.uint64]:
    return np.full((-(-n_bars // TILE_BARS) * TILE, n_rows), 0xAAAA_AAAA_AAAA_AAAA, np.uint64)


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    distinct, at = np.unique(values, axis=0, return_inverse=True)
    return distinct, at.reshape(-1).astype(np.int32)


def _struct(dtype: np.dtype[np.void], **fields: Any) -> Struct:
    """A struct that holds arrays' addresses; keeping the arrays is the caller's task."""
    return struct(
        dtype,
        **{
            name: value.ctypes.data if isinstance(value, np.ndarray) else value
            for name, value in fields.items()
        },
    )
