"""The interface of another library that is measured beside ours.

A peer is one file in ``bench/peers`` with an object ``PEER``; nothing else
needs to know of it, see :func:`bench.peers.list_peers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from supervisor.market.bars import Bars

Pair = tuple[int, int]
"""Windows (fast, slow) of one moving average crossing."""


class Peer(Protocol):
    """Backtests moving average crossings with another library, on one core.

    Attributes
    ----------
    name : str
        For the table.
    package : str
        What must be importable.
    """

    name: str
    package: str

    def prepare(self, bars: Bars, fee: float) -> None:
        """Import the library and convert the data; not timed."""
        ...

    def run(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """Backtest pairs of windows as a user of the library would; timed.

        Must compute total return, Sharpe ratio, drawdown and number of trades.

        Returns
        -------
        ndarray of float64, shape (n_pairs,)
            Total returns: proof that the same work was done.
        """
        ...
