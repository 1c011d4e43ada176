"""vectorbt: moving averages of all windows at once, then ``Portfolio.from_signals``.

References
----------
vectorbt's own example of a dual moving average crossover,
https://github.com/polakowo/vectorbt, README, "Usage".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.peer import Pair
from supervisor.market.bars import Bars


class Vectorbt:
    """See the module; float64, compiled by Numba, one core."""

    name = "vectorbt"
    package = "vectorbt"

    def prepare(self, bars: Bars, fee: float) -> None:
        """Make a pandas Series of the closes."""
        import pandas as pd  # type: ignore[import-untyped]
        import vectorbt

        self._vbt: Any = vectorbt
        self._close = pd.Series(bars.close, index=pd.to_datetime(bars.time))
        self._fee = fee

    def run(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """Backtest; ties are flat, as ours are."""
        moving_average = self._vbt.MA
        fast = moving_average.run(self._close, [fast for fast, _ in pairs], short_name="fast")
        slow = moving_average.run(self._close, [slow for _, slow in pairs], short_name="slow")
        above = fast.ma_above(slow)
        portfolio = self._vbt.Portfolio.from_signals(
            self._close, above, ~above, fees=self._fee, freq="1min"
        )
        portfolio.sharpe_ratio()
        portfolio.max_drawdown()
        portfolio.trades.count()
        returns: NDArray[np.float64] = portfolio.total_return().to_numpy()
        return returns


PEER = Vectorbt()
