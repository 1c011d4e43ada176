"""The cost of polls: the same kernel with and without them, and with the word in VRAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.gpu.probe import Probe
from bench.harness.record import Comparison, Row, Target, compare
from supervisor.ipc.stopflag import StopFlag

TILE_OF_THE_BACKTESTS_US = 300.0
"""About the time between two polls of a block in the backtests' kernels."""

_TARGET = 0.5
_TIMED_MS = 30.0


def overheads(tile_us: Sequence[float], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Time the same work without polls, polling the flag, and polling a word in VRAM, in ms."""
    probe = Probe()
    pointers = {"none": 0, "mapped": StopFlag().cuda.pointer}
    word = probe.cupy.zeros(1, "i8")
    pointers["vram"] = int(word.data.ptr)
    seen = {}
    for us in tile_us:
        iterations = probe.iterations_for(us)
        tiles = max(10, round(1000 * _TIMED_MS / us))
        arms: dict[str, list[float]] = {name: [] for name in pointers}
        for turn in range(rounds + 1):
            for name, pointer in pointers.items():
                took_ms = probe.timed_ms(pointer, tiles, iterations)
                if turn:  # the first round warms up
                    arms[name].append(took_ms)
        seen[f"{us:g}"] = arms
    return seen


def overhead_rows(seen: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Row]:
    """Return a row for each rate of polls and each place of the word."""
    rows = []
    for us, arms in seen.items():
        for tier in ("mapped", "vram"):
            at_the_backtests_rate = tier == "mapped" and float(us) >= TILE_OF_THE_BACKTESTS_US
            rows.append(
                compare(
                    f"poll every {us} µs in each block, word {tier}",
                    "ms",
                    arms[tier],
                    arms["none"],
                    comparison=Comparison.OVERHEAD,
                    floor_name="the same kernel without the read",
                    target=Target(_TARGET) if at_the_backtests_rate else None,
                )
            )
    return rows
