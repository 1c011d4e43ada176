"""A sweep's workforce: workers that are forked, given chunks, reaped and replaced."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import time
from dataclasses import replace

from supervisor.errors import AllstopError, InternalError, ProtocolError
from supervisor.ipc import messages
from supervisor.ipc.progress_table import ProgressTable
from supervisor.records import rundir
from supervisor.records.device import Stack
from supervisor.records.plan import Plan, Source
from supervisor.rows.index import covered, outstanding
from supervisor.rows.journal import journal_path, next_serial
from supervisor.system import cuda, memory
from supervisor.system.process import describe_exit
from supervisor.warden.devices import Devices
from supervisor.warden.dispatch import Chunk, Dispatcher
from supervisor.warden.escalation import State
from supervisor.warden.given_up import GivenUp
from supervisor.warden.in_hand import InHand
from supervisor.warden.kept_bars import bars_of
from supervisor.warden.lines import Descriptors
from supervisor.warden.worker import Nursery, Worker
from supervisor.warden.workforce import Run
from workers.backend import Backend
from workers.main import DUMP_SIGNAL
from workers.registry import make_backend

_REPORT_EVERY_S = 0.1
_DISK_S = 0.5


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
        self._table = ProgressTable(fds.table, plan.slots)
        built_in = plan.source is Source.BUILT_IN
        self._devices = Devices(plan.devices, plan.spare_devices, even=built_in)
        self._nursery = Nursery(run, plan, self._table)
        self._backend: Backend | None = None
        self._serial = next_serial(self._journals)
        self._earlier = 0
        self._remarks: set[str] = set()
        self._given_up = GivenUp(run, plan.run_id)
        self._workers: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._reported = 0
        self._reported_at = 0.0
        self._oom_kills = memory.oom_kills()

    def prepare(self) -> None:
        """See what is left to compute, and load or compile what computes it."""
        space = self._plan.space
        journals = self._plan.journals(self._run.run_dir)
        done = covered(journals, space, failed=not self._retry_failed)
        todo = outstanding(done, space, self._plan.span)
        try:
            self._backend = self._make_backend()
        except (AllstopError, ImportError) as error:
            if not self._plan.fallback_workers:
                raise
            self._leave_gpus(f"GPUs cannot be used: {error}")
            self._backend = self._make_backend()
        self._dispatcher = Dispatcher(
            todo,
            self._plan.workers,
            even=self._plan.source is Source.BUILT_IN,
            batch=self._backend.batch,
            count=space.count,
        )
        self._in_hand = InHand(self._dispatcher, self._table)
        self._dispatcher.finished = self._earlier = space.count_all(done)

    def _make_backend(self) -> Backend:
        backend = make_backend(self._plan, bars_of(self._fds.bars), self._fds.function)
        backend.prepare()
        return backend

    def start(self) -> None:
        """Fork a worker for every slot, if there is anything to compute."""
        if self._dispatcher.exhausted:
            return
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
        counted = self._earlier + self._table.done() + self._given_up.count
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
        self._given_up.close()
        for worker in self._by_pid.values():
            worker.link.close()
        for fd in (self._fds.bars, self._fds.function):
            if fd is not None:
                os.close(fd)
        self._table.close()
        self._backend = None

    # -- workers -----------------------------------------------------------

    def _start_worker(self, slot: int) -> None:
        """Fork the worker of a slot, on the slot's device or another; without one it retires."""
        if self._run.state is not State.RUNNING:
            return
        device = self._devices.next_for(slot)
        if device is None:
            self._retire(slot)
            return
        if cuda.opened():
            self._run.fail(
                "CUDA is initialised in the warden, so no worker that uses it can be forked: "
                "a module that allstop imports has done it"
            )
            return
        try:
            self._fork(slot, device)
        except OSError as error:
            self._run.fail(f"no worker could be forked: {error.strerror}")

    def _fork(self, slot: int, device: str) -> None:
        if self._backend is None:
            raise InternalError("workers are forked before prepare() or after close()")
        self._table.vacate(slot)
        serial, self._serial = self._serial, self._serial + 1
        worker = self._nursery.fork(slot, serial, device, self._backend, self._by_pid.values())
        self._workers[slot] = worker
        self._by_pid[worker.pid] = worker
        self._run.watch(worker.link, lambda: self._on_worker(worker))
        self._run.events.emit(
            "worker_started", slot=slot, serial=serial, pid=worker.outside, device=device
        )

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
            self._on_ready(worker)
            self._give_chunk(worker)
        elif isinstance(message, messages.Computed):
            chunk = self._dispatcher.in_hand(worker.slot)
            if chunk is None or chunk.start != message.start:
                # a forked child that returned reports the chunk again: now another chunk is in
                # hand, which must neither be taken for finished nor be lost
                return True
            self._dispatcher.returned(worker.slot, message.until, time.monotonic())
            self._devices.worked(worker.device)
            self._give_chunk(worker)  # first of all: it may be waiting
            self.report()
            self._run.check_done()
        elif isinstance(message, messages.Remark):
            if message.text not in self._remarks:
                self._remarks.add(message.text)
                self._run.post(message)
        elif isinstance(message, messages.DeviceFlagOpened):
            self._run.events.emit("device_flag", serial=worker.serial, **message._asdict())
        elif isinstance(message, messages.DeviceLost):
            self._on_device_lost(worker, message)
        elif isinstance(message, messages.WorkerBroken):
            if worker.device and self._plan.fallback_workers:
                # `auto` took the GPU: whatever is wrong with it, the CPU can do the work
                self._on_device_lost(worker, messages.DeviceLost(worker.device, message.error))
            else:
                self._run.fail(message.error, usage=message.usage)
        return not worker.left

    def _on_ready(self, worker: Worker) -> None:
        worker.ready = True
        if worker.device:
            took_s = round(time.monotonic() - worker.forked_at, 6)
            self._run.events.emit("device_ready", device=worker.device, start_s=took_s)
            self._run.post(messages.DeviceReady(worker.device, took_s))

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
        if not worker.left:
            del self._workers[worker.slot]
            while self._on_worker(worker):
                pass  # messages it sent before it died
        self._run.forget(worker.link)
        worker.link.close()
        code = os.waitstatus_to_exitcode(status)
        self._run.heed_flag()
        self._run.events.emit("worker_reaped", serial=worker.serial, pid=worker.outside, code=code)
        if worker.left:
            return
        if self._run.state is not State.RUNNING:
            self._in_hand.take_back(worker.slot)
            self._table.drop_unkept(worker.slot)
            self._run.check_done()
            return
        if worker.lost is None:
            self._after_crash(worker, code)
        if self._run.state is State.RUNNING:
            self._start_worker(worker.slot)
            self._run.check_done()

    def _after_crash(self, worker: Worker, code: int) -> None:
        """Find out what a worker's death means for its chunk, and for its device."""
        why = describe_exit(code)
        self._run.post(messages.WorkerLost(worker.serial, worker.outside, why))
        to_blame = self._to_blame(code)
        if worker.device and to_blame:
            if self._in_hand.advanced(worker.slot):
                self._devices.worked(worker.device)
            if self._devices.crashed(worker.device, ready=worker.ready):
                error = f"workers keep dying on it with nothing finished (the last {why})"
                self._lose(worker.device, error)
            if worker.device in self._devices.lost or not worker.ready:
                self._in_hand.take_back(worker.slot)
                self._wake_idle()
                return
        blamed = to_blame and self._in_hand.begun(worker.slot)
        kept_until = self._in_hand.kept_until(worker.slot)
        verdict = self._dispatcher.crashed(worker.slot, kept_until, blamed=blamed)
        if verdict.failed is not None:
            self._give_up(
                verdict.failed, f"this combination crashed its worker repeatedly: it {why}"
            )
        if verdict.hopeless:
            self._run.fail(f"workers keep dying with nothing finished in between (the last {why})")

    # -- lost devices ------------------------------------------------------

    def _on_device_lost(self, worker: Worker, message: messages.DeviceLost) -> None:
        """Take back the chunk of a worker that ends: its device is lost, or broken for it."""
        worker.lost = message.error
        if self._in_hand.advanced(worker.slot):
            self._devices.worked(worker.device)
        self._in_hand.take_back(worker.slot)
        if message.gone or self._devices.crashed(worker.device, ready=worker.ready):
            self._lose(worker.device, message.error)
            self._succeed(worker)
        else:  # its successor needs the memory that it holds on the same device
            self._run.post(messages.WorkerLost(worker.serial, worker.outside, message.error))
        self._wake_idle()

    def _succeed(self, worker: Worker) -> None:
        """Give the slot of a worker that ends to its successor, which gets another device."""
        worker.left = True
        self._run.forget(worker.link)
        self._workers.pop(worker.slot, None)
        self._table.drop_unkept(worker.slot)
        self._start_worker(worker.slot)
        self._run.check_done()

    def _lose(self, device: str, error: str) -> None:
        if self._devices.lose(device, error):
            self._run.events.emit("device_lost", device=device, error=error)
            self._run.post(messages.DeviceLost(device, messages.clip(error)))

    def _wake_idle(self) -> None:
        """Give chunks that were taken back to workers that have none: they ask only once."""
        for worker in self._workers.values():
            if worker.ready and worker.lost is None and not self._dispatcher.in_hand(worker.slot):
                self._give_chunk(worker)

    def _retire(self, slot: int) -> None:
        """Go on without a worker for which there is no device."""
        self._table.vacate(slot)
        self._run.events.emit("slot_retired", slot=slot)
        if self._workers or self._dispatcher.exhausted:
            return
        if self._plan.fallback_workers:
            self._fall_back()
        else:
            error = list(self._devices.lost.values())[-1]
            self._run.fail(
                f"no GPU is left to compute on: {error}; finished rows are kept, and allstop "
                f"resume {shlex.quote(str(self._run.run_dir))} --device "
                f"{_cpu_instead(self._plan)} computes the rest"
            )

    def _fall_back(self) -> None:
        """Compute the rest on the CPU."""
        self._leave_gpus("every GPU is lost")
        try:
            self._backend = self._make_backend()
        except (AllstopError, ImportError, OSError) as error:
            self._run.fail(f"every GPU is lost, and the CPU cannot compute the rest: {error}")
            return
        self._dispatcher.learn_anew(self._plan.workers, self._backend.batch)
        self.start()

    def _leave_gpus(self, why: str) -> None:
        """Plan what is left for the CPU, whose rows are those of CuPy bit for bit."""
        workers = self._plan.fallback_workers
        self._run.events.emit("gpus_left", why=why, workers=workers)
        self._run.post(messages.Remark(messages.clip(f"{why}: the rest is computed on the CPU")))
        self._devices.give_up()
        self._plan = replace(
            self._plan, stack=Stack.NUMBA, devices=(), workers=workers, fallback_workers=0
        )

    def _to_blame(self, code: int) -> bool:
        """Whether a worker's computation may have killed it: a SIGKILL comes from another
        process, unless the kernel has just run out of memory.
        """
        oom_kills, self._oom_kills = self._oom_kills, memory.oom_kills()
        return code != -signal.SIGKILL or self._oom_kills != oom_kills

    def _give_up(self, index: int, error: str) -> None:
        if not self._run.events.answers(_DISK_S):
            # this process ends the run: it must not wait for a disk
            self._run.fail(f"the disk does not answer, and combination {index} failed: {error}")
            return
        if self._given_up.needs_journal:
            serial, self._serial = self._serial, self._serial + 1
            self._given_up.begin(journal_path(self._journals, serial), serial)
        self._given_up.add(index, error)


def _cpu_instead(plan: Plan) -> str:
    """Return the device that computes the rest of a plan's rows without a GPU."""
    return "torch:cpu" if plan.stack is Stack.TORCH else "cpu"
