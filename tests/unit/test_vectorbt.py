"""The moving-average sweep against vectorbt, the library whose conventions it follows."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from supervisor.rows.grid import Grid
from tests.support.chunks import FakeBars, backtest_all

pytestmark = pytest.mark.peer

FEE = 0.0005
FAST, SLOW = [3, 5, 8, 13, 21, 34], [10, 30, 55, 89, 144, 300]


def test_sma_cross_is_what_vectorbt_computes() -> None:
    """One test for all: the import of vectorbt takes ten seconds of each process that does it."""
    for n, seed in itertools.product([1000, 20_000], [1, 2]):
        check_sma_cross(n, seed)


def check_sma_cross(n: int, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vectorbt's own, while it is imported
        vbt = pytest.importorskip("vectorbt", reason="the test extra brings vectorbt")
        pd = pytest.importorskip("pandas", reason="vectorbt works on pandas")
        bars = FakeBars.walk(n, seed=seed)
        grid = Grid.of({"fast": FAST, "slow": SLOW})
        rows = backtest_all(bars, grid, "sma_cross", fee=FEE)

        index = pd.date_range("2024-01-01", periods=n, freq="1min")
        close = pd.Series(bars.close.copy(), index=index)
        pairs = grid.columns(0, grid.size)
        fast = vbt.MA.run(close, window=pairs["fast"].tolist())
        slow = vbt.MA.run(close, window=pairs["slow"].tolist())
        # Averages of float prices tie only by chance; in whole prices they tie exactly.
        above = fast.ma.values - slow.ma.values > 1e-11
        portfolio = vbt.Portfolio.from_signals(close, above, ~above, fees=FEE, freq="1min")
        expected = [
            portfolio.total_return().to_numpy(),
            portfolio.sharpe_ratio().to_numpy(),
            portfolio.max_drawdown().to_numpy(),
            portfolio.orders.buy.count().to_numpy(),
        ]
    valid = pairs["fast"] < pairs["slow"]
    assert np.isnan(rows[~valid]).all()
    for column, values in enumerate(expected[:3]):
        np.testing.assert_allclose(rows[valid, column], values[valid], rtol=1e-9, atol=0)
    np.testing.assert_array_equal(rows[valid, 3], expected[3][valid])
