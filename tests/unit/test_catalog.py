from __future__ import annotations

import subprocess
import sys

import pytest

from supervisor.errors import ConfigError
from supervisor.rows.grid import Grid
from workers.catalog import STRATEGIES, check

GOOD = {
    "sma_cross": {"fast": [5, 10], "slow": [8, 20]},
    "bollinger_reversion": {"window": [20], "width": [1.5, 2.0]},
    "rsi_reversion": {"window": [14], "lower": [20, 30], "upper": [70.5]},
    "donchian_breakout": {"entry": [20], "exit": [10]},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_accepts_a_good_grid(name: str) -> None:
    assert check(name, Grid.of(GOOD[name])).name == name


@pytest.mark.parametrize(
    ("name", "axes", "says"),
    [
        ("smacross", {"fast": [1]}, ["'smacross'", *STRATEGIES, "module:function"]),
        ("sma_cross", {"fast": [1], "slow": [2], "fee": [0]}, ["'fee'", "fast, slow"]),
        ("sma_cross", {"fast": [1]}, ["'slow' is missing", "fast, slow"]),
        ("sma_cross", {"fast": [1.5], "slow": [3]}, ["'fast'", "whole numbers", "1.5"]),
        ("sma_cross", {"fast": [1], "slow": ["x"]}, ["'slow'", "whole numbers", "'x'"]),
        ("sma_cross", {"fast": [True], "slow": [2]}, ["'fast'", "whole numbers", "True"]),
        ("sma_cross", {"fast": [0, 1], "slow": [3]}, ["'fast'", "at least 1", "0"]),
        ("sma_cross", {"fast": [5, 9], "slow": [3, 5]}, ["fast < slow", "at least 5", "at most 5"]),
        ("bollinger_reversion", {"window": [9], "width": ["2"]}, ["'width'", "takes numbers"]),
        ("bollinger_reversion", {"window": [9], "width": [-1]}, ["'width'", "at least 0", "-1"]),
        ("rsi_reversion", {"window": [9], "lower": [70], "upper": [30]}, ["lower < upper"]),
    ],
)
def test_refuses_with_one_line(name: str, axes: dict[str, list[object]], says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(name, Grid.of(axes))  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def test_only_combinations_in_order_are_accepted() -> None:
    space = STRATEGIES["sma_cross"].space(Grid.of(GOOD["sma_cross"]))
    assert space.accepted(0, 4).tolist() == [0, 1, 3]
    assert space.total == 3


def test_all_are_accepted_without_an_order() -> None:
    grid = Grid.of(GOOD["donchian_breakout"])
    assert STRATEGIES["donchian_breakout"].space(grid).total == grid.size


def test_imports_no_numba() -> None:
    code = "import sys, workers.catalog; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0
