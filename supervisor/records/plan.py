"""The plan of a run: what it computes; frozen, validated, the same in every process."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from supervisor.errors import ConfigError, brief
from supervisor.records import rundir
from supervisor.records.data_facts import DataFacts
from supervisor.records.device import Stack
from supervisor.rows.ranking import Ranking
from supervisor.system.shape import AtLeastOne, Between, Count, ShapeError, read_as, read_fields

if TYPE_CHECKING:
    from supervisor.rows.grid import Grid
    from supervisor.rows.space import Space

MAX_WAIT_S = 86_400.0

MARGIN_VARIABLE = "ALLSTOP_MARGIN_S"
"""Environment variable that sets :func:`margin_s`; the tests shorten it."""
CONTAINMENTS = ("auto", "pid-namespace", "cgroup", "subreaper")
ALLOCATION = "SLURM_JOB_ID"
"""Environment variable that is set inside a SLURM job."""


class Source(StrEnum):
    """Where a strategy comes from."""

    BUILT_IN = "built-in"
    IMPORT = "import"
    """``module:function`` or ``path.py:function``, imported in the workers."""
    CALLABLE = "callable"
    """A Python callable, sent to the workers by dill."""


class Origin(StrEnum):
    """Where the bars of a run come from, and where a resumed run finds them."""

    EXAMPLE = "example"
    """The embedded example, generated again."""
    FILE = "file"
    MEMORY = "memory"
    """Handed in from Python; kept in the run directory while the run runs."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a resumed run finds the same data and the same code.

    Attributes
    ----------
    origin : Origin
        Where the bars come from.
    path : str
        The data file, absolute; empty where there is none.
    size, mtime_ns : int
        Of that file when it was read, in bytes and in ns since the epoch.
    code : str
        Digest of the strategy's own file; empty where none was found.
    cwd : str
        Directory in which the run was started: modules are imported from there.
    path_before, path_after : tuple of str
        What the caller's ``sys.path`` had before and after the interpreter's own directories:
        absolute.
    main : str
        The caller's program; empty: it has no file, as in a notebook.
    """

    origin: Origin = Origin.EXAMPLE
    path: str = ""
    size: int = 0
    mtime_ns: int = 0
    code: str = ""
    cwd: str = ""
    path_before: tuple[str, ...] = ()
    path_after: tuple[str, ...] = ()
    main: str = ""


def check_wait_s(value: Any, name: str) -> float:
    """Return a time that a rung of the escalation waits, in s.

    Raises
    ------
    ConfigError
        If it is no number from 0 to :data:`MAX_WAIT_S`; ``name`` is what the user calls it.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= MAX_WAIT_S:  # NaN is in no range
        raise ConfigError(
            f"{name} must be a number of seconds from 0 to {MAX_WAIT_S:,.0f}, not {brief(value)}",
            key=name,
        )
    return float(value)


@dataclass(frozen=True, slots=True)
class StopTimes:
    """How long each rung of the escalation waits for the one before it, in s.

    Parameters
    ----------
    grace_s : float
        From the stop flag to SIGTERM.
    terminate_s : float
        From SIGTERM to SIGKILL.
    verify_s : float
        From SIGKILL until what still lives is reported as a survivor.
    """

    grace_s: float = 2.0
    terminate_s: float = 1.0
    verify_s: float = 10.0

    def __post_init__(self) -> None:
        for key in ("grace_s", "terminate_s", "verify_s"):
            check_wait_s(getattr(self, key), key.removesuffix("_s"))

    @property
    def longest_s(self) -> float:
        """How long a stop may take before a warden that does not answer is killed, in s."""
        return self.grace_s + self.terminate_s + self.verify_s + margin_s()


def margin_s() -> float:
    """Time allowed beyond the last rung, in s: 3 unless :data:`MARGIN_VARIABLE` sets another."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(os.environ.get(MARGIN_VARIABLE, "")))
    return 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the warden and a later ``resume`` or ``report`` need to know.

    Attributes
    ----------
    run_id : str
        Name of the run, unique per user.
    strategy : str
        A built-in's name, ``module:function``, ``path.py:function``, or the
        callable's name.
    source : Source
        Which of these it is.
    grid : Grid
        The parameters to sweep.
    combos_total : int
        Combinations of this run's part of the grid that the strategy accepts.
    data : str
        Where the bars came from.
    n_bars : int
        Number of bars.
    workers : int
        Worker processes.
    device : str
        What was asked for, see :mod:`supervisor.records.device`.
    fee : float
        Fee per fill, as a fraction of the traded value.
    times : StopTimes
        Timers of the escalation.
    provenance : Provenance
        How a resumed run finds the same data and code.
    resumed : int
        How often the run was resumed.
    containment : str
        One of :data:`CONTAINMENTS`.
    shard : tuple of int or None
        The part of the grid that is this run's, as (start, stop); None: all of it.
    ordered : tuple of two str or None
        The strategy's constraint, see :class:`~supervisor.rows.space.Space`.
    stack : Stack
        What computes a built-in strategy; a function brings its own.
    devices : tuple of str
        For each worker the UUID of its GPU; empty: they compute on the CPU, or a function
        chooses for itself.
    spare_devices : tuple of str
        GPUs that were asked for and have no worker: one takes the place of a GPU that is lost.
    vram_limit_bytes : int or None
        Memory of each GPU that the run may use; None: all that is free.
    device_why : str
        Why ``stack`` and ``devices`` are what they are, in half a line.
    workers_asked : int or None
        The number of workers that the user asked for; None: it was left to us.
    seed : int or None
        What the random numbers of a user's function are derived from; None: of a run of before
        there were seeds, which is resumed with 0.
    fallback_workers : int
        Workers that compute the rest on the CPU if every GPU is lost; 0: then the run fails.
    copy_of : tuple of str
        Ids of the runs whose directory this one is a copy of: their journals are its own.
    ranking : Ranking
        Which combination is called the best.
    data_facts : DataFacts
        How the bars were read, and how ratios are annualised.
    """

    run_id: str
    strategy: str
    source: Source
    grid: Grid
    combos_total: Count
    data: str
    n_bars: Count
    workers: AtLeastOne
    device: str = "auto"
    fee: float = 0.0005
    times: StopTimes = field(default_factory=StopTimes)
    provenance: Provenance = field(default_factory=Provenance)
    resumed: Count = 0
    containment: str = "auto"
    shard: tuple[Count, Count] | None = None
    ordered: tuple[str, str] | None = None
    stack: Stack = Stack.NUMBA
    devices: tuple[str, ...] = ()
    spare_devices: tuple[str, ...] = ()
    vram_limit_bytes: AtLeastOne | None = None
    device_why: str = ""
    workers_asked: AtLeastOne | None = None
    fallback_workers: Count = 0
    copy_of: tuple[str, ...] = ()
    seed: Annotated[int, Between(0, 2**63 - 1)] | None = None
    ranking: Ranking = field(default_factory=Ranking)
    data_facts: DataFacts = field(default_factory=DataFacts)

    @property
    def slots(self) -> int:
        """The largest number of workers at a time: rows of the progress table."""
        return max(self.workers, self.fallback_workers)

    @property
    def worker_vram_bytes(self) -> int | None:
        """GPU memory that one worker may use, where it is limited."""
        if self.vram_limit_bytes is None or not self.devices:
            return None
        most = max(self.devices.count(device) for device in set(self.devices))
        return self.vram_limit_bytes // most

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The ids that this run's journals may have: its own first."""
        return (self.run_id, *self.copy_of)

    def journals(self, run_dir: Path) -> dict[Path, tuple[str, ...]]:
        """Return the directories of its journals, with the ids that these may have."""
        return rundir.journals(run_dir, self.run_ids)

    @property
    def space(self) -> Space:
        """The combinations of the grid that the strategy accepts."""
        from supervisor.rows.space import Space  # NumPy: not needed to supervise a command

        return Space(self.grid, self.ordered)

    @property
    def span(self) -> range:
        """Combinations of the grid that are this run's: a shard's, or all of them."""
        return range(*self.shard) if self.shard else range(self.grid.size)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``run.json``."""
        return {
            "run_id": self.run_id,
            "strategy": self.strategy,
            "source": str(self.source),
            "grid": self.grid.to_json(),
            **({"points": points} if (points := self.grid.points_to_json()) else {}),
            "combos_total": self.combos_total,
            "data": self.data,
            "n_bars": self.n_bars,
            "workers": self.workers,
            "device": self.device,
            "fee": self.fee,
            "times": asdict(self.times),
            "provenance": asdict(self.provenance),
            "resumed": self.resumed,
            "containment": self.containment,
            **({"shard": list(self.shard)} if self.shard else {}),
            **({"ordered": list(self.ordered)} if self.ordered else {}),
            "stack": str(self.stack),
            "devices": list(self.devices),
            "spare_devices": list(self.spare_devices),
            "vram_limit_bytes": self.vram_limit_bytes,
            "device_why": self.device_why,
            "workers_asked": self.workers_asked,
            "fallback_workers": self.fallback_workers,
            **({"copy_of": list(self.copy_of)} if self.copy_of else {}),
            "seed": self.seed,
            "ranking": self.ranking.to_json(),
            "data_facts": self.data_facts.to_json(),
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Plan:
        """Rebuild a plan from what :meth:`to_json` wrote; further keys are left alone.

        Raises
        ------
        ValueError, ConfigError
            If a key is missing, or its value is of another type or impossible; names it.
        """
        from supervisor.rows.grid import Grid  # NumPy: not needed for a command

        known = read_fields(cls, {"provenance": {}} | plain, Grid=dict[str, Any], Space=object)
        known["grid"] = _grid(Grid, known["grid"], plain)
        known["provenance"] = _provenance(plain)
        plan = cls(**known)
        _check_part(plan)
        return plan


class _Points(NamedTuple):
    """The part of ``run.json`` that says which points of its axes a grid has."""

    points: dict[str, list[int]] | None = None


def _grid(kind: type[Grid], axes: dict[str, Any], plain: dict[str, Any]) -> Grid:
    """Rebuild a grid; raises ShapeError or ConfigError if it is none."""
    try:
        return kind.from_json(axes, read_as(_Points, plain).points)
    except ConfigError:
        raise
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ShapeError(f"grid: {error}") from None


def _check_part(plan: Plan) -> None:
    """Raise ValueError if the part of the grid that is to be swept is none."""
    if plan.shard is not None and not plan.shard[0] <= plan.shard[1] <= plan.grid.size:
        raise ShapeError(f"shard must be a part of {plan.grid.size} combinations")
    if plan.ordered is None:
        return
    for name in plan.ordered:
        if name not in plan.grid.names or plan.grid.axis(name).dtype.kind not in "if":
            raise ShapeError(f"ordered must be two parameters that are numbers, not {brief(name)}")
    if plan.ordered[0] == plan.ordered[1]:
        raise ShapeError("ordered must be two parameters")


def _provenance(plain: dict[str, Any]) -> Provenance:
    if "provenance" in plain:
        return read_as(Provenance, plain["provenance"])
    # before runs could be resumed, only the data's name and the directory were written down
    cwd = read_as(str, plain.get("cwd", ""))
    data = read_as(str, plain.get("data", "example"))
    if data == "example":
        return Provenance(cwd=cwd)
    return Provenance(Origin.FILE, path=os.path.join(cwd, data), cwd=cwd)  # noqa: PTH118
