"""Built-in strategies: each turns parameters into signals and has them accounted for.

A module per strategy, of the strategy's name, with a class ``Strategy``;
:mod:`workers.numba_backtest` imports only the one it needs.
"""
