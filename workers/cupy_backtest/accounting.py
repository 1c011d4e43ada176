"""The prefix tables that accounting needs, on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workers.cupy_backtest import tables
from workers.cupy_backtest.device import Buffer, Device
from workers.cupy_backtest.layout import TABLES, Struct, struct

if TYPE_CHECKING:
    from workers.strategies.market import Bars

_ARRAYS = ("close", "entries", "exits", "spans", "falls", "tiles")


class Accounting:
    """Prefix tables, made by NumPy before the fork and copied to the device after it.

    Parameters
    ----------
    bars : Bars
    fee : float
        Fraction of the traded value that each fill costs.

    Attributes
    ----------
    tables : Struct
        What a sweep is passed; null pointers before :meth:`open`.
    """

    def __init__(self, bars: Bars, fee: float) -> None:
        self._tables = made = tables.make_prefix_tables(
            np.array(bars.close), fee, bars.bars_per_year
        )
        self._there: dict[str, Buffer] = {}
        self.tables: Struct = struct(
            TABLES,
            entry_factor=made.fees.entry_factor,
            exit_factor=made.fees.exit_factor,
            unit_sum=made.units.sum,
            unit_squares=made.units.squares,
            bars_per_year=made.bars_per_year,
            n_bars=len(made.close),
            n_tiles=len(made.tiles),
            n_blocks=len(made.falls),
        )

    def open(self, device: Device) -> None:
        """Copy them to the device.

        Raises
        ------
        OutOfDeviceMemoryError
            If they do not fit: 76 bytes a bar.
        """
        for name in _ARRAYS:
            self._there[name] = device.upload(getattr(self._tables, name))
            self.tables[name] = self._there[name].address
