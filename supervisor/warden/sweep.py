"""A sweep's workforce: workers that are forked, given chunks, reaped and replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass

from supervisor.errors import AllstopError, ProtocolError
from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.market.bars import Bars
from supervisor.records import rundir
from supervisor.records.plan import Plan, Source
from supervisor.rows.index import covered, outstanding
from supervisor.rows.journal import JournalWriter, journal_path, next_serial
from supervisor.system import memory
from supervisor.system.process import describe_exit
from supervisor.warden.dispatch import Chunk, Dispatcher
from supervisor.warden.escalation import State
from supervisor.warden.lines import Descriptors
from supervisor.warden.workforce import Run
from workers.backend import Backend
from workers.main import DUMP_SIGNAL, Station, run_worker
from workers.registry import make_backend

_REPORT_EVERY_S = 0.1


_KEPT_BYTES = 64 * 2**20
"""Bars that a warden keeps from run to run, at most; with what is computed from them once
that is two to three times as much."""

_kept: dict[tuple[int, int], Bars] = {}


def _bars_of(fd: int) -> Bars:
    """Map bars, or return those of the last run, with their prefix tables, if they are the same.

    Bars are sealed, and while they are kept no other memory can have their inode number.
    """
    facts = os.fstat(fd)
    which = (facts.st_dev, facts.st_ino)
    bars = _kept.get(which)
    if bars is None:
        _kept.clear()
        bars = Bars.from_fd(fd)
        if bars.nbytes <= _KEPT_BYTES:
            _kept[which] = bars
    return bars


@dataclass
class Worker:
    """A forked worker as the warden sees it; ``outside`` is its pid as others know it."""

    slot: int
    serial: int
    pid: int
    outside: int
    link: socket.socket


class Sweep:
    """The workers of one sweep (see :class:`supervisor.warden.workforce.Workforce`).

    Parameters
    ----------
    run : Run
        The run they work for.
    plan : Plan
        What is to be computed.
    fds : Descriptors
        Progress table, bars and function; this object owns them from now on.
    retry_failed : bool
        Compute combinations that an earlier attempt gave up.
    """

    def __init__(
        self, run: Run, plan: Plan, fds: Descriptors, *, retry_failed: bool = False
    ) -> None:
        self._run = run
        self._plan = plan
        self._fds = fds
        self._retry_failed = retry_failed
        self._journals = run.run_dir / rundir.JOURNAL_DIR
        self._table = ProgressTable(fds.table, plan.workers)
        self._backend: Backend | None = None
        self._serial = next_serial(self._journals)
        self._earlier = 0
        self._given_up = 0
        self._failures: JournalWriter | None = None
        self._workers: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._reported = 0
        self._reported_at = 0.0
        self._oom_kills = memory.oom_kills()

    def prepare(self) -> None:
        """See what is left to compute, and load or compile what computes it."""
        space = self._plan.space
        done = covered(rundir.journal_dirs(self._run.run_dir), space, failed=not self._retry_failed)
        built_in = self._plan.source is Source.BUILT_IN
        todo = outstanding(done, space, self._plan.span)
        bars = _bars_of(self._fds.bars)
        self._backend = make_backend(self._plan, bars, self._fds.function)
        self._dispatcher = Dispatcher(
            todo,
            self._plan.workers,
            even=built_in,
            batch=self._backend.batch,
            count=space.count,
        )
        self._dispatcher.finished = self._earlier = space.count_all(done)
        self._backend.prepare()

    def start(self) -> None:
        """Fork a worker for every slot."""
        for slot in range(self._plan.workers):
            self._start_worker(slot)

    # -- what the run asks -------------------------------------------------

    @property
    def size(self) -> int:
        """Number of living workers."""
        return len(self._workers)

    @property
    def exhausted(self) -> bool:
        """Whether every combination is finished or given up."""
        return self._dispatcher.exhausted

    @property
    def idle(self) -> bool:
        """Whether no worker has a chunk."""
        return self._dispatcher.idle

    @property
    def report_due(self) -> float | None:
        """When the front should receive the next count of finished combinations."""
        if self._dispatcher.finished == self._reported:
            return None
        return self._reported_at + _REPORT_EVERY_S

    def report(self, *, force: bool = False) -> None:
        """Send the front the number of finished combinations, not more often than needed."""
        now = time.monotonic()
        finished = self._dispatcher.finished
        if finished != self._reported and (force or now - self._reported_at >= _REPORT_EVERY_S):
            self._reported, self._reported_at = finished, now
            self._run.post(messages.Finished(finished))

    def ask_to_end(self) -> int:
        """Wake idle workers: one that waits for its next chunk reads the end of its socket."""
        for worker in self._workers.values():
            with contextlib.suppress(OSError):
                worker.link.shutdown(socket.SHUT_WR)
        return len(self._workers)

    def outlived(self) -> None:
        """Do nothing: workers may outlive the last chunk for a moment."""

    def reaped(self, pid: int, status: int) -> None:
        """Replace a reaped worker; an orphan we adopted needs nothing more."""
        worker = self._by_pid.pop(pid, None)
        if worker is not None:
            self._replace(worker, status)

    def status(self) -> messages.Status:
        """Combinations done, and the workers' pids."""
        counted = self._earlier + self._table.done() + self._given_up
        return messages.Status(
            run_id="",
            status="",
            done=min(max(self._dispatcher.finished, counted), self._plan.combos_total),
            total=self._plan.combos_total,
            workers=[worker.outside for worker in self._workers.values()],
        )

    def dump(self) -> None:
        """Have every worker write its stack to its log."""
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, DUMP_SIGNAL)  # our own unreaped child: the pid is its own

    def close(self) -> None:
        """Release everything that was prepared: it is big, and an idle warden holds nothing."""
        if self._failures:
            self._failures.close()
        for worker in self._workers.values():
            worker.link.close()
        for fd in (self._fds.bars, self._fds.function):
            if fd is not None:
                os.close(fd)
        self._table.close()
        self._backend = None

    # -- workers -----------------------------------------------------------

    def _start_worker(self, slot: int) -> None:
        if self._run.state is not State.RUNNING:
            return
        try:
            self._fork(slot)
        except OSError as error:
            self._run.fail(f"no worker could be forked: {error.strerror}")

    def _fork(self, slot: int) -> None:
        self._table.vacate(slot)
        ours, theirs = messages.pair()
        ours.setblocking(False)  # a child of the worker's may hold its end open: never wait for EOF
        serial, self._serial = self._serial, self._serial + 1
        warden_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_worker(slot, serial, warden_pid, ours, theirs)
        theirs.close()
        worker = Worker(slot, serial, pid, self._run.containment.outside(pid), ours)
        self._workers[slot] = worker
        self._by_pid[pid] = worker
        self._run.watch(ours, lambda: self._on_worker(worker))
        self._run.events.emit("worker_started", slot=slot, serial=serial, pid=worker.outside)

    def _be_worker(
        self, slot: int, serial: int, warden_pid: int, ours: socket.socket, theirs: socket.socket
    ) -> None:
        """In the child: work, and never return."""
        code = 1
        try:
            containment = self._run.containment
            containment.prepare_worker(warden_pid)
            self._leave_warden(ours)
            station = Station(
                slot,
                serial,
                containment.outside(os.getpid()),
                theirs,
                self._run.flag,
                self._table,
                self._plan.run_id,
                self._run.run_dir,
                "" if self._plan.source is Source.BUILT_IN else self._plan.provenance.cwd,
            )
            if self._backend is not None:
                run_worker(station, self._backend)
                code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # no atexit, no finalizer of the warden's runs in a worker

    def _leave_warden(self, ours: socket.socket) -> None:
        """In the child: close the warden's sockets, so that an EOF means that the warden died."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._run.leave()
        ours.close()
        for other in self._workers.values():
            other.link.close()

    def _on_worker(self, worker: Worker) -> bool:
        """Handle one message; False when there is none."""
        try:
            message, _ = messages.receive(worker.link)
        except BlockingIOError:
            return False
        except ProtocolError as error:
            message = messages.WorkerBroken(
                error=f"a worker sent an invalid message: {error}", usage=False
            )
        if message is None:
            self._run.forget(worker.link)  # it is dead or about to be: SIGCHLD follows
            return False
        if isinstance(message, messages.WorkerReady):
            self._give_chunk(worker)
        elif isinstance(message, messages.Computed):
            chunk = self._dispatcher.in_hand(worker.slot)
            if chunk is None or chunk.start != message.start:
                # a forked child that returned reports the chunk again: now another chunk is in
                # hand, which must neither be taken for finished nor be lost
                return True
            self._dispatcher.returned(worker.slot, message.until, time.monotonic())
            self._give_chunk(worker)  # first of all: it may be waiting
            self.report()
            self._run.check_done()
        elif isinstance(message, messages.DeviceFlagOpened):
            self._run.events.emit("device_flag", serial=worker.serial, **message._asdict())
        elif isinstance(message, messages.WorkerBroken):
            self._run.fail(message.error, usage=message.usage)
        return True

    def _give_chunk(self, worker: Worker) -> None:
        """Give a worker a chunk, and the one after it, so that it need not wait for that."""
        if self._run.state is not State.RUNNING or worker.slot not in self._workers:
            return  # the run ends, or the worker is dead and this was its last message
        slot, now = worker.slot, time.monotonic()
        if self._dispatcher.in_hand(slot) is None:
            self._send(worker, self._dispatcher.take(slot, now))
        self._send(worker, self._dispatcher.take_ahead(slot, now))

    def _send(self, worker: Worker, chunk: Chunk | None) -> None:
        if chunk is not None:
            messages.send(worker.link, messages.Compute(chunk.start, chunk.stop))

    # -- dead workers ------------------------------------------------------

    def _replace(self, worker: Worker, status: int) -> None:
        del self._workers[worker.slot]
        while self._on_worker(worker):
            pass  # messages it sent before it died
        self._run.forget(worker.link)
        worker.link.close()
        code = os.waitstatus_to_exitcode(status)
        self._run.heed_flag()
        self._run.events.emit("worker_reaped", serial=worker.serial, pid=worker.outside, code=code)
        if self._run.state is not State.RUNNING:
            self._take_back(worker.slot)
            self._table.drop_unkept(worker.slot)
            self._run.check_done()
            return
        why = describe_exit(code)
        self._run.post(messages.WorkerLost(worker.serial, worker.outside, why))
        kept_until = self._kept_until(worker.slot)
        blamed = self._to_blame(code) and self._begun(worker.slot)
        verdict = self._dispatcher.crashed(worker.slot, kept_until, blamed=blamed)
        if verdict.failed is not None:
            self._give_up(
                verdict.failed, f"this combination crashed its worker repeatedly: it {why}"
            )
        if verdict.hopeless:
            self._run.fail(f"workers keep dying with nothing finished in between (the last {why})")
            return
        self._start_worker(worker.slot)
        self._run.check_done()

    def _to_blame(self, code: int) -> bool:
        """Whether a worker's computation may have killed it: a SIGKILL comes from another
        process, unless the kernel has just run out of memory.
        """
        oom_kills, self._oom_kills = self._oom_kills, memory.oom_kills()
        return code != -signal.SIGKILL or self._oom_kills != oom_kills

    def _take_back(self, slot: int) -> None:
        while self._dispatcher.in_hand(slot) is not None:
            self._dispatcher.returned(slot, self._kept_until(slot), time.monotonic())

    def _kept_until(self, slot: int) -> int:
        """First index of a dead worker's chunk that is not in its journal."""
        chunk = self._dispatcher.in_hand(slot)
        if chunk is None:
            return 0
        if not self._begun(slot):
            return chunk.start
        return int(min(max(self._table.rows[slot]["kept_until"], chunk.start), chunk.stop))

    def _begun(self, slot: int) -> bool:
        """Whether a dead worker had begun the chunk it was given."""
        chunk, row = self._dispatcher.in_hand(slot), self._table.rows[slot]
        return chunk is not None and chunk[:2] == (row["chunk_start"], row["chunk_stop"])

    def _give_up(self, index: int, error: str) -> None:
        if self._failures is None:
            serial, self._serial = self._serial, self._serial + 1
            path = journal_path(self._journals, serial)
            self._failures = JournalWriter(path, self._plan.run_id, serial)
        try:
            self._failures.append_failed(index, error)
        except AllstopError as problem:
            self._run.fail(str(problem))
        self._given_up += 1
        self._run.events.emit("combination_failed", index=index, error=error)
        self._run.post(messages.CombinationFailed(index, error))
