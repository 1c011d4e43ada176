"""Makes a plan on disk from a user's order.

Each option was checked on its own (:mod:`supervisor.lifecycle.options`); what depends on
several is checked here: the cheap things first, the data next, and the run directory last. A
run that cannot start leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError, DataError, UnsupportedPlatformError
from supervisor.lifecycle import checks, inputs, options
from supervisor.lifecycle.gpu.place import Placed, place, refuse_for_function
from supervisor.lifecycle.options import Given
from supervisor.market import cache
from supervisor.market.asked import Asked
from supervisor.market.bars import Bars
from supervisor.records import registry, rundir
from supervisor.records.claim import Claim
from supervisor.records.data_facts import DataFacts
from supervisor.records.device import Stack, parse_device
from supervisor.records.environment_snapshot import write_run_file
from supervisor.records.events import latest
from supervisor.records.plan import Plan, Source, StopTimes
from supervisor.rows.grid import Grid
from supervisor.rows.names import check_parameters
from supervisor.rows.ranking import Ranking
from supervisor.rows.space import Space

Axes = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""Values of each parameter, or points."""

_IMPORT_SPEC = re.compile(r"[^:]+:[A-Za-z_][\w.]*")

_SEED_BITS = 32
"""Of a seed that is drawn: short enough to be typed again."""

EXAMPLE_STRATEGY = "sma_cross"
EXAMPLE_GRID: Axes = {"fast": range(10, 610), "slow": range(620, 2420, 3)}


@dataclass(frozen=True, slots=True)
class Order:
    """A sweep that a user asks for; each value was checked on its own.

    Attributes
    ----------
    strategy, grid, data
        As for :func:`supervisor.sweep`; None: the example.
    columns, symbol, bars_per_year, year_days
        As there; None: found out from the data.
    workers : int or None
        Worker processes; None: one per usable core, or per GPU.
    device, containment : str
        As in :class:`~supervisor.records.plan.Plan`.
    vram_limit : int or None
        Memory of each GPU that the run may use, in bytes.
    fee : float
        As there.
    seed : int or None
        As there; None: one is drawn.
    times : StopTimes
        Timers of the escalation.
    sort, ascending, min_trades
        As in :class:`~supervisor.rows.ranking.Ranking`; None: no metric was named.
    run_dir : Path or None
        Directory of the run; None: one below ``runs/``.
    """

    strategy: str | Callable[..., Any] | None
    grid: Axes | None
    data: Any
    columns: str | None
    symbol: str | None
    bars_per_year: float | None
    year_days: int | None
    workers: int | None
    device: str
    vram_limit: int | None
    fee: float
    seed: int | None
    containment: str
    sort: str | None
    ascending: bool
    min_trades: int
    run_dir: Path | None
    times: StopTimes

    @classmethod
    def of(cls, given: Given) -> Order:
        """Make it of the options that were set, and the defaults of the others."""
        names = [item.name for item in fields(cls) if item.name != "times"]
        return cls(**options.with_defaults(given, names), times=StopTimes(**options.timers(given)))


@dataclass(frozen=True, slots=True)
class Changes:
    """What may differ when a run is resumed; ``None`` means "as it was".

    Attributes
    ----------
    workers : int or None
        Worker processes.
    times : dict of str to float
        Timers of the escalation, by the names of :class:`~supervisor.records.plan.StopTimes`.
    retry_failed : bool
        Compute failed combinations again.
    changed_code : bool
        Accept a strategy file that was edited since the run began.
    containment : str or None
        How the run's processes are held together.
    device : str or None
        Where it computes.
    vram_limit : int or None
        Memory of each GPU that the run may use, in bytes.
    cores : int or None
        Workers if it computes on the CPU, whatever was asked for: a cluster job's cores.
    sort, ascending, min_trades
        As in :class:`~supervisor.rows.ranking.Ranking`.
    """

    workers: int | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    retry_failed: bool = False
    changed_code: bool = False
    containment: str | None = None
    device: str | None = None
    vram_limit: int | None = None
    cores: int | None = None
    sort: str | None = None
    ascending: bool = False
    min_trades: int | None = None

    def ranking(self, before: Ranking) -> Ranking:
        """Return how to rank: a metric that is named anew is descending, unless told otherwise."""
        return Ranking(
            before.metric if self.sort is None else self.sort,
            self.ascending or (before.ascending and self.sort is None),
            before.min_trades if self.min_trades is None else self.min_trades,
        )

    @classmethod
    def of(cls, given: Given) -> Changes:
        """Take them from the options that were set."""
        names = [item.name for item in fields(cls) if item.name in given]
        return cls(**{name: given[name] for name in names}, times=options.timers(given))


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
    """Remarks for the report."""


def prepare(order: Order, *, elsewhere: bool = False) -> Prepared:
    """Check an order and make its run directory.

    Parameters
    ----------
    order : Order
        What was asked for.
    elsewhere : bool
        Cluster jobs compute it: its device is looked for there.

    Raises
    ------
    ConfigError
        If it cannot be met; nothing is left behind.
    """
    plan, bars, function = check(order)
    placed = Placed(plan) if elsewhere else place(plan, plan.combos_total, plan.workers)
    plan = placed.plan
    run_dir = rundir.create(order.run_dir or rundir.DEFAULT_ROOT / plan.run_id)
    claim = write_run_file(run_dir, plan.to_json())
    return Prepared(plan, run_dir, bars, function, claim, notes=placed.notes)


@contextlib.contextmanager
def nothing_left(run_dir: Path, *, resumed: int) -> Iterator[None]:
    """Remove the directory of a new run that could not begin because a limit was hit.

    It has not begun as long as no warden was asked to.
    """
    try:
        yield
    except (OSError, MemoryError, ImportError, RuntimeError):
        if not (resumed or latest(run_dir, "front.run_requested")):
            rundir.discard(run_dir)
        raise


def check(order: Order) -> tuple[Plan, Bars, bytes | None]:
    """Check an order without making a directory; return plan, data and dilled callable.

    The plan says what device was asked for, not yet where that is.

    Raises
    ------
    ConfigError
        If it cannot be met.
    """
    check_platform()
    strategy, source = _strategy(order.strategy)
    grid = _grid(order, strategy)
    function = _function(order.strategy, grid)
    workers = checks.default_workers() if order.workers is None else order.workers
    ordered = _constraint(strategy, source, grid)
    ranking = Ranking(order.sort or "", order.ascending, order.min_trades)
    check_ranking(ranking, source)
    asked = parse_device(order.device)
    refuse_for_function(asked, source)
    found = inputs.provenance(order.data, strategy, source)
    bars = _bars(order)
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
        device=order.device,
        fee=order.fee,
        times=order.times,
        provenance=found,
        containment=order.containment,
        ordered=ordered,
        stack=asked.stack or Stack.NUMBA,
        vram_limit_bytes=order.vram_limit,
        workers_asked=order.workers,
        seed=secrets.randbits(_SEED_BITS) if order.seed is None else order.seed,
        ranking=ranking,
        data_facts=_data_facts(order, bars),
    )
    return plan, bars, function


def check_platform() -> None:
    """Raise :class:`UnsupportedPlatformError` where allstop cannot work."""
    if sys.platform != "linux":
        raise UnsupportedPlatformError(
            f"allstop needs Linux (memfd, pidfd, futex), not {sys.platform}; "
            "on Windows it runs inside WSL2"
        )


def _function(asked: str | Callable[..., Any] | None, grid: Grid) -> bytes | None:
    """Pickle a callable, with the values of the grid that only it can tell apart."""
    values = grid.opaque()
    if callable(asked):
        from workers.function_pickle import pickle_function
        from workers.grid_values import WithValues

        return pickle_function(WithValues(asked, values) if values else asked)
    for name, named in values.items():
        raise ConfigError(
            f"grid axis {name!r} has values such as {next(iter(named))}, which only a function "
            "that is passed itself, not by name, can be given: use texts or numbers",
            key="grid",
        )
    return None


def _strategy(asked: str | Callable[..., Any] | None) -> tuple[str, Source]:
    if asked is None:
        return EXAMPLE_STRATEGY, Source.BUILT_IN
    if callable(asked):
        return getattr(asked, "__qualname__", type(asked).__name__), Source.CALLABLE
    if ":" not in asked:
        return asked, Source.BUILT_IN
    if not _IMPORT_SPEC.fullmatch(asked):
        raise ConfigError(
            f"strategy {asked!r}: write module:function or path/to/file.py:function",
            key="strategy",
        )
    home, _, name = asked.rpartition(":")
    inputs.check_code(home)
    if home.endswith(".py"):
        asked = f"{Path(home).resolve()}:{name}"
    return asked, Source.IMPORT


def _grid(order: Order, strategy: str) -> Grid:
    if order.grid is None and order.strategy is None:
        return Grid.of(EXAMPLE_GRID)
    if order.grid is None:
        raise ConfigError(
            f"strategy {strategy!r} needs a grid: --grid name=start:stop:step", key="grid"
        )
    grid = Grid.of(order.grid)
    check_parameters(grid.names)
    return grid


def _constraint(strategy: str, source: Source, grid: Grid) -> tuple[str, str] | None:
    """Check the grid of a built-in strategy; return the strategy's constraint."""
    if source is not Source.BUILT_IN:
        return None
    from workers import catalog

    return catalog.check(strategy, grid).ordered


def check_ranking(ranking: Ranking, source: Source) -> None:
    """Refuse a metric that a built-in strategy does not have; a function's are not known yet.

    Raises
    ------
    ConfigError
        Names the metrics that there are.
    """
    if source is not Source.BUILT_IN:
        return
    from workers.catalog import COLUMNS

    if ranking.choose(COLUMNS) is None:
        raise ConfigError(
            f"sort: the strategy has no metric {ranking.metric!r}; "
            f"its metrics: {', '.join(COLUMNS)}",
            key="sort",
        )


def _bars(order: Order) -> Bars:
    asked = Asked(order.columns or "", order.symbol or "")
    _check_data_options(order, asked)
    if order.data is None:
        from supervisor.market.example import example_bars

        return example_bars()
    try:
        return cache.load(order.data, asked)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=str(order.data)) from None


def _check_data_options(order: Order, asked: Asked) -> None:
    if order.bars_per_year is not None and order.year_days is not None:
        raise ConfigError(
            "bars_per_year and year_days both say how long a year is: give one of them",
            key="year_days",
        )
    if asked and (order.data is None or isinstance(order.data, Bars)):
        key = "columns" if asked.columns else "symbol"
        raise ConfigError(f"{key} is for data that is read: give data, a file or a table", key=key)


def _data_facts(order: Order, bars: Bars) -> DataFacts:
    year = bars.year(order.bars_per_year, order.year_days)
    flat = bars.close.min() == bars.close.max()
    return DataFacts(
        columns=order.columns or "",
        symbol=order.symbol or "",
        bars_per_year=year.bars,
        annualised=year.words,
        notes=(*bars.notes, *(["the close never changes"] if flat else [])),
    )
