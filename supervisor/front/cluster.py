"""The front of a sweep that a cluster computes: an array job, a shard to each task.

Here nothing is computed. The shards' journals come together in the run directory, on
a file system that the nodes share, or fetched from where they lie; results are put
together from them as from a local run's.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from slurm.client import LEASE_S, Client
from slurm.connect import connect
from slurm.job import Job
from slurm.tokens import new_token
from slurm.watch import JobWatch
from supervisor.errors import AllstopError, ConfigError
from supervisor.front.link import WardenLink
from supervisor.front.run import Front, Progress
from supervisor.ipc import messages
from supervisor.lifecycle import inputs
from supervisor.lifecycle.depot import depot_of
from supervisor.lifecycle.finish import gather
from supervisor.lifecycle.prepare import Prepared
from supervisor.lifecycle.shards import divide, unfinished
from supervisor.records import rundir
from supervisor.records.report import Gathered, MemoryReport, Report
from supervisor.rows.index import covered
from supervisor.states import ExitCode, RunStatus
from supervisor.system.environment import child_environment

MAX_TASKS = 10_000
_FETCH_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class ClusterOrder:
    """How a sweep is to be spread over a cluster.

    Attributes
    ----------
    address : str
        ``local``, or ``ssh:HOST``.
    tasks : int
        Parts it is divided into.
    job : dict
        What each of them needs, see :class:`slurm.job.Job`.
    lease_s : int
        How long the jobs live on when this process is silent, in s; 0: for ever.
    detach : bool
        Let them outlive the run.
    python : str
        The interpreter there that has this package; empty: this one here, ``python3`` there.

    Raises
    ------
    ConfigError
        If that cannot be; names the key.
    """

    address: str = "local"
    tasks: int = 4
    job: dict[str, Any] = field(default_factory=dict)
    lease_s: int = LEASE_S
    detach: bool = False
    python: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.tasks <= MAX_TASKS:
            raise ConfigError(
                f"tasks must lie between 1 and {MAX_TASKS:,}, not {self.tasks}", key="tasks"
            )
        ours = sorted({"command", "array", "hold"} & set(self.job))
        if ours:
            raise ConfigError(f"job option {ours[0]} belongs to allstop: leave it out", key="job")
        Job.from_options({"command": ["true"], **self.job})
        if self.lease_s < 0:
            raise ConfigError(
                f"lease: {self.lease_s} is not a number of seconds, or 0", key="lease_s"
            )
        connect(self.address).close()


class ClusterFront(Front):
    """Carries one sweep from its plan to its report, on a cluster.

    Parameters
    ----------
    prepared : Prepared
        What to run; its directory must be on a file system that the nodes share.
    link : WardenLink
        A warden without a run, to stand guard; this object owns it from now on.
    order : ClusterOrder
        How it is spread.
    """

    def __init__(self, prepared: Prepared, link: WardenLink, order: ClusterOrder) -> None:
        super().__init__(prepared, link, keep_warden=False, detach=order.detach)
        self.plan = prepared.plan
        self._prepared = prepared
        self._order = order
        self._space = prepared.plan.space
        self._shards = divide(prepared.plan.grid.size, order.tasks)
        transport = connect(order.address)
        self._depot = depot_of(self.run_dir, transport)
        self._fetch_at = time.monotonic() + _FETCH_EVERY_S
        client = Client(
            transport,
            token=new_token(prepared.plan.run_id),
            ledger=self.run_dir / rundir.LEDGER_FILE,
            lease_s=0 if order.detach else order.lease_s,
        )
        self._jobs = JobWatch(client, self.nudge, begin=self._submit, observe=self._count)

    def progress(self) -> Progress:
        """Combinations that have come back so far."""
        return Progress(
            status=self._status,
            done=self.finished,
            total=self.plan.combos_total,
            failed=0,
            elapsed_s=time.monotonic() - self._began,
            ram_bytes=0,
            best=None,
            stop_level=self.flag.level,
        )

    def status_line(self) -> str:
        """Combinations done, and time."""
        progress = self.progress()
        return (
            f"{progress.status}: {progress.done:,} of {progress.total:,} combinations, "
            f"{progress.elapsed_s:.1f} s, on {self._order.address}"
        )

    # -- in the thread that talks to the cluster -----------------------------

    def _submit(self, client: Client) -> None:
        """Submit the shards that are not finished."""
        inputs.keep(self.run_dir, self.plan, self._prepared.bars, self._prepared.function)
        place = self._depot.stock(self._prepared)
        left = unfinished(self.run_dir, self.plan, self._shards)
        if not left:
            return
        cpus = self._order.job.get("cpus", 1)
        options: dict[str, Any] = {
            "output": f"{place}/{rundir.LOG_DIR}/shard-%a.log",
            "requeue": True,
        }
        if self._order.address == "local":
            options["environment"] = _where_we_are()
        client.submit(
            **(options | self._order.job),
            command=[
                "sh", "-c", 'exec "$@" "$SLURM_ARRAY_TASK_ID"', "sh",
                self._python(), "-P", "-m", "supervisor.cli.shard",
                place, str(cpus), str(len(self._shards)),
            ],
            array=_indices(left),
        )  # fmt: skip

    def _count(self, _client: Client) -> None:
        """See how much has come back; it is for show, so what goes wrong may go right later."""
        with contextlib.suppress(AllstopError, OSError):
            if time.monotonic() >= self._fetch_at:
                self._fetch_at = time.monotonic() + _FETCH_EVERY_S
                self._depot.fetch()
            self._recount()

    def _recount(self) -> None:
        done = covered(rundir.journal_dirs(self.run_dir), self._space)
        self._advance(self._space.count_all(done))

    def _python(self) -> str:
        return self._order.python or (
            sys.executable if self._order.address == "local" else "python3"
        )

    # -- what depends on the work --------------------------------------------

    def _hand_over(self) -> None:
        self._link.send(messages.StartGuard(str(self.run_dir)), [self.flag.fileno()])

    def _show_where(self) -> None:
        self._say(self.status_line())

    def _measure_memory(self) -> MemoryReport | None:
        return None  # the shards' reports tell of theirs

    def _gather(self) -> Gathered:
        return gather(self.run_dir, self.plan, self._note_error)

    def _see_jobs_out(self, jobs: JobWatch, status: RunStatus) -> RunStatus:
        status = super()._see_jobs_out(jobs, status)
        if jobs.refused:
            return status
        self._bring_in()
        missing = self.plan.combos_total - self.finished
        if status is RunStatus.STOPPED or not missing:
            return status if jobs.cancelling else RunStatus.COMPLETED
        if self._detach:
            self._reason = f"{len(jobs.jobs)} cluster job(s) run on; collect with allstop resume"
            return RunStatus.STOPPED
        why = self._reason or "its jobs have ended"
        self._reason = (
            f"{missing:,} combinations did not come back ({why}): see {rundir.LOG_DIR}/shard-*.log "
            "and carry it on with allstop resume"
        )
        return RunStatus.FAILED

    def _bring_in(self) -> None:
        """Have all here that the shards have written."""
        try:
            self._depot.fetch()
        except (AllstopError, OSError) as error:
            self._note_error(f"results could not be fetched, they stay where they are: {error}")
        self._recount()

    def _complete(self, report: Report) -> None:
        nothing_to_keep = report.exit_code == ExitCode.USAGE and not self.finished
        if report.status is RunStatus.COMPLETED or nothing_to_keep:
            with contextlib.suppress(AllstopError):  # it is litter there, and nothing is lost
                self._depot.clear()


def _indices(shards: list[int]) -> str:
    """Name array indices as ``sbatch`` takes them: runs of them as ranges."""
    ranges: list[list[int]] = []
    for index in shards:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges)


def _where_we_are() -> dict[str, str]:
    """Variables by which a job finds this package, where it runs from a checkout."""
    path = child_environment().get("PYTHONPATH")
    return {"PYTHONPATH": path} if path else {}
