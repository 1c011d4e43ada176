"""Rows that the CPU's kernels compute, made beforehand: the GPU machine may lack our Numba.

One ``.npz`` file: for each strategy its rows, the seconds they took, and what made them.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gpu.grids import STRATEGIES, grid_of
from bench.harness.errors import NotMeasuredError
from bench.harness.machine import describe_machine
from supervisor.market.bars import Bars
from supervisor.market.example import example_bars

COMBOS = 1_000
BARS = 525_600

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """What the CPU has computed.

    Attributes
    ----------
    rows : dict of str to ndarray of float64, shape (n_combos, n_columns)
        By strategy.
    per_s : dict of str to float
        Combinations a second, on one core.
    cpu : str
        Of the machine that made them.
    """

    rows: dict[str, Rows]
    per_s: dict[str, float]
    cpu: str


def digest(bars: Bars) -> str:
    """Return what names these bars."""
    parts = (bars.high, bars.low, bars.close)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def compute(path: Path, n_bars: int = BARS, combos: int = COMBOS) -> None:
    """Compute the rows on this machine's CPU and write the file."""
    from bench.harness.bare import prepared  # Numba's side; absent where a GPU is
    from bench.harness.chunk import BareChunk

    bars = example_bars(n_bars)
    arrays: dict[str, Any] = {}
    per_s: dict[str, float] = {}
    for strategy in STRATEGIES:
        grid = grid_of(strategy, combos)
        backtest = prepared(bars, grid, strategy)
        backtest.evaluate(BareChunk(0, grid.size))
        chunk = BareChunk(0, grid.size)
        begun = time.perf_counter()
        backtest.evaluate(chunk)
        per_s[strategy] = grid.size / (time.perf_counter() - begun)
        arrays[strategy] = np.concatenate(chunk.rows)
    facts = {
        "bars": n_bars,
        "combos": combos,
        "digest": digest(bars),
        "per_s": per_s,
        "machine": describe_machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, facts=np.array(json.dumps(facts)), **arrays)


def load(path: Path, bars: Bars) -> Expected:
    """Read the file.

    Raises
    ------
    NotMeasuredError
        If it is not there, or was made from other bars.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            rows = {strategy: file[strategy] for strategy in STRATEGIES}
    except (OSError, KeyError, ValueError) as error:
        raise NotMeasuredError(f"no expected rows: {error}") from None
    if facts["digest"] != digest(bars):
        raise NotMeasuredError(f"{path} was made from other bars")
    return Expected(rows, facts["per_s"], str(facts["machine"]["cpu"]))


@dataclass(frozen=True, slots=True)
class Difference:
    """How rows differ from the expected ones.

    Attributes
    ----------
    rows : int
        Rows compared.
    differing : int
        Rows that differ in at least one bit.
    largest : float
        Largest relative difference; infinite where one is NaN and the other is not.
    """

    rows: int
    differing: int
    largest: float


def compare_rows(seen: Rows, expected: Rows) -> Difference:
    """Compare rows, bit by bit and by value.

    Parameters
    ----------
    seen : ndarray of float64, shape (n_combos, n_columns)
        What was computed.
    expected : ndarray of float64, of the same shape
        What should be.

    Raises
    ------
    NotMeasuredError
        If they are not as many.
    """
    if seen.shape != expected.shape:
        raise NotMeasuredError(f"rows of shape {seen.shape}, expected {expected.shape}")
    nan = np.isnan(seen), np.isnan(expected)
    same = (seen.view(np.int64) == expected.view(np.int64)) | (nan[0] & nan[1])
    with np.errstate(invalid="ignore"):
        off = np.abs(seen - expected) / np.maximum(np.abs(expected), 1e-12)
    off[nan[0] != nan[1]] = np.inf
    off[nan[0] & nan[1]] = 0.0
    off[same] = 0.0
    largest = float(off.max()) if off.size else 0.0
    return Difference(len(seen), int((~same.all(axis=1)).sum()), largest)
