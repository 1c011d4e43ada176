"""The compiled functions that the rest of the program calls.

Each is described where it is written, in :mod:`workers.kernels.source`.
"""

from __future__ import annotations

from workers.kernels.kernel import Kernel

fill_sums = Kernel("prefix_tables", "fill_sums")
fill_extremes = Kernel("prefix_tables", "fill_extremes")

average_extremes = Kernel("curves", "average_extremes")
deviations = Kernel("curves", "deviations")
highest_before = Kernel("curves", "highest_before")
rsi = Kernel("curves", "rsi")
signal_above = Kernel("curves", "signal_above")
signal_below = Kernel("curves", "signal_below")
signal_below_band = Kernel("curves", "signal_below_band")
signal_greater = Kernel("curves", "signal_greater")

publish = Kernel("bank", "publish")
unwritten = Kernel("bank", "unwritten")

sweep_average_crosses = Kernel("sweep", "sweep_average_crosses")
sweep_signals = Kernel("sweep", "sweep_signals")
