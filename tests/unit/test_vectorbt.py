"""The built-in strategies against vectorbt, the library whose conventions they follow."""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from supervisor.market.bars import Bars, load_bars
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


# --- all strategies on real files --------------------------------------------------------------

FEES = [0.0, 0.0005, 0.01]
GRIDS: dict[str, Mapping[str, Sequence[float]]] = {
    "sma_cross": {"fast": [2, 5, 13], "slow": [8, 21, 55]},
    "bollinger_reversion": {"window": [5, 20], "width": [0.5, 1.5, 2.0]},
    "rsi_reversion": {"window": [2, 14], "lower": [20.0, 35.0], "upper": [60.0, 75.0]},
    "donchian_breakout": {"entry": [5, 20, 55], "exit": [3, 10]},
}
REAL = ("GOOG", "EURUSD", "BTCUSD", "msft.csv", "goog.npz", "plotly's AAPL", "IBM by months")
TIE = 1e-11
"""Averages of float prices tie only by chance; where whole prices tie, float ones are this near."""


def real(name: str) -> Bars:
    """Load a real file that an installed package has brought."""
    home = {"plotly's AAPL": "plotly", "msft.csv": "matplotlib", "goog.npz": "matplotlib",
            "IBM by months": "matplotlib"}.get(name, "backtesting")  # fmt: skip
    spec = importlib.util.find_spec(home)
    if spec is None or spec.origin is None:
        pytest.skip(f"{home} brings the file and is not installed")
    folder = Path(spec.origin).parent
    samples = folder / "mpl-data/sample_data"
    match name:
        case "plotly's AAPL":
            path = folder / "package_data/datasets/stocks.csv.gz"
            return load_bars(path, columns="time=date,close=AAPL")
        case "msft.csv":
            return load_bars(samples / name)
        case "goog.npz":
            return load_bars(np.load(samples / name)["price_data"])
        case "IBM by months":
            import pandas as pd

            table = pd.read_csv(samples / "Stocks.csv", comment="#", index_col=0)
            return load_bars(table["IBM"].dropna())
        case _:
            return load_bars(folder / "test" / f"{name}.csv")


def wilder(close: Any, window: int) -> NDArray[np.float64]:
    """RSI as Wilder wrote it: vectorbt's own smooths otherwise."""
    import pandas as pd

    change = pd.Series(close).diff().to_numpy()
    averages = []
    for part in (np.maximum(change, 0), np.maximum(-change, 0)):
        seeded = np.full(len(part), np.nan)
        seeded[window] = part[1 : window + 1].mean()
        seeded[window + 1 :] = part[window + 1 :]
        smooth = pd.Series(seeded[window:]).ewm(alpha=1 / window, adjust=False).mean()
        averages.append(np.concatenate((np.full(window, np.nan), smooth)))
    gain, loss = averages
    with np.errstate(invalid="ignore"):
        return np.where(
            gain + loss > 0, 100 * gain / (gain + loss), np.where(gain == 0, 50, np.nan)
        )


def signals(vbt: Any, bars: Bars, strategy: str, points: Mapping[str, Any]) -> tuple[Any, Any]:
    """Entries and exits by vectorbt's indicators, and pandas; a column for each combination."""
    import pandas as pd

    close = pd.Series(bars.close)
    price = bars.close[:, None]
    if strategy == "sma_cross":
        fast = vbt.MA.run(close, window=points["fast"].tolist()).ma.to_numpy()
        slow = vbt.MA.run(close, window=points["slow"].tolist()).ma.to_numpy()
        above = fast - slow > TIE * price
        return above, ~above
    if strategy == "bollinger_reversion":
        bands = vbt.BBANDS.run(
            close, window=points["window"].tolist(), alpha=points["width"].tolist()
        )
        lower, middle = bands.lower.to_numpy(), bands.middle.to_numpy()
        return price < lower - TIE * price, price > middle + TIE * price
    if strategy == "rsi_reversion":
        rsi = np.column_stack([wilder(bars.close, window) for window in points["window"]])
        return rsi < points["lower"] - 1e-9, rsi > points["upper"] + 1e-9
    high, low = pd.Series(bars.high), pd.Series(bars.low)
    highest = [high.rolling(n).max().shift(1).to_numpy() for n in points["entry"]]
    lowest = [low.rolling(n).min().shift(1).to_numpy() for n in points["exit"]]
    return price > np.column_stack(highest), price < np.column_stack(lowest)


def test_all_strategies_are_what_vectorbt_computes_on_real_files() -> None:
    """One test for all, as above: 7 files, 4 strategies and 3 fees; there is no difference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vbt = pytest.importorskip("vectorbt", reason="the test extra brings vectorbt")
        for name, strategy in itertools.product(REAL, GRIDS):
            check_on_real_file(vbt, name, strategy)


def check_on_real_file(vbt: Any, name: str, strategy: str) -> None:
    import pandas as pd

    bars = real(name)
    grid = Grid.of(GRIDS[strategy])
    points = grid.columns(0, grid.size)
    entries, exits = signals(vbt, bars, strategy, points)
    close = pd.Series(bars.close, index=pd.DatetimeIndex(bars.time.view("M8[ns]")))
    freq = {"GOOG": "1D", "msft.csv": "1D", "goog.npz": "1D", "EURUSD": "1h"}.get(
        name, pd.Timedelta(days=365) / bars.bars_per_year
    )
    for fee in FEES:
        rows = backtest_all(bars, grid, strategy, fee=fee)  # type: ignore[arg-type]
        made = vbt.Portfolio.from_signals(close, entries, exits, fees=fee, freq=freq)
        valid = ~np.isnan(rows[:, 0])
        where = f"{strategy} on {name}, fee {fee}"
        np.testing.assert_array_equal(
            rows[valid, 3], made.orders.buy.count().to_numpy()[valid], err_msg=where
        )
        traded = valid & (rows[:, 3] > 0)  # without a trade vectorbt's ratio is infinite, ours NaN
        for column, values in enumerate(
            (made.total_return(), made.sharpe_ratio(), made.max_drawdown())
        ):
            np.testing.assert_allclose(
                rows[traded, column], values.to_numpy()[traded], rtol=1e-9, atol=1e-15,
                err_msg=where,
            )  # fmt: skip
