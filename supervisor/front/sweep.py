"""A sweep's work, seen from its front: combinations counted, inputs kept for a resume."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from pathlib import Path
from typing import Any

from supervisor.errors import AllstopError
from supervisor.front.keeper import Keeper
from supervisor.front.link import WardenLink
from supervisor.front.progress import Count, describe
from supervisor.front.run import Front
from supervisor.front.work import Run, Work
from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.lifecycle.gpu import speed
from supervisor.lifecycle.prepare import Prepared
from supervisor.records import rundir
from supervisor.records.device import Stack
from supervisor.records.plan import Source
from supervisor.records.report import Gathered, Report
from supervisor.rows.frames import iter_frames
from supervisor.rows.journal import journal_paths
from supervisor.rows.names import title_of
from supervisor.states import RunStatus
from supervisor.system import private, process

_DUMP_WAIT_S = 2.0
_DUMP_POLL_S = 0.005
_DUMPED_S = 0.05  # a stack is written line by line: a pause as long as this is its end
_LOOK_EVERY_S = 0.25
_KEEPS_S = 60.0  # for the data of a run, on a disk that answers
_MEASURED_S = 2.0  # a shorter run says little about the rate
_KEEP_AFTER_S = 0.25  # a run that is shorter is computed again as soon as resumed


def sweep_front(prepared: Prepared, link: WardenLink, *, keep_warden: bool = True) -> Front:
    """Make the front of a sweep that is computed on this machine.

    Parameters
    ----------
    prepared : Prepared
        What to run; its directory is claimed, and empty but for what a resumed run left.
    link : WardenLink
        A warden without a run; the front owns it from now on.
    keep_warden : bool
        Keep the warden for the next run of this process.
    """
    return Front(prepared, link, lambda run: Sweep(run, prepared), keep_warden=keep_warden)


class Sweep(Work):
    """A sweep that this machine's workers compute.

    Parameters
    ----------
    run : Run
        The run it is the work of.
    prepared : Prepared
        What to compute.
    """

    def __init__(self, run: Run, prepared: Prepared) -> None:
        self._run = run
        self._prepared = prepared
        self._plan = prepared.plan
        self._table = ProgressTable.create(prepared.plan.slots)
        self._given_up = 0
        self._said_unranked = False
        self._measured = False
        self._keeper = Keeper(run.run_dir, prepared, run.notes)

    def count(self) -> Count:
        """Combinations that are done, and the best of them."""
        best = self._table.best()
        if self._table.unranked and not (self._said_unranked or self._run.events.late):
            self._say_unranked()
        return Count(
            done=self._done(),
            total=self._plan.combos_total,
            failed=self._table.failed() + self._given_up,
            best=None if best is None else self._best(*best),
        )

    def _best(self, index: int, score: float) -> tuple[dict[str, Any], float]:
        return self._plan.grid.params(index), score * self._plan.ranking.sign

    def _say_unranked(self) -> None:
        """Say which metrics there are, once: rows are worth more than their ranking."""
        self._said_unranked = True
        parameters, ranking = self._plan.grid.names, self._plan.ranking
        with contextlib.suppress(AllstopError, OSError):  # the run is worth more than a remark
            for path in journal_paths(self._run.run_dir / rundir.JOURNAL_DIR):
                for frame in iter_frames(path):
                    titles = [title_of(name, parameters) for name in frame.columns]
                    if titles and ranking.places(frame.columns, parameters) is None:
                        self._run.display.say_once(ranking.complaint(titles))
                        return

    def _done(self) -> int:
        counted = self._prepared.finished + self._table.done() + self._given_up
        # a worker killed between keeping rows and counting them leaves the warden to know it
        return min(max(self._run.finished, counted), self._plan.combos_total)

    def status_line(self) -> str:
        """Combinations done, time and memory."""
        return describe(self._run.progress())

    # -- the run -----------------------------------------------------------

    def hand_over(self) -> None:
        """Send the warden everything it needs, by descriptor."""
        prepared, plan = self._prepared, self._plan
        self._run.events.emit(
            "device_chosen",
            asked=plan.device,
            stack=str(plan.stack),
            devices=list(plan.devices),
            why=plan.device_why,
        )
        fds = [self._run.flag.fileno(), self._table.fileno(), prepared.bars.memfd]
        message = messages.StartRun(
            str(self._run.run_dir),
            has_function=prepared.function is not None,
            retry_failed=prepared.retry_failed,
        )
        if prepared.function is None:
            self._run.link.send(message, fds)
        else:
            with os.fdopen(os.memfd_create("allstop-function", os.MFD_CLOEXEC), "wb") as file:
                file.write(prepared.function)
                file.flush()
                self._run.link.send(message, [*fds, file.fileno()])

    def begun(self, at: float) -> None:
        """Load what the end needs, and plan when to keep what a resume needs."""
        _import_early()
        self.due = at + _KEEP_AFTER_S

    def keep_time(self) -> None:
        """Start to write what a resume needs, when that is due."""
        if self.due is not None and time.monotonic() >= self.due:
            self._begin_keeping()
            if not self._keeper.begun:
                self._run.notes.note(
                    "a power loss may take finished rows: no thread can be started"
                )

    def hear(self, message: messages.Message) -> None:
        """Count combinations that were given up; note what became of devices."""
        match message:
            case messages.CombinationFailed():
                self._given_up += 1
            case messages.DeviceLost():
                self._run.notes.note(f"{message.device} is not used any more: {message.error}")
            case messages.Remark():
                self._run.notes.note(message.text)
            case messages.DeviceReady() if self._plan.stack is Stack.CUPY and not self._measured:
                self._measured = True
                speed.remember_gpu_start(message.start_s)
            case _:
                pass

    def show_where(self) -> None:
        """Show the stack of every worker; of one that does not answer, its process state."""
        # on a disk that does not answer a stack would keep its worker from ending
        silent = not self._run.events.answers(_LOOK_EVERY_S)
        logs = [] if silent else sorted((self._run.run_dir / rundir.LOG_DIR).glob("worker-*.log"))
        sizes = {log: log.lstat().st_size for log in logs}
        if not silent:
            self._run.link.send(messages.DumpStacks())
        pids = [int(pid) for pid in self._table.rows["pid"] if pid]
        # a suspended worker cannot answer
        answering = [pid for pid in pids if process.state_letter(pid) not in (None, *"TtZX")]
        deadline = time.monotonic() + (0.0 if silent else _DUMP_WAIT_S)
        seen, since = sizes, time.monotonic()
        while (now := time.monotonic()) < deadline:
            sizes_now = {log: log.lstat().st_size for log in logs}
            if sizes_now != seen:
                seen, since = sizes_now, now
            grown = [log for log in logs if sizes_now[log] > sizes[log]]
            if len(grown) >= len(answering) and now - since >= _DUMPED_S:
                break
            select.select([], [], [], _DUMP_POLL_S)
        for row in self._table.rows:
            if row["pid"]:
                state = process.state_letter(int(row["pid"])) or "gone"
                self._run.display.say(
                    f"worker pid {row['pid']} (state {state}): combination "
                    f"{row['kept_until'] + row['done'] - row['kept']} of chunk "
                    f"{row['chunk_start']}–{row['chunk_stop']}"
                )
        for log in logs:
            with private.opened(log) as file:
                file.seek(sizes[log])
                for line in file:
                    self._run.display.say(line.decode(errors="replace").rstrip())

    # -- the end -----------------------------------------------------------

    def wrap_up(self, *, done: bool) -> None:
        """Finish writing what a resume needs, if that has begun or is needed."""
        if self.due is not None and not done:
            self._begin_keeping()
        if self._keeper.begun:
            self._keeper.let_go()
            give_up_at = time.monotonic() + _KEEPS_S
            while not self._keeper.has_ended(_LOOK_EVERY_S):
                self._run.await_disk()
                if time.monotonic() >= give_up_at:
                    self._run.notes.note("what resuming needs was not kept in time")
                    break

    def let_go(self) -> None:
        """End the process that keeps what a resume needs."""
        self._keeper.let_go()

    def _begin_keeping(self) -> None:
        """Have written to disk what a resumed run will need, while the workers compute.

        Neither the workers nor the loop wait for the disk. A power loss takes only what was
        finished in the last few seconds.
        """
        self.due = None
        with contextlib.suppress(RuntimeError):  # no thread can be started
            self._keeper.start()

    def gather(self) -> Gathered:
        """Write ``results.parquet``."""
        from supervisor.lifecycle.gather import gather

        run_dir = self._run.run_dir
        if _is_missing(run_dir / rundir.JOURNAL_DIR):
            gone = (
                f"{run_dir} was moved, replaced or deleted while the run ran: the rows are in the "
                "journals where it is now, and allstop report writes results there"
            )
            return Gathered(self.count().done, unwritten=gone)
        return gather(run_dir, self._plan, self._run.notes.note)

    def complete(self, report: Report) -> None:
        """Remove the copies on a cluster if the run began there and was completed here."""
        if report.status is RunStatus.COMPLETED:
            self._remember_rate(report)
        begun_on_a_cluster = (self._run.run_dir / rundir.LEDGER_FILE).exists()
        if report.status is RunStatus.COMPLETED and begun_on_a_cluster:
            from supervisor.lifecycle.staging import clear_what_is_left

            report.errors += clear_what_is_left(self._run.run_dir)

    def _remember_rate(self, report: Report) -> None:
        """Remember how fast this machine's CPU is, for the choice of later runs' device."""
        plan, computed = self._plan, report.combos_done - self._prepared.finished
        on_cpu = plan.stack is Stack.NUMBA and plan.source is Source.BUILT_IN
        if on_cpu and report.elapsed_s >= _MEASURED_S and computed > 0:
            rate = computed * plan.n_bars / (report.elapsed_s * plan.workers)
            speed.remember_cpu_rate(plan.strategy, rate)

    def close(self) -> None:
        """Close the progress table."""
        self._keeper.let_go()
        self._table.close()


def _import_early() -> None:
    """Load what the end of the run needs while the workers compute, not after the stop."""
    with contextlib.suppress(RuntimeError):  # no thread can be started: they load after the stop
        threading.Thread(target=_load_libraries, name="allstop-import", daemon=True).start()


def _load_libraries() -> None:
    import pyarrow.parquet  # noqa: F401

    import slurm.records.outstanding  # noqa: F401
    import supervisor.lifecycle.finish  # noqa: F401


def _is_missing(folder: Path) -> bool:
    """Whether there is no such directory; one that cannot be looked at may be there."""
    try:
        return not folder.is_dir()
    except OSError:
        return False
