"""Which backend computes a plan; each numeric stack is imported only when asked for."""

from __future__ import annotations

import os

from supervisor.market.bars import Bars
from supervisor.market.trading_year import by_median_spacing
from supervisor.records.device import AUTO, Stack
from supervisor.records.plan import Plan, Source
from workers.backend import Backend

PRELOAD_VARIABLE = "ALLSTOP_PRELOAD"
"""Environment variable; with ``0`` a function's imports are left to each worker, for functions
that do not use Numba: its import takes longer than many a test."""


def make_backend(plan: Plan, bars: Bars, function_fd: int | None) -> Backend:
    """Build the backend for a plan.

    Parameters
    ----------
    plan : Plan
        What to compute.
    bars : Bars
        What to compute it on.
    function_fd : int or None
        Descriptor of the pickled function, for :attr:`Source.CALLABLE`.
    """
    facts = plan.data_facts
    bars = bars.annualised_with(facts.bars_per_year or by_median_spacing(bars.time))
    if plan.source is Source.BUILT_IN:
        return _built_in(plan, bars)
    _load_for_functions()
    from workers.function_home import importer
    from workers.function_pickle import unpickler
    from workers.user_function import UserFunction

    if plan.source is Source.IMPORT:
        load = importer(plan.strategy, plan.provenance)
    elif function_fd is None:
        raise ValueError("a plan for a callable needs the callable")
    else:
        load = unpickler(function_fd, plan.provenance)
    return UserFunction(load, bars, plan.grid, plan.seed or 0)


def _built_in(plan: Plan, bars: Bars) -> Backend:
    """Build the backend of the plan's stack; no other one is imported."""
    limit = plan.worker_vram_bytes
    match plan.stack:
        case Stack.CUPY:
            from workers.cupy_backtest import CupyBacktest

            return CupyBacktest(bars, plan.space, plan.strategy, fee=plan.fee, limit_bytes=limit)
        case Stack.TORCH:
            from workers.torch_backtest import TorchBacktest

            return TorchBacktest(
                bars,
                plan.space,
                plan.strategy,
                fee=plan.fee,
                device="cuda" if plan.devices else "cpu",
                limit_bytes=limit,
            )
        case Stack.NUMBA:
            from workers.numba_backtest import NumbaBacktest

            return NumbaBacktest(bars, plan.space, plan.strategy, fee=plan.fee)


def preload(strategy: str, device: str = AUTO) -> None:
    """Import what the run needs, in the process that workers are forked from.

    Parameters
    ----------
    strategy : str
        What will probably be asked for. A built-in's kernels for the CPU are loaded, or
        compiled where they were not before; they need no Numba.
    device : str
        The device that will probably be asked for. For ``cuda`` and ``torch`` nothing is
        loaded: what they need before the fork is little, and CUDA is opened after it.
    """
    from workers.catalog import STRATEGIES

    if strategy not in STRATEGIES:
        _load_for_functions()
    elif device in (AUTO, "cpu"):
        from workers.numba_backtest import warm_up

        warm_up(strategy)


def _load_for_functions() -> None:
    """Import what most users' functions import, so that each forked worker has it."""
    import workers.function_home
    import workers.function_pickle
    import workers.user_function  # noqa: F401

    if os.environ.get(PRELOAD_VARIABLE) != "0":
        import cloudpickle  # noqa: F401
        import numba  # noqa: F401
