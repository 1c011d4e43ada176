"""The front of a sweep: combinations counted, results compacted, inputs kept for a resume."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time

from supervisor.front.link import WardenLink
from supervisor.front.run import SETTLE_POLL_S, Front, Progress, Tick
from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.lifecycle import inputs
from supervisor.lifecycle.prepare import Prepared
from supervisor.records import rundir
from supervisor.records.report import Gathered, Report
from supervisor.rows.journal import JournalSync
from supervisor.states import RunStatus
from supervisor.system import process

_DUMP_WAIT_S = 2.0
_DUMPED_S = 0.05  # a stack is written line by line: whoever has paused for so long has finished
_SYNC_EVERY_S = 5.0
_KEEP_AFTER_S = 0.25  # a run that is shorter is computed again as soon as resumed


class SweepFront(Front):
    """Carries one sweep from its plan to its report.

    Parameters
    ----------
    prepared : Prepared
        What to run; its directory is claimed, and empty but for what a resumed run left.
    link : WardenLink
        A warden without a run; this object owns it from now on.
    keep_warden : bool
        Keep the warden for the next run of this process.
    """

    def __init__(self, prepared: Prepared, link: WardenLink, *, keep_warden: bool = True) -> None:
        super().__init__(prepared, link, keep_warden=keep_warden)
        self.plan = prepared.plan
        self._prepared = prepared
        self._board = ProgressTable.create(prepared.plan.workers)
        self._keep_at: float | None = None
        self._keeper = threading.Thread(target=self._keep, name="allstop-keeper", daemon=True)
        self._kept_enough = threading.Event()

    def progress(self) -> Progress:
        """How the run stands now."""
        best = self._board.best()
        return Progress(
            status=self._status,
            done=self._done(),
            total=self.plan.combos_total,
            failed=self._board.failed() + self._given_up,
            elapsed_s=time.monotonic() - self._began,
            ram_bytes=self._sampler.last,
            best=None if best is None else (self.plan.grid.params(best[0]), best[1]),
            stop_level=self.flag.level,
        )

    def _done(self) -> int:
        counted = self._prepared.finished + self._board.done() + self._given_up
        # a worker killed between keeping rows and counting them leaves the warden to know it
        return min(max(self.finished, counted), self.plan.combos_total)

    def status_line(self) -> str:
        """Combinations done, time and memory."""
        return describe(self.progress())

    # -- the run -----------------------------------------------------------

    def _hand_over(self) -> None:
        prepared = self._prepared
        fds = [self.flag.fileno(), self._board.fileno(), prepared.bars.memfd]
        message = messages.StartRun(
            str(self.run_dir),
            has_function=prepared.function is not None,
            retry_failed=prepared.retry_failed,
        )
        if prepared.function is None:
            self._link.send(message, fds)
        else:
            with os.fdopen(os.memfd_create("allstop-function", os.MFD_CLOEXEC), "wb") as file:
                file.write(prepared.function)
                file.flush()
                self._link.send(message, [*fds, file.fileno()])

    def _work_begun(self) -> None:
        _import_early()
        self._keep_at = self._began + _KEEP_AFTER_S

    def _pause(self, on_tick: Tick | None) -> float:
        pause = super()._pause(on_tick)
        if self._keep_at is None:
            return pause
        return min(pause, max(0.0, self._keep_at - time.monotonic()))

    def _keep_time(self, on_tick: Tick | None) -> None:
        if self._keep_at is not None and time.monotonic() >= self._keep_at:
            self._begin_keeping()
            if self._keeper.ident is None:
                self._note_error("a power loss may take finished rows: no thread can be started")
        super()._keep_time(on_tick)

    def _show_where(self) -> None:
        """Show where every worker is; one that does not answer is shown by its state."""
        logs = sorted((self.run_dir / rundir.LOG_DIR).glob("worker-*.log"))
        sizes = {log: log.stat().st_size for log in logs}
        self._link.send(messages.DumpStacks())
        pids = [int(pid) for pid in self._board.rows["pid"] if pid]
        # who is suspended cannot answer
        answering = [pid for pid in pids if process.state_letter(pid) not in (None, *"TtZX")]
        deadline = time.monotonic() + _DUMP_WAIT_S
        seen, since = sizes, time.monotonic()
        while (now := time.monotonic()) < deadline:
            sizes_now = {log: log.stat().st_size for log in logs}
            if sizes_now != seen:
                seen, since = sizes_now, now
            grown = [log for log in logs if sizes_now[log] > sizes[log]]
            if len(grown) >= len(answering) and now - since >= _DUMPED_S:
                break
            select.select([], [], [], SETTLE_POLL_S)
        for row in self._board.rows:
            if row["pid"]:
                state = process.state_letter(int(row["pid"])) or "gone"
                self._say(
                    f"worker pid {row['pid']} (state {state}): combination "
                    f"{row['kept_until'] + row['done'] - row['kept']} of chunk "
                    f"{row['chunk_start']}–{row['chunk_stop']}"
                )
        for log in logs:
            with log.open(errors="replace") as file:
                file.seek(sizes[log])
                for line in file:
                    self._say(line.rstrip())

    # -- the end -----------------------------------------------------------

    def _wrap_up(self, status: RunStatus) -> None:
        self._have_inputs_kept(wanted=status is not RunStatus.COMPLETED)

    def _let_go(self) -> None:
        self._kept_enough.set()

    def _have_inputs_kept(self, *, wanted: bool) -> None:
        """See the writing of what resuming needs to its end, if it has begun or is wanted."""
        if self._keep_at is not None and wanted:
            self._begin_keeping()
        if self._keeper.ident is not None:
            self._kept_enough.set()
            self._keeper.join()

    def _begin_keeping(self) -> None:
        self._keep_at = None
        try:
            self._keeper.start()
        except RuntimeError:  # no thread is to be had: here and now, and once
            self._kept_enough.set()
            self._keep()

    def _keep(self) -> None:
        """See onto the disk what a resumed run will need, while the workers compute.

        They don't wait for the disk, and neither does the loop: a power loss takes what was
        finished in the last few seconds, no more.
        """
        prepared = self._prepared
        try:
            inputs.keep(self.run_dir, self.plan, prepared.bars, prepared.function)
            rundir.sync_names(self.run_dir)
        except OSError as error:
            self._note_error(f"what resuming needs could not be kept: {error.strerror}")
        journals = JournalSync(self.run_dir / rundir.JOURNAL_DIR)
        while not self._kept_enough.wait(_SYNC_EVERY_S):
            try:
                journals.sync()
            except OSError as error:
                self._note_error(f"journals could not be synced to the disk: {error.strerror}")
                return

    def _gather(self) -> Gathered:
        """Write ``results.parquet``."""
        from supervisor.lifecycle.finish import gather

        return gather(self.run_dir, self.plan, self._note_error)

    def _complete(self, report: Report) -> None:
        if report.status is RunStatus.COMPLETED:
            from supervisor.lifecycle.finish import drop_checkpoints

            drop_checkpoints(self.run_dir)
            if (self.run_dir / rundir.LEDGER_FILE).exists():  # begun on a cluster
                from supervisor.lifecycle.depot import clear_what_is_left

                for why in clear_what_is_left(self.run_dir):
                    self._note_error(why)

    def _close(self) -> None:
        super()._close()
        self._board.close()


def describe(progress: Progress) -> str:
    """One line about a run."""
    share = 100 * progress.done / max(1, progress.total)
    line = (
        f"{progress.status}: {progress.done:,} of {progress.total:,} combinations "
        f"({share:.1f} %), {progress.elapsed_s:.1f} s, {progress.ram_bytes / 2**20:,.0f} MB"
    )
    return line + (f", {progress.failed} failed" if progress.failed else "")


def _import_early() -> None:
    """Load what the end of the run needs while the workers compute, not after the stop."""
    with contextlib.suppress(RuntimeError):  # no thread is to be had: after the stop, then
        threading.Thread(target=_load_libraries, name="allstop-import", daemon=True).start()


def _load_libraries() -> None:
    import pyarrow.parquet  # noqa: F401

    import slurm.debts  # noqa: F401
    import supervisor.lifecycle.finish  # noqa: F401
