"""The interface of another library that is measured beside ours, and the list of these.

A peer is one file in ``bench/peers`` with an object ``PEER``; nothing else
needs to know of it. The file imports its library in :meth:`Peer.prepare`, so
that looking at the list of peers needs none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench import peers
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


@dataclass(frozen=True, slots=True)
class Listed:
    """A peer's file, and why it cannot be measured (empty if it can)."""

    module: str
    peer: Peer
    missing: str


def list_peers() -> list[Listed]:
    """Look at every peer there is, in the order of their files' names."""
    found = []
    for info in sorted(pkgutil.iter_modules(peers.__path__), key=lambda info: info.name):
        peer: Peer = importlib.import_module(f"bench.peers.{info.name}").PEER
        installed = importlib.util.find_spec(peer.package) is not None
        found.append(Listed(info.name, peer, "" if installed else "not installed"))
    return found
