"""Grids of the four strategies, of any number of combinations, all of them accepted."""

from __future__ import annotations

import math

import numpy as np

from supervisor.rows.grid import Grid

STRATEGIES = ("sma_cross", "bollinger_reversion", "rsi_reversion", "donchian_breakout")


def factors(n: int) -> tuple[int, int]:
    """Return two numbers near each other whose product is ``n``, the smaller one first.

    Examples
    --------
    >>> factors(1000), factors(10**6)
    ((25, 40), (1000, 1000))
    """
    small = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return small, n // small


def grid_of(strategy: str, n: int) -> Grid:
    """Return a grid of ``n`` combinations.

    The last axis, whose values the threads of a warp take, is the longer one.

    Parameters
    ----------
    strategy : str
        A built-in's name.
    n : int
        Combinations.
    """
    few, many = factors(n)
    match strategy:
        case "sma_cross":
            first_slow = few + 10
            return Grid.of(
                {"fast": range(5, 5 + few), "slow": range(first_slow, first_slow + many)}
            )
        case "bollinger_reversion":
            widths = np.linspace(1.0, 3.0, many).round(6).tolist()
            return Grid.of({"window": range(10, 10 + few), "width": widths})
        case "rsi_reversion":
            fewer, some = factors(many)
            lower = np.linspace(10.0, 40.0, fewer).round(6).tolist()
            upper = np.linspace(60.0, 90.0, some).round(6).tolist()
            return Grid.of({"window": range(5, 5 + few), "lower": lower, "upper": upper})
        case "donchian_breakout":
            return Grid.of({"entry": range(10, 10 + few), "exit": range(10, 10 + many)})
    raise ValueError(strategy)
