"""The PyTorch backtests: rows against the CPU's, rate, stop between batches, little memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.gpu import expected
from bench.gpu.backtests import started, swept
from bench.gpu.children import Nursery, answer_of
from bench.gpu.expected import BARS, COMBOS, Expected, compare_rows
from bench.gpu.grids import STRATEGIES, grid_of
from bench.gpu.kernels import LIMIT_OF_DIFFERENCE
from bench.gpu.shots import shoot, tail_row
from bench.gpu.step import Bench
from bench.harness.errors import NotMeasuredError
from bench.harness.record import Row, Target, compare
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.example import example_bars

_SMALL = 200
_LIMIT_BYTES = 6 * 2**30
_STOPS = 10
_STOP_TARGET_US = 1e6


def measure(bench: Bench) -> None:
    """Take each in a process of its own; one that fails costs its rows alone."""
    record = bench.record
    try:
        known: Expected | None = expected.load(bench.expected, example_bars(BARS))
    except NotMeasuredError as error:
        record.fact("expected", str(error))
        known = None
    for strategy in STRATEGIES:
        if known is not None:
            _answer(bench, f"torch {strategy}: rows", partial(differences, strategy, known))
    _answer(bench, "torch sma_cross: rate", partial(rate, bench.sizes.torch_combos))
    _answer(bench, "torch sma_cross: chunks cut anywhere", cuts)
    _answer(bench, "torch sma_cross: within a memory limit", limited)
    name = "request → torch sma_cross has ended"
    try:
        with Nursery(("torch",)) as nursery:
            delays_us = shoot(
                nursery, "backtests:listen", min(_STOPS, bench.sizes.shots), 0.5,
                stack="torch", strategy="sma_cross", combos=10_000, bars=BARS,
            )  # fmt: skip
    except NotMeasuredError as error:
        record.row(Row(name, "µs", not_measured=str(error)))
    else:
        record.row(tail_row(name, delays_us, Target(_STOP_TARGET_US)))


def _answer(bench: Bench, name: str, work: Callable[[], dict[str, Any]]) -> None:
    """Have a process do the work; its answer is a row."""
    try:
        answer = answer_of(work, max(1.0, bench.left_s()))
    except NotMeasuredError as error:
        bench.record.row(Row(name, "", not_measured=str(error)))
        return
    target = answer.get("at_most")
    bench.record.row(
        compare(
            name,
            answer["unit"],
            answer["values"],
            target=None if target is None else Target(target),
            note=answer.get("note", ""),
        )
    )


def differences(strategy: str, known: Expected) -> dict[str, Any]:
    """Return the largest relative difference from the CPU's rows."""
    n = min(_SMALL, COMBOS)
    backtest = started("torch", example_bars(BARS), grid_of(strategy, COMBOS), strategy)
    rows = swept(backtest, n, StopFlag()).rows
    difference = compare_rows(rows, known.rows[strategy][:n])
    return {
        "unit": "",
        "values": [difference.largest],
        "at_most": LIMIT_OF_DIFFERENCE,
        "note": f"largest relative difference, {n} combinations × {BARS:,} bars",
    }


def rate(combos: int) -> dict[str, Any]:
    """Return combinations a second, by the clock on the wall."""
    backtest = started("torch", example_bars(BARS), grid_of("sma_cross", combos), "sma_cross")
    flag = StopFlag()
    swept(backtest, min(_SMALL, combos), flag)
    values = [combos / swept(backtest, combos, flag).took_s for _ in range(2)]
    return {"unit": "/s", "values": values, "note": f"{combos:,} combinations"}


def cuts() -> dict[str, Any]:
    """Return how many rows depend on where chunks are cut."""
    backtest = started("torch", example_bars(BARS), grid_of("sma_cross", COMBOS), "sma_cross")
    flag = StopFlag()
    whole = swept(backtest, _SMALL, flag).rows
    cut = swept(backtest, _SMALL, flag, cuts=(1, 50, 64, 163)).rows
    return _differing(compare_rows(cut, whole).differing, "rows that differ in any bit")


def limited() -> dict[str, Any]:
    """Return how many rows depend on a limit that makes batches smaller."""
    import torch

    bars, grid, flag = example_bars(BARS), grid_of("sma_cross", COMBOS), StopFlag()
    whole = swept(started("torch", bars, grid, "sma_cross"), _SMALL, flag).rows
    torch.cuda.empty_cache()
    tight = started("torch", bars, grid, "sma_cross", limit_bytes=_LIMIT_BYTES)
    rows = swept(tight, _SMALL, flag).rows
    peak_gb = torch.cuda.max_memory_reserved() / 2**30
    note = (
        f"rows that differ in any bit, limit {_LIMIT_BYTES / 2**30:g} GiB; peak {peak_gb:.1f} GiB"
    )
    return _differing(int((~np.isclose(rows, whole, rtol=0, atol=0, equal_nan=True)).sum()), note)


def _differing(count: int, note: str) -> dict[str, Any]:
    return {"unit": "", "values": [count], "at_most": 0, "note": note}
