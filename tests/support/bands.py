"""Prices on which bands are touched and not crossed, and the CPU's signals on them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from workers.kernels.prefix_tables import make_prefix_tables
from workers.strategies.bollinger_reversion import Strategy
from workers.strategies.market import Market


def _walk(seed: int, start: float, step: float, n: int = 1500) -> NDArray[np.float64]:
    return start + np.cumsum(np.random.default_rng(seed).normal(0.0, step, n))


def _touching(unit: float) -> NDArray[np.float64]:
    """Four equal prices and a fifth below: with window 5 that lies two deviations down."""
    prices = np.full(1500, 100.0)
    prices[5::7] -= unit * np.arange(1, 215)
    return prices


SERIES = {
    "five decimals": np.round(_walk(0, 1.1, 1e-4), 5),
    "six decimals": np.round(_walk(1, 30_000.0, 30.0), 6),
    "float32": _walk(2, 50.0, 0.1).astype(np.float32).astype(np.float64),
    "any": np.exp(_walk(3, 0.0, 0.01)),
    "far apart": np.exp(_walk(4, 0.0, 0.3)),
    "ticks": np.round(100.0 + 0.25 * np.cumsum(np.random.default_rng(5).integers(-1, 2, 1500)), 2),
    "hardly moving": np.where(np.random.default_rng(6).random(1500) < 0.02, 99.9, 100.1),
    "constant": np.full(1500, 1.234567),
    "touching": _touching(0.013),
    "touching in float32": _touching(1 / 1024).astype(np.float32).astype(np.float64),
    "touching in tiny steps": _touching(2.0**-40),
}
BANDS = [
    (2, 1.0), (2, 0.0), (3, 2**0.5), (4, 3**0.5), (5, 2.0), (10, 3.0), (17, 4.0), (20, 2.0),
    (20, 2.1), (300, 1.5), (1499, 1.0), (5, 1e-200), (5, 1e200), (20, 0.1 + 0.2),
]  # fmt: skip
"""Windows and widths; a price is at most the root of (window - 1) deviations from its average."""


def signals(
    close: NDArray[np.float64], window: int, width: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the CPU's kernels enter, and where they leave."""
    bars = SimpleNamespace(close=close, high=close, low=close, bars_per_year=1.0)
    market = Market(bars, make_prefix_tables(close, 0.0, 1.0))
    strategy = Strategy(market, {"window": np.array([window]), "width": np.array([width])})
    line = np.zeros(8, np.int64)
    rows = np.zeros((2, market.n_words), np.int64)
    assert strategy._fill_enter(line, 0, rows[0])
    assert strategy._fill_leave(line, 0, rows[1])
    bits = np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")
    enter, leave = bits[:, : len(close)].astype(np.bool_)
    return enter, leave
