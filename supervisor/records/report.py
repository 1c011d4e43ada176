"""How a run ended: ``report.json``, field by field (a contract).

Everything in it was observed. What was not measured is null, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from supervisor.records import rundir
from supervisor.states import ExitCode, RunStatus
from supervisor.system import durable, sealed
from supervisor.system.shape import Count, Like, Seconds, read_as


@dataclass(slots=True)
class Rung:
    """One step of the escalation: when it was taken, and how many processes were alive then."""

    name: str
    at_s: Seconds
    acted_on: Count


@dataclass(slots=True)
class StopReport:
    """How the run was ended on request.

    Attributes
    ----------
    requested_by : str
        A signal's name, ``stop command``, ``python``, ``warden`` …
    level : str
        ``drain``, ``stop`` or ``kill``: the highest that was requested.
    elapsed_s : float
        From the request until no process and no cluster job of the run was left, in s.
    rungs : list of Rung
        The steps that were taken.
    survivors : list of str
        Processes and jobs that were not seen to end, each with its state.
    """

    requested_by: str
    level: str
    elapsed_s: Seconds = 0.0
    rungs: list[Rung] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class GpuMemory:
    """Memory of one NVIDIA device that the run has used, in bytes, by all processes.

    Attributes
    ----------
    uuid, index, name
        The device, see :class:`~supervisor.system.gpus.Gpu`.
    baseline_bytes : int
        In use before the run's first process.
    peak_bytes : int
        Largest reading, other processes included.
    after_bytes : int or None
        Last reading; None: not measured.
    freed_bytes : int or None
        Peak less after.
    back : bool or None
        Whether nothing that the run took is missing; None: not measured.
    settled_s : float or None
        From the request (or the last chunk) until then, in s; None: it was not seen.
    source : str
        ``process``: what other processes took or gave back meanwhile was told apart;
        ``device``: only the device's figure is known.
    note : str
        What limits these figures; empty: nothing.
    """

    uuid: str
    index: int
    name: str
    baseline_bytes: int
    peak_bytes: int
    after_bytes: int | None = None
    freed_bytes: int | None = None
    back: bool | None = None
    settled_s: float | None = None
    source: str = "device"
    note: str = ""


@dataclass(slots=True)
class MemoryReport:
    """Memory of the warden and all its descendants: RAM as PSS, VRAM per device, in bytes.

    Attributes
    ----------
    ram_baseline_bytes : int
        Before the first worker was forked.
    ram_peak_bytes : int
        Largest sample.
    ram_after_bytes : int or None
        After the last process of the run was gone; None: not measured.
    ram_freed_bytes : int or None
        Peak less after.
    vram_baseline_bytes, vram_peak_bytes, vram_after_bytes, vram_freed_bytes : int or None
        Sums over ``gpus``; None: not measured.
    settled_s : float or None
        From the request (or the last chunk) until all memory that was measured, RAM and VRAM,
        was back at its baseline, in s; None if it was not back in time.
    ram_settled_s, vram_settled_s : float or None
        The same for each alone; ``vram_settled_s`` is that of the last device.
    gpus : list of GpuMemory
        The devices that the run has used.
    vram_note : str
        Why there is none, or what could not be measured.
    """

    ram_baseline_bytes: int
    ram_peak_bytes: int
    ram_after_bytes: int | None = None
    ram_freed_bytes: int | None = None
    vram_baseline_bytes: int | None = None
    vram_peak_bytes: int | None = None
    vram_after_bytes: int | None = None
    vram_freed_bytes: int | None = None
    settled_s: float | None = None
    ram_settled_s: float | None = None
    vram_settled_s: float | None = None
    gpus: list[GpuMemory] = field(default_factory=list)
    vram_note: str = ""

    def add_vram(self, gpus: list[GpuMemory], note: str) -> None:
        """Add the devices that the run has used, and the sums over them."""
        self.gpus, self.vram_note = gpus, note
        if not gpus:
            return
        self.vram_baseline_bytes = sum(gpu.baseline_bytes for gpu in gpus)
        self.vram_peak_bytes = sum(gpu.peak_bytes for gpu in gpus)
        self.vram_after_bytes = _sum(gpu.after_bytes for gpu in gpus)
        self.vram_freed_bytes = _sum(gpu.freed_bytes for gpu in gpus)
        times = [gpu.settled_s for gpu in gpus]
        self.vram_settled_s = _latest(times)
        self.settled_s = _latest([self.ram_settled_s, *times])


def _sum(parts: Iterable[int | None]) -> int | None:
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)


def _latest(times: list[float | None]) -> float | None:
    return None if None in times else max(time for time in times if time is not None)


class Gathered(NamedTuple):
    """The outcome of compacting a run's results.

    Attributes
    ----------
    done, failed : int
        Combinations with a row, and those of them that failed.
    unwritten : str
        Why there is no ``results.parquet``; empty: there is one, or none is wanted.
    missing : int
        Combinations that no journal has.
    """

    done: int = 0
    failed: int = 0
    unwritten: str = ""
    missing: int = 0


class Job(NamedTuple):
    """What a report says of a cluster job, see :class:`slurm.records.outcome.JobOutcome`."""

    id: str | None
    token: str
    state: str
    verified: bool


SeenJob = Annotated[dict[str, Any], Like(Job)]


@dataclass(slots=True)
class Report:
    """A run's report; the names of its fields are a contract."""

    run_id: rundir.RunId
    status: RunStatus
    reason: str
    exit_code: int
    containment: str
    combos_total: Count
    combos_done: Count
    combos_failed: Count
    elapsed_s: Seconds
    run_dir: str
    stop: StopReport | None = None
    memory: MemoryReport | None = None
    jobs: list[SeenJob] = field(default_factory=list)
    components_cleaned: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    resumed: Count = 0
    """How often the run was resumed; the combinations are counted over all attempts, the
    rest (times, memory, stop) is of the last one."""
    cause: str = ""
    """Which observation decided, see :class:`~supervisor.records.verdict.Cause`."""
    observed: dict[str, Any] = field(default_factory=dict)
    """What the verdict was given, see :class:`~supervisor.records.verdict.Observed`."""
    data: dict[str, Any] = field(default_factory=dict)
    """How the data was read and ratios annualised, see
    :class:`~supervisor.records.data_facts.DataFacts`; empty for a command."""
    command_status: int | None = None
    """Exit status of a supervised command, minus N where signal N killed it; None: of a
    sweep, or not seen."""
    seed: int | None = None
    """What the random numbers of a user's function were derived from; None: of a command, or of
    before there were seeds."""

    @property
    def usage(self) -> bool:
        """Whether the run failed because of something that the user can fix: an option, a file."""
        return self.exit_code == ExitCode.USAGE

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the checksum that ``report.json`` carries."""
        return sealed.with_checksum(asdict(self))

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Report:
        """Rebuild a report from what :meth:`to_json` gave; unknown keys are left out.

        Raises
        ------
        ValueError
            If it is not what :meth:`to_json` gave; names the field.
        """
        return read_as(cls, plain)

    def write(self) -> None:
        """Write ``report.json`` into the run's directory, durably."""
        durable.write_json(Path(self.run_dir) / rundir.REPORT_FILE, self.to_json(), named=False)
        rundir.sync_names(Path(self.run_dir))


def read_report(run_dir: Path) -> Report:
    """Read a run's report; its directory may have been moved since.

    Raises
    ------
    ConfigError
        If there is none, or it is not one; names the file and the field.
    """
    found = durable.read_record(run_dir / rundir.REPORT_FILE, Report, "a run's report")
    found.run_dir = str(run_dir)
    return found


def unseen(jobs: list[dict[str, Any]]) -> list[str]:
    """Name the jobs of a report that were not seen to end, as text."""
    return [
        f"job {job['id'] or '(id unknown)'}, state {job['state']}"
        for job in jobs
        if not job["verified"]
    ]
