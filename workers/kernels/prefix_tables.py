"""What accounting needs to know about the bars, computed once per run.

Inside a position equity is price times a constant. So a position's return
sums are differences of running sums, and its highest and lowest equity come
from the extremes of the prices: of whole blocks of 64 bars, and of the pieces
of a block at both ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.kernels.entries import fill_extremes, fill_sums
from workers.kernels.table_layout import (
    FILL,
    SPAN,
    SUMS,
    Fees,
    PrefixTables,
    Units,
    empty_tables,
)

__all__ = ["FILL", "SPAN", "SUMS", "Fees", "PrefixTables", "Units", "make_prefix_tables"]


def make_prefix_tables(
    close: NDArray[np.float64], fee: float, bars_per_year: float
) -> PrefixTables:
    """Compute the tables; some ten milliseconds for half a million bars.

    Parameters
    ----------
    close : ndarray of float64, shape (n_bars,)
        Positive and finite.
    fee : float
        Fraction of the traded value that each fill costs.
    bars_per_year : float
        For the Sharpe ratio.
    """
    tables = empty_tables(close, fee, bars_per_year)
    fill_sums(*tables[:3], tables.tiles, tables.units, float(fee))
    fill_extremes(*tables[:5])
    return tables
