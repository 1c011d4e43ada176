"""The cost of polls: the same kernel with and without them, and with the word in VRAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.gpu.probe import NO_WORD, Probe
from bench.harness.record import Comparison, Row, Target, compare
from supervisor.ipc.stopflag import StopFlag

TILE_OF_THE_BACKTESTS_US = 300.0
"""About the time between two polls of a block in the backtests' kernels."""

_TARGET = 0.5
_TIMED_MS = 30.0
_SLOW_ROUNDS = 3
WAYS = {
    "in turns": "in turns, as the backtests do",
    "mapped": "the mapped word",
    "vram": "a word in VRAM",
}


def overheads(tile_us: Sequence[float], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Time the same work without polls, with the backtests' and with plain ones, in ms."""
    probe = Probe()
    flag = np.uint64(StopFlag().cuda.pointer)
    word = probe.cupy.zeros(1, "i8")
    arms = {
        "none": ("twin", NO_WORD),
        "in turns": ("in_turns", (flag, word)),
        "mapped": ("polling", (flag,)),
        "vram": ("polling", (word,)),
    }
    seen = {}
    for us in tile_us:
        iterations = probe.iterations_for(us)
        tiles = max(10, round(1000 * _TIMED_MS / us))
        took_ms: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(rounds + 1):
            for name, (kernel, words) in arms.items():
                if name == "mapped" and turn > _SLOW_ROUNDS:
                    continue  # many times as slow, and known by then
                took = probe.timed_ms(kernel, words, tiles, iterations)
                if turn:  # the first round warms up
                    took_ms[name].append(took)
        seen[f"{us:g}"] = took_ms
    return seen


def overhead_rows(seen: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Row]:
    """Return a row for each rate of polls and each place of the word."""
    rows = []
    for us, arms in seen.items():
        for way in WAYS:
            at_the_backtests_rate = way == "in turns" and float(us) >= TILE_OF_THE_BACKTESTS_US
            took_ms = arms[way]
            rows.append(
                compare(
                    f"poll every {us} µs in each block, {WAYS[way]}",
                    "ms",
                    took_ms,
                    arms["none"][: len(took_ms)],
                    comparison=Comparison.OVERHEAD,
                    floor_name="the same kernel without the read",
                    target=Target(_TARGET) if at_the_backtests_rate else None,
                )
            )
    return rows
