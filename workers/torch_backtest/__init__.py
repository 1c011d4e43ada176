"""The built-in strategies in PyTorch: the readable, portable path, on the CPU and on GPUs.

The steps, a file each:

- ``tables`` and ``curves``: what is computed once per run, or per window, in NumPy;
- ``signals``: which bars a strategy enters and leaves on, a row per combination;
- ``positions``: from signals to a list of positions;
- ``account``: from positions to a row of results, with ``ranges`` for prices in between;
- ``engine``: all of it for one batch, on one device (``device``);
- ``backtest``: batch after batch, until the chunk is done or a stop is requested.

Only ``backtest`` is imported in the warden, with what needs NumPy alone; the rest follows in
the worker.
"""

from workers.torch_backtest.backtest import TorchBacktest

__all__ = ["TorchBacktest"]
