"""A sweep that a cluster computes, seen from its front: an array job with a shard per task.

Nothing is computed on this machine. The shards' journals are in the run directory, if it is on
a file system that the nodes share, or are fetched from the cluster. Results are compacted from
them as in a local run.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from slurm.client import Client
from slurm.connect import connect
from slurm.records.tokens import new_token
from slurm.watch import JobWatch
from supervisor.errors import AllstopError
from supervisor.front.link import WardenLink
from supervisor.front.progress import Count
from supervisor.front.run import Front
from supervisor.front.work import Run, Work
from supervisor.ipc import messages
from supervisor.lifecycle import inputs
from supervisor.lifecycle.gather import gather
from supervisor.lifecycle.prepare import Prepared
from supervisor.lifecycle.shards import divide, unfinished
from supervisor.lifecycle.spread import ClusterOrder
from supervisor.lifecycle.staging import staging_area
from supervisor.records import rundir
from supervisor.records.report import Gathered, Report
from supervisor.rows.index import covered
from supervisor.states import RunStatus
from supervisor.system.environment import child_environment

_FETCH_EVERY_S = 30.0


def cluster_front(prepared: Prepared, link: WardenLink, order: ClusterOrder) -> Front:
    """Make the front of a sweep that a cluster computes.

    Parameters
    ----------
    prepared : Prepared
        What to run; its directory must be on a file system that the nodes share.
    link : WardenLink
        A warden without a run, which guards the jobs; the front owns it from now on.
    order : ClusterOrder
        How it is divided and submitted.
    """
    return Front(prepared, link, lambda run: ClusterSweep(run, prepared, order), keep_warden=False)


class ClusterSweep(Work):
    """A sweep of which nothing is computed on this machine.

    Parameters
    ----------
    run : Run
        The run it is the work of.
    prepared : Prepared
        What to compute.
    order : ClusterOrder
        How it is divided and submitted.
    """

    elsewhere = True
    jobs: JobWatch

    def __init__(self, run: Run, prepared: Prepared, order: ClusterOrder) -> None:
        self._run = run
        self._plan = prepared.plan
        self._space = prepared.plan.space
        self._prepared = prepared
        self._order = order
        self.detach = order.detach
        self._shards = divide(prepared.plan.grid.size, order.tasks)
        transport = connect(order.address)
        self._staging = staging_area(run.run_dir, transport)
        self._fetch_at = time.monotonic() + _FETCH_EVERY_S
        client = Client(
            transport,
            token=new_token(prepared.plan.run_id),
            ledger=run.run_dir / rundir.LEDGER_FILE,
            lease_s=0 if order.detach else order.lease_s,
            scribe=run.link.scribe.line,
        )
        self.jobs = JobWatch(client, run.nudge, begin=self._submit, observe=self._count)

    def count(self) -> Count:
        """Combinations whose rows have been seen so far."""
        return Count(done=self._run.finished, total=self._plan.combos_total)

    def status_line(self) -> str:
        """Combinations done, and time."""
        progress = self._run.progress()
        return (
            f"{progress.status}: {progress.done:,} of {progress.total:,} combinations, "
            f"{progress.elapsed_s:.1f} s, on {self._order.address}"
        )

    # -- in the thread that talks to the cluster -----------------------------

    def _submit(self, client: Client) -> None:
        """Submit the shards that are not finished."""
        inputs.keep(self._run.run_dir, self._plan, self._prepared.bars, self._prepared.function)
        place = self._staging.stage(self._prepared)
        left = unfinished(self._run.run_dir, self._plan, self._shards)
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
        """Count the rows so far; an error is ignored, since only the display depends on it."""
        with contextlib.suppress(AllstopError, OSError):
            if time.monotonic() >= self._fetch_at:
                self._fetch_at = time.monotonic() + _FETCH_EVERY_S
                self._staging.fetch()
            self._recount()

    def _recount(self) -> None:
        done = covered(self._plan.journals(self._run.run_dir), self._space)
        self._run.advance(self._space.count_all(done))

    def _python(self) -> str:
        return self._order.python or (
            sys.executable if self._order.address == "local" else "python3"
        )

    # -- what depends on the work --------------------------------------------

    def hand_over(self) -> None:
        """Have the warden guard the jobs: if this process dies, it has them cancelled."""
        message = messages.StartGuard(str(self._run.run_dir))
        self._run.link.send(message, [self._run.flag.fileno()])

    def show_where(self) -> None:
        """Show how far the run is: it has no process on this machine."""
        self._run.display.say(self.status_line())

    def gather(self) -> Gathered:
        """Fetch all that the shards have written, and write ``results.parquet``."""
        if not self.jobs.view.refused:
            self._bring_in()
        return gather(self._run.run_dir, self._plan, self._run.notes.note)

    def _bring_in(self) -> None:
        try:
            self._staging.fetch()
        except (AllstopError, OSError) as error:
            self._run.notes.note(f"results could not be fetched and stay on the cluster: {error}")
        with contextlib.suppress(AllstopError, OSError):  # results that lack a journal say so
            self._recount()

    def complete(self, report: Report) -> None:
        """Remove the copy on the cluster when nothing in it is needed any more."""
        nothing_to_keep = report.usage and not self._run.finished
        if report.status is RunStatus.COMPLETED or nothing_to_keep:
            with contextlib.suppress(AllstopError):  # a copy that stays costs only space
                self._staging.clear()


def _indices(shards: list[int]) -> str:
    """Write array indices as ``sbatch`` takes them, consecutive ones as ranges."""
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
