"""From what a user asks for to a plan on disk: everything is checked here, once.

The cheap checks come first, the data next, and the run directory last: a run
that cannot be leaves nothing behind.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError, UnsupportedPlatformError
from supervisor.lifecycle import checks, inputs
from supervisor.market import cache
from supervisor.market.bars import Bars
from supervisor.records import registry, rundir
from supervisor.records.circumstances import circumstances, write_plan
from supervisor.records.claim import Claim
from supervisor.records.plan import Plan, Source, StopTimes
from supervisor.rows.grid import Grid, Value
from supervisor.rows.space import Space

Axes = Mapping[str, Iterable[Value] | Value]

_IMPORT_SPEC = re.compile(r"[^:]+:[A-Za-z_][\w.]*")

EXAMPLE_STRATEGY = "sma_cross"
EXAMPLE_GRID: Axes = {"fast": range(10, 610), "slow": range(620, 2420, 3)}


@dataclass(slots=True)
class Order:
    """What a user asks for, unchecked; ``None`` means "as usual"."""

    strategy: str | Callable[..., Any] | None = None
    grid: Axes | None = None
    data: Any = None
    workers: int | None = None
    device: str = "auto"
    fee: float = 0.0005
    times: StopTimes = field(default_factory=StopTimes)
    run_dir: Path | None = None
    containment: str = "auto"
    cluster: Mapping[str, Any] | None = None
    """How it is spread over a cluster, see :class:`supervisor.front.cluster.ClusterOrder`."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What may differ when a run is carried on; ``None`` means "as it was".

    Attributes
    ----------
    workers : int or None
        Worker processes.
    times : dict of str to float
        Timers of the escalation, by the names of :class:`~supervisor.records.plan.StopTimes`.
    retry_failed : bool
        Compute combinations that failed once more.
    changed_code : bool
        Accept a strategy file that was edited since the run began.
    containment : str or None
        How the run's processes are held together.
    """

    workers: int | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    retry_failed: bool = False
    changed_code: bool = False
    containment: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked order, its run directory made and ``run.json`` written."""

    plan: Plan
    run_dir: Path
    bars: Bars
    function: bytes | None
    claim: Claim
    retry_failed: bool = False
    finished: int = 0
    """Combinations that earlier attempts have finished."""
    notes: tuple[str, ...] = ()
    """What the report should mention besides."""


def prepare(order: Order) -> Prepared:
    """Check an order and make its run directory.

    Raises
    ------
    ConfigError
        If anything about it cannot be done as asked; nothing is left behind.
    """
    plan, bars, function = check(order)
    run_dir = rundir.create(order.run_dir or rundir.DEFAULT_ROOT / plan.run_id)
    claim = write_plan(run_dir, plan.to_json() | circumstances())
    return Prepared(plan, run_dir, bars, function, claim)


def check(order: Order) -> tuple[Plan, Bars, bytes | None]:
    """Check an order, as far as that goes without a directory: plan, data, dilled callable.

    Raises
    ------
    ConfigError
        If anything about it cannot be done as asked.
    """
    check_platform()
    strategy, source, function = _strategy(order.strategy)
    grid = _grid(order, strategy)
    workers = checks.check_workers(order.workers)
    fee = checks.check_fee(order.fee)
    device = checks.check_device(order.device)
    containment = checks.check_containment(order.containment)
    ordered = _constraint(strategy, source, grid)
    found = inputs.provenance(order.data, strategy, source)
    bars = _bars(order.data)
    registry.check()
    plan = Plan(
        run_id=rundir.new_run_id(),
        strategy=strategy,
        source=source,
        grid=grid,
        combos_total=Space(grid, ordered).total,
        data=bars.source,
        n_bars=len(bars),
        workers=workers,
        device=device,
        fee=fee,
        times=order.times,
        provenance=found,
        containment=containment,
        ordered=ordered,
    )
    return plan, bars, function


def check_platform() -> None:
    """Raise :class:`UnsupportedPlatformError` where allstop cannot work."""
    if sys.platform != "linux":
        raise UnsupportedPlatformError(
            f"allstop needs Linux (memfd, pidfd, futex), not {sys.platform}; "
            "on Windows it runs inside WSL2"
        )


def _strategy(asked: str | Callable[..., Any] | None) -> tuple[str, Source, bytes | None]:
    if asked is None:
        return EXAMPLE_STRATEGY, Source.BUILT_IN, None
    if callable(asked):
        from workers.user_function import pickle_function

        name = getattr(asked, "__qualname__", type(asked).__name__)
        return name, Source.CALLABLE, pickle_function(asked)
    if ":" not in asked:
        return asked, Source.BUILT_IN, None
    if not _IMPORT_SPEC.fullmatch(asked):
        raise ConfigError(
            f"strategy {asked!r}: write module:function or path/to/file.py:function",
            key="strategy",
        )
    home, _, name = asked.rpartition(":")
    if home.endswith(".py"):
        if not Path(home).is_file():
            raise ConfigError(f"strategy file {home} does not exist", key="strategy")
        asked = f"{Path(home).resolve()}:{name}"
    return asked, Source.IMPORT, None


def _grid(order: Order, strategy: str) -> Grid:
    if order.grid is None and order.strategy is None:
        return Grid.of(EXAMPLE_GRID)
    if order.grid is None:
        raise ConfigError(
            f"strategy {strategy!r} needs a grid: --grid name=start:stop:step", key="grid"
        )
    return Grid.of(order.grid)


def _constraint(strategy: str, source: Source, grid: Grid) -> tuple[str, str] | None:
    """Check the grid of a built-in strategy; return the strategy's constraint."""
    if source is not Source.BUILT_IN:
        return None
    from workers import catalog

    return catalog.check(strategy, grid).ordered


def _bars(data: Any) -> Bars:
    if data is not None:
        return cache.load(data)
    from supervisor.market.example import example_bars

    return example_bars()
