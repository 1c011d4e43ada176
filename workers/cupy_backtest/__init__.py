"""The built-in strategies on a GPU, by CuPy: rows are bit for bit those of the CPU's kernels.

``source/`` has the kernels in CUDA C++. Nothing here imports CuPy before a worker opens its
device, and nothing imports Numba.
"""

from workers.cupy_backtest.backtest import CupyBacktest

__all__ = ["CupyBacktest"]
