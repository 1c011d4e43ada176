"""The built-in strategies as a backend: batch after batch through PyTorch's operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError
from supervisor.rows.space import Space
from supervisor.system.install import advice
from workers.backend import Chunk
from workers.catalog import STRATEGIES
from workers.reference import Bars
from workers.torch_backtest.inputs import INPUTS, Inputs
from workers.torch_backtest.stop import Poll, Stopped, poll_of
from workers.torch_backtest.tables import Tables, make_tables

if TYPE_CHECKING:
    from workers.torch_backtest.engine import Engine

_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 28}
"""Combinations times bars in a batch. On the CPU, 16 MB for an array of float64: from 32 MB on
malloc asks the kernel for new pages at every operator. On a GPU, enough to fill it, and few
enough that a stop, which waits for what is queued, waits for some tens of milliseconds."""

_MOST_BATCH = 1 << 14

_KEPT_ELEMENTS = 1 << 27
"""Combinations times bars after which rows are kept: about a second on a CPU."""


class TorchBacktest:
    """Backtests one built-in strategy; implements :class:`workers.backend.Backend`.

    Rows equal those of :mod:`workers.reference` to 1e-9, trades and exposure exactly. They do
    not depend on the device, on the batch, or on how the grid is cut, bit for bit.

    Parameters
    ----------
    bars : Bars
        Read-only float64 arrays `high`, `low`, `close`, and `bars_per_year`.
    space : Space
        The combinations the strategy accepts; its grid was checked with
        :func:`workers.catalog.check`.
    strategy_name : str
        One of :data:`workers.catalog.STRATEGIES`.
    fee : float
        Fraction of the traded value that each fill costs.
    device : {"cpu", "cuda"}, optional
        Where tensors live; ``"cuda"`` is the first device that is visible to the worker.
    limit_bytes : int, optional
        Device memory that a worker may take, PyTorch's own share included; by default all of
        it. Ignored on the CPU.

    Attributes
    ----------
    batch : int
        Combinations that are aimed at, see :class:`workers.backend.Backend`. A worker takes
        fewer where its device has less memory.

    Raises
    ------
    ConfigError
        If the fee is not a fraction, or the device is unknown.
    """

    def __init__(
        self,
        bars: Bars,
        space: Space,
        strategy_name: str,
        *,
        fee: float,
        device: str = "cpu",
        limit_bytes: int | None = None,
    ) -> None:
        if not 0.0 <= fee < 1.0:
            raise ConfigError(f"fee must be at least 0 and below 1, not {fee}", key="fee")
        if device not in _ELEMENTS:
            raise ConfigError(f"device must be cpu or cuda, not {device!r}", key="device")
        self._bars = bars
        self._space = space
        self._facts = STRATEGIES[strategy_name]
        self._fee = fee
        self._device = device
        self._limit_bytes = limit_bytes
        self.batch = min(max(1, _ELEMENTS[device] // len(bars.close)), _MOST_BATCH)
        self._prepared: tuple[Inputs, Tables] | None = None
        self._engine: Engine | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that :meth:`evaluate` keeps."""
        return self._facts.columns

    def prepare(self) -> None:
        """Compute what all workers share, with NumPy; PyTorch is not imported here."""
        grid = self._space.grid
        axes = dict(zip(grid.names, grid.axes, strict=True))
        inputs = INPUTS[self._facts.name](self._bars, axes)
        tables = make_tables(self._bars.close, self._fee, self._bars.bars_per_year)
        self._prepared = inputs, tables

    def start(self) -> None:
        """Import PyTorch and open the device.

        Raises
        ------
        ConfigError
            If PyTorch is missing, cannot be imported, or lacks CUDA where it is needed.
        DeviceLostError
            If there is no GPU, or it cannot be opened.
        RunFailedError
            If the tables do not fit into the device's memory.
        """
        if self._prepared is None:
            raise RuntimeError("prepare() comes before start()")
        _import_torch()
        from workers.torch_backtest.engine import Engine

        self._engine = Engine(
            self._facts.name, *self._prepared, self._device, self._limit_bytes, self.batch
        )

    def evaluate(self, chunk: Chunk) -> int:
        """Compute a chunk batch by batch; see :meth:`workers.backend.Backend.evaluate`.

        A stop discards the current batch, some tens of milliseconds of work; every batch
        before it is kept.

        Raises
        ------
        DeviceLostError
            If the GPU failed; what was finished before has been kept.
        RunFailedError
            If memory does not suffice for a single combination.
        """
        if self._engine is None:
            raise RuntimeError("start() comes before evaluate()")
        for start, stop in self._pieces(chunk):
            until = self._evaluate(self._engine, chunk, start, stop)
            if until < stop:
                return until
        return chunk.stop

    def _pieces(self, chunk: Chunk) -> Iterator[tuple[int, int]]:
        """Ranges whose rows are kept together: all of the chunk where it has no rows."""
        if self._space.count(chunk.start, chunk.stop) == 0:
            yield chunk.start, chunk.stop
            return
        step = max(self.batch, min(_KEPT_ELEMENTS // len(self._bars.close), _MOST_BATCH))
        for start in range(chunk.start, chunk.stop, step):
            yield start, min(start + step, chunk.stop)

    def _evaluate(self, engine: Engine, chunk: Chunk, start: int, stop: int) -> int:
        """Compute a range, keep what was finished, and return where that ends."""
        indices = self._space.accepted(start, stop)
        finished: list[NDArray[np.float64]] = []
        done, until = 0, start
        try:
            for rows in self._batches(engine, indices, poll_of(chunk.stop_requested)):
                finished.append(rows)
                chunk.progress[0] += len(rows)
                done += len(rows)
                until = int(indices[done]) if done < len(indices) else stop
            until = stop
        except Stopped:
            pass
        finally:  # also where the device is lost
            if until > start:
                rows = np.concatenate(finished) if finished else np.empty((0, len(self.columns)))
                chunk.keep(start, self.columns, rows, stop=until, indices=indices[:done])
        return until

    def _batches(
        self, engine: Engine, indices: NDArray[np.int64], poll: Poll
    ) -> Iterator[NDArray[np.float64]]:
        """Rows of these combinations, in batches of the size that the engine has room for."""
        done = 0
        poll()
        while done < len(indices):
            rows = engine.backtest(self._values(indices[done : done + engine.batch]), poll)
            if rows is not None:
                done += len(rows)
                yield rows

    def _values(self, indices: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        grid = self._space.grid
        return {name: grid.axis(name)[at] for name, at in grid.digits(indices).items()}


def _import_torch() -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise ConfigError(f"PyTorch cannot be imported: {error}", key="device") from None
        raise ConfigError(f"PyTorch is not installed: {advice('torch')}", key="device") from None
    except (ImportError, OSError) as error:  # a library of its own that is missing or damaged
        raise ConfigError(f"PyTorch cannot be imported: {error}", key="device") from None
