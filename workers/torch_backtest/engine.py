"""One batch of combinations on one device, and how many of them at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from supervisor.errors import DeviceLostError, RunFailedError
from workers.torch_backtest import device as devices
from workers.torch_backtest.account import Market, account
from workers.torch_backtest.inputs import Inputs
from workers.torch_backtest.positions import positions
from workers.torch_backtest.signals import Values, make_signals
from workers.torch_backtest.stop import Poll
from workers.torch_backtest.tables import Tables

BYTES_PER_BAR = 32
"""Memory that a combination takes at most at a time, per bar. Seen: 11 to 18 bytes; 74 where a
position is opened or closed at every bar, and such a batch may have to be halved."""

_SHARE = 0.7
"""Of the free device memory that a batch is planned for: blocks of unlike sizes leave gaps."""


class Engine:
    """A strategy on a device, ready to compute.

    Parameters
    ----------
    strategy_name : str
    inputs : Inputs
        From the strategy's entry in :data:`workers.torch_backtest.inputs.INPUTS`.
    tables : Tables
    device : {"cpu", "cuda"}
    limit_bytes : int or None
        Device memory that this process may take.
    batch : int
        Combinations to compute at once where memory allows it.

    Attributes
    ----------
    batch : int
        Combinations to compute at once; becomes smaller where memory runs out.

    Raises
    ------
    ConfigError, DeviceLostError
        As :func:`workers.torch_backtest.device.open_device`.
    RunFailedError
        If the tables do not fit into the device's memory.
    """

    def __init__(
        self,
        strategy_name: str,
        inputs: Inputs,
        tables: Tables,
        device: str,
        limit_bytes: int | None,
        batch: int,
    ) -> None:
        self._device = devices.open_device(device, limit_bytes)
        self._n_bars = tables.n_bars
        self.batch = batch
        try:
            self._market = Market(tables, self._device)
            self._signals = make_signals(strategy_name, inputs, self._device)
            if device == "cuda":
                room = devices.free_bytes(self._device, limit_bytes) * _SHARE
                self.batch = max(1, min(self.batch, int(room) // (BYTES_PER_BAR * self._n_bars)))
        except RuntimeError as error:
            self._judge(error)
            raise self._no_memory("the tables") from None

    def backtest(self, values: Values, poll: Poll) -> NDArray[np.float64] | None:
        """Compute the rows of a batch.

        Parameters
        ----------
        values : mapping of str to ndarray, shape (n_combinations,)
            The combinations' parameters.
        poll : Poll
            Called between operators.

        Returns
        -------
        ndarray of float64, shape (n_combinations, 5), or None
            None if memory ran out: :attr:`batch` is then smaller than it was.

        Raises
        ------
        Stopped
            By `poll`.
        DeviceLostError
            If the device failed.
        RunFailedError
            If memory does not suffice for a single combination.
        """
        n_combinations = len(next(iter(values.values())))
        try:
            enter, leave = self._signals.signals(values, poll)
            poll()
            held = positions(enter, leave, poll)
            del enter, leave
            poll()
            return account(self._market, held, poll)
        except RuntimeError as error:
            self._judge(error)
        # only here: until the error is forgotten, its traceback holds the batch's tensors
        self._signals.forget()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if n_combinations == 1:
            raise self._no_memory("one combination")
        self.batch = n_combinations // 2
        return None

    def _judge(self, error: RuntimeError) -> None:
        """Return if memory ran out, else raise what the error means."""
        if devices.is_out_of_memory(error):
            return
        if devices.is_lost(error):
            raise DeviceLostError(f"the GPU failed: {devices.first_line(error)}") from None
        raise error

    def _no_memory(self, what: str) -> RunFailedError:
        where = "GPU" if self._device.type == "cuda" else "CPU"
        return RunFailedError(
            f"the {where} has too little free memory for {what} on {self._n_bars:,} bars: "
            "free some, allow more, or take fewer bars"
        )
