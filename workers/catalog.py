"""The built-in strategies as facts: names, parameters, limits. Imports no numba.

The front reads this to check a grid before anything is started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError
from supervisor.rows.grid import Grid
from supervisor.rows.space import Space

COLUMNS = ("total_return", "sharpe", "max_drawdown", "trades", "exposure")
"""What every built-in strategy returns; see ``docs/kernels.md`` for the definitions."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One axis a strategy understands.

    Attributes
    ----------
    name : str
    kind : {"int", "float"}
        Integers pass where a float is wanted, not the other way round.
    minimum : float
        Smallest value allowed.
    doc : str
        Half a line for ``--help`` and error messages.
    """

    name: str
    kind: Literal["int", "float"]
    minimum: float
    doc: str


@dataclass(frozen=True, slots=True)
class Strategy:
    """The facts about a strategy that are known without running it.

    Attributes
    ----------
    name, summary : str
    parameters : tuple of Parameter
    ordered : tuple of two str, or None
        The first parameter must be below the second; other combinations are not accepted.
    columns : tuple of str
        What it returns per combination.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    ordered: tuple[str, str] | None = None
    columns: tuple[str, ...] = COLUMNS

    def space(self, grid: Grid) -> Space:
        """The combinations of a grid that the strategy accepts."""
        return Space(grid, self.ordered)


STRATEGIES: Mapping[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "sma_cross",
            "long while the fast moving average is above the slow one",
            (
                Parameter("fast", "int", 1, "bars in the fast average"),
                Parameter("slow", "int", 2, "bars in the slow average"),
            ),
            ordered=("fast", "slow"),
        ),
        Strategy(
            "bollinger_reversion",
            "buy below the lower Bollinger band, sell above the average",
            (
                Parameter("window", "int", 2, "bars in the average and the deviation"),
                Parameter(
                    "width", "float", 0.0, "standard deviations (ddof 0) from average to band"
                ),
            ),
        ),
        Strategy(
            "rsi_reversion",
            "buy when Wilder's RSI is below one level, sell when it is above another",
            (
                Parameter("window", "int", 1, "bars of Wilder's smoothing"),
                Parameter("lower", "float", 0.0, "buy below this RSI"),
                Parameter("upper", "float", 0.0, "sell above this RSI"),
            ),
            ordered=("lower", "upper"),
        ),
        Strategy(
            "donchian_breakout",
            "buy above the highest high of the bars before, sell below their lowest low",
            (
                Parameter(
                    "entry", "int", 1, "bars before this one whose highest high must be exceeded"
                ),
                Parameter(
                    "exit", "int", 1, "bars before this one whose lowest low must be undercut"
                ),
            ),
        ),
    )
}


def check(strategy_name: str, grid: Grid) -> Strategy:
    """Make sure that a grid can be swept with a built-in strategy.

    Windows longer than the data are no error: such a combination never trades.

    Raises
    ------
    ConfigError
        If the strategy or a parameter is unknown, a parameter is missing, of
        the wrong kind or too small, or no combination is in order.
    """
    strategy = STRATEGIES.get(strategy_name)
    if strategy is None:
        raise ConfigError(
            f"unknown strategy {strategy_name!r}; there are {', '.join(STRATEGIES)}, "
            "or your own as module:function or file.py:function",
            key="strategy",
        )
    known = {parameter.name: parameter for parameter in strategy.parameters}
    valid = f"{strategy_name} takes {', '.join(known)}"
    for name in grid.names:
        if name not in known:
            raise ConfigError(f"unknown parameter {name!r}; {valid}", key="grid")
    for name, parameter in known.items():
        if name not in grid.names:
            raise ConfigError(f"parameter {name!r} is missing; {valid}", key="grid")
        _check_axis(parameter, grid.axis(name))
    if strategy.ordered is not None and strategy.space(grid).total == 0:
        low, high = strategy.ordered
        raise ConfigError(
            f"no combination has {low} < {high}: "
            f"{low} is at least {grid.axis(low).min()}, {high} at most {grid.axis(high).max()}",
            key="grid",
        )
    return strategy


def _range_hint(name: str, value: object) -> str:
    """Say how a range is written, to those who wrote it with a hyphen or dots."""
    ends = re.fullmatch(r"(\d+)\s*(?:-|\.\.+|–)\s*(\d+)", value) if isinstance(value, str) else None
    return f": a range is written {name}={ends[1]}:{ends[2]}" if ends else ""


def _check_axis(parameter: Parameter, axis: NDArray[np.generic]) -> None:
    kinds = {"int": "i", "float": "if"}[parameter.kind]
    if axis.dtype.kind not in kinds:
        wanted = {"int": "whole numbers", "float": "numbers"}[parameter.kind]
        first = axis[0].item() if isinstance(axis[0], np.generic) else axis[0]
        raise ConfigError(
            f"parameter {parameter.name!r} ({parameter.doc}) takes {wanted}, "
            f"not {first!r}{_range_hint(parameter.name, first)}",
            key="grid",
        )
    smallest = axis.min().item()
    if smallest < parameter.minimum:
        raise ConfigError(
            f"parameter {parameter.name!r} ({parameter.doc}) must be at least "
            f"{parameter.minimum:g}, not {smallest}",
            key="grid",
        )
