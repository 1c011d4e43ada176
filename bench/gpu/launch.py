"""One sweep on the device and nothing else: ``python -m bench.gpu.launch STRATEGY COMBOS [BARS]``.

A program of its own, so that ncu and compute-sanitizer can run it.
"""

from __future__ import annotations

import sys

from bench.gpu.backtests import started, swept
from bench.gpu.expected import BARS
from bench.gpu.grids import grid_of
from supervisor.ipc.stopflag import StopFlag
from supervisor.market.example import example_bars


def main(strategy: str, combos: int, n_bars: int = BARS) -> None:
    """Compute a grid and say how many rows there are."""
    grid = grid_of(strategy, combos)
    backtest = started("cupy", example_bars(n_bars), grid, strategy)
    rows = swept(backtest, combos, StopFlag()).rows
    sys.stdout.write(f"{len(rows)} rows\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
