"""One run in the warden's hands, from the first fork to the last reaped process."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from supervisor import control, memory, process, rundir
from supervisor.bars import Bars
from supervisor.board import Board
from supervisor.config import Plan, Source
from supervisor.containment import Containment
from supervisor.control_socket import ControlSocket
from supervisor.dispatch import Chunk, Dispatcher
from supervisor.errors import FullstopError, ProtocolError
from supervisor.escalation import FINAL, Action, Event, State, step
from supervisor.events import EventLog
from supervisor.journal import JournalWriter, journal_path, next_serial
from supervisor.results import covered, gaps
from supervisor.states import RunStatus
from supervisor.stopflag import Level, StopFlag
from supervisor.warden.lines import Descriptors, Front
from workers.backend import Backend
from workers.main import DUMP_SIGNAL, Station, run_worker
from workers.registry import make_backend

_KILL_AGAIN_S = 0.02  # while killing: whatever was forked in the meantime is killed too
_LEVEL_EVENT = {Level.DRAIN: Event.DRAIN, Level.STOP: Event.STOP, Level.KILL: Event.KILL}
_REPORT_EVERY_S = 0.05


@dataclass
class Worker:
    """A forked worker as the warden sees it; ``outside`` is its pid as others know it."""

    slot: int
    serial: int
    pid: int
    outside: int
    link: socket.socket


@dataclass
class StopRecord:
    """Why and when the run began to end."""

    at: float
    level: Level
    reason: str
    by_request: bool


@dataclass
class RunInHand:
    """One run, from the first fork to the last reaped process."""

    plan: Plan
    run_dir: Path
    fds: Descriptors
    front: Front
    containment: Containment
    state: State = State.RUNNING
    deadline: float | None = None
    stop: StopRecord | None = None
    failure: str | None = None
    failure_usage: bool = False
    workers: dict[int, Worker] = field(default_factory=dict)
    retry_failed: bool = False

    def __post_init__(self) -> None:
        self.events = EventLog(self.run_dir, "warden")
        self.flag = StopFlag.from_fd(self.fds.flag)
        self.board = Board(self.fds.board, self.plan.workers)
        self.backend: Backend | None = None
        self._serial = next_serial(self.run_dir / rundir.JOURNAL_DIR)
        self._failures: JournalWriter | None = None
        self._by_pid: dict[int, Worker] = {}
        self._reported = 0
        self._reported_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._front_lost = False
        self._own_children: set[int] = set()
        self._control: ControlSocket | None = None
        self._oom_kills = memory.oom_kills()

    # -- the run -----------------------------------------------------------

    def carry_out(self, signals: socket.socket) -> bool:
        """Run to the end; return whether the front is still there."""
        self._watch(signals, lambda: self._on_signal(signals))
        self._watch(self.front.sock, self._on_front)
        self._watch(self.front.pidfd, self._on_front_lost)
        try:
            self._control = ControlSocket(self.plan.run_id, self._on_caller)
            self._watch(self._control.listener, self._on_connection)
            self._begin()
            while self.state not in FINAL:
                if self.state is not State.RUNNING:
                    self._reap()  # there may be nobody left whose death would wake us
                if self.state not in FINAL:
                    self._wait()
        except BaseException:
            self.containment.signal_all(signal.SIGKILL)  # our own fault must not cost survivors
            raise
        finally:
            self._close()
        return not self._front_lost

    def _begin(self) -> None:
        done = covered(self.run_dir / rundir.JOURNAL_DIR, failed=not self.retry_failed)
        self.dispatcher = Dispatcher(gaps(done, self.plan.grid.size), self.plan.workers)
        self.dispatcher.finished = sum(stop - start for start, stop in done)
        self.containment.begin(self.plan.run_id, self.events.emit)
        bars = Bars.from_fd(self.fds.bars)
        self.backend = backend = make_backend(self.plan, bars, self.fds.function)
        backend.prepare()
        baseline = memory.tree_bytes(os.getpid())
        self.events.emit(
            "run_started", containment=self.containment.name, ram_baseline_bytes=baseline
        )
        self.front.post(control.RunStarted(self.containment.name, baseline))
        for slot in range(self.plan.workers):
            self._start_worker(slot)
        self._check_done()

    def _wait(self) -> None:
        now = time.monotonic()
        timeout = None if self.deadline is None else max(0.0, self.deadline - now)
        if self.state is State.KILLED:
            timeout = min(_KILL_AGAIN_S, timeout or 0.0)
        if self.dispatcher.finished != self._reported:
            pause = max(0.0, self._reported_at + _REPORT_EVERY_S - now)
            timeout = pause if timeout is None else min(timeout, pause)
        for key, _ in self._selector.select(self.front.outbox.patience(timeout)):
            if not _closed(key.fileobj):  # by one that was ready before it
                key.data()
        self._report_finished()
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self._happen(Event.DEADLINE)
        elif self.state is State.KILLED:
            self.containment.signal_all(signal.SIGKILL)

    def _watch(self, fd: int | socket.socket, call: Callable[[], object]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, call)

    def _forget(self, fd: int | socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    # -- events in, actions out --------------------------------------------

    def _happen(self, event: Event) -> None:
        result = step(self.state, event)
        if result.state is not self.state:
            self.events.emit("state_changed", state=result.state.name.lower())
        self.state = result.state
        for action in result.actions:
            self._ACTIONS[action](self)

    def _set_drain(self) -> None:
        self.flag.request(Level.DRAIN)
        self._rung("drain", len(self.workers))
        self._check_done()

    def _set_stop(self) -> None:
        self.flag.request(Level.STOP)
        self._rung("flag", len(self.workers))
        # a worker that waits for its next chunk wakes to an ended line
        for worker in self.workers.values():
            with contextlib.suppress(OSError):
                worker.link.shutdown(socket.SHUT_WR)

    def _set_kill(self) -> None:
        self.flag.request(Level.KILL)

    def _signal_term(self) -> None:
        self._rung("terminate", self.containment.signal_all(signal.SIGTERM, signal.SIGCONT))

    def _signal_kill(self) -> None:
        self._rung("kill", self.containment.signal_all(signal.SIGKILL))

    def _arm(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def _disarm(self) -> None:
        self.deadline = None

    def _report_end(self) -> None:
        survivors = [
            f"pid {self.containment.outside(pid)} ({process.command_name(pid)}), "
            f"state {process.state_letter(pid)}"
            for pid in self.containment.living()
        ]
        stop = self.stop
        elapsed = time.monotonic() - stop.at if stop else 0.0
        if not survivors:
            # before it is said: a front that has heard of the end may kill us at once
            self.containment.end()
        self._report_finished(force=True)
        self._rung("verify", len(survivors))
        ended = control.RunEnded(
            outcome=self._outcome(),
            reason=control.clip(self.failure or (stop.reason if stop else "")),
            elapsed_s=elapsed,
            survivors=survivors[:100],
            usage=self.failure_usage,
        )
        self.events.emit("run_ended", outcome=ended.outcome, survivors=survivors)
        if self._control:
            self._control.broadcast(ended)
            self._control.close()
        self.front.post(ended)  # last, for the same reason

    def _outcome(self) -> str:
        if self.failure is not None:
            return RunStatus.FAILED
        if self.dispatcher.exhausted:
            return RunStatus.COMPLETED
        return RunStatus.STOPPED

    _ACTIONS: ClassVar[dict[Action, Callable[[RunInHand], None]]] = {
        Action.SET_DRAIN: _set_drain,
        Action.SET_STOP: _set_stop,
        Action.SET_KILL: _set_kill,
        Action.SIGNAL_TERM: _signal_term,
        Action.SIGNAL_KILL: _signal_kill,
        Action.ARM_GRACE: lambda self: self._arm(self.plan.times.grace_s),
        Action.ARM_TERMINATE: lambda self: self._arm(self.plan.times.terminate_s),
        Action.ARM_VERIFY: lambda self: self._arm(self.plan.times.verify_s),
        Action.DISARM: _disarm,
        Action.REPORT_CLEAN: _report_end,
        Action.REPORT_SURVIVORS: _report_end,
    }

    def request(self, level: Level, reason: str, requested_by: str) -> None:
        """Begin to end the run, or go further if it is ending already."""
        now = time.monotonic()
        if self.stop is None or not self.stop.by_request:
            # the flag may have been set, and workers have stopped, before we were told
            at = min(self.flag.requested_at or now, now)
            self.stop = StopRecord(at, level, reason, by_request=True)
            self.front.post(control.StopBegun(level, reason, requested_by))
        elif level > self.stop.level:
            self.stop.level = level
            self.front.post(control.StopBegun(level, reason, requested_by))
        self.events.emit("stop_requested", level=level.name, reason=reason, by=requested_by)
        self._happen(_LEVEL_EVENT[level])

    def _heed_flag(self) -> None:
        """Begin the stop that the flag asks for, should it reach us before the request does."""
        level = self.flag.level
        if level is not None and self.state is State.RUNNING:
            self.request(level, "the stop flag was set", "flag")

    def _rung(self, name: str, acted_on: int) -> None:
        if self.stop is None or not self.stop.by_request:
            return  # the way out after the last chunk is nobody's stop
        at_s = time.monotonic() - self.stop.at
        self.events.emit("rung_reached", rung=name, at_s=round(at_s, 6), acted_on=acted_on)
        self.front.post(control.RungReached(name, at_s, acted_on))

    def _fail(self, why: str, *, usage: bool = False) -> None:
        if self.failure is None:
            self.failure, self.failure_usage = why, usage
            self.events.emit("run_failed", why=why)
        if self.stop is None:
            self.stop = StopRecord(time.monotonic(), Level.STOP, why, by_request=False)
        self._happen(Event.STOP)

    def _check_done(self) -> None:
        draining = self.state is State.DRAINING
        if not self.dispatcher.exhausted and not (draining and self.dispatcher.idle):
            return
        if self.stop is None:
            self.stop = StopRecord(time.monotonic(), Level.DRAIN, "", by_request=False)
        if self.state in (State.RUNNING, State.DRAINING):
            self._happen(Event.WORK_DONE)

    # -- workers -----------------------------------------------------------

    def _start_worker(self, slot: int) -> None:
        if self.state is not State.RUNNING:
            return
        try:
            self._fork(slot)
        except OSError as error:
            self._fail(f"no worker could be forked: {error.strerror}")

    def _fork(self, slot: int) -> None:
        self.board.vacate(slot)
        ours, theirs = control.pair()
        ours.setblocking(False)  # a child of the worker's may hold its end open: never wait for EOF
        serial, self._serial = self._serial, self._serial + 1
        warden_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.containment.prepare_worker(warden_pid)
                self._leave_warden(ours)
                station = Station(
                    slot,
                    serial,
                    self.containment.outside(os.getpid()),
                    theirs,
                    self.flag,
                    self.board,
                    self.plan.run_id,
                    self.run_dir,
                    "" if self.plan.source is Source.BUILT_IN else self.plan.provenance.cwd,
                )
                if self.backend is not None:
                    run_worker(station, self.backend)
                    code = 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)  # no atexit, no finalizer of the warden's runs in a worker
        theirs.close()
        worker = Worker(slot, serial, pid, self.containment.outside(pid), ours)
        self.workers[slot] = worker
        self._by_pid[pid] = worker
        self._watch(ours, lambda: self._on_worker(worker))
        self.events.emit("worker_started", slot=slot, serial=serial, pid=worker.outside)

    def _leave_warden(self, ours: socket.socket) -> None:
        """In the child: drop every line of the warden's, so that EOF means what it says."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        ours.close()
        self.front.sock.close()
        os.close(self.front.pidfd)
        if self._control:
            self._control.close(unlink=False)
        for other in self.workers.values():
            other.link.close()

    def _on_worker(self, worker: Worker) -> bool:
        """Handle one message; False when there is none."""
        try:
            message, _ = control.receive(worker.link)
        except BlockingIOError:
            return False
        except ProtocolError as error:
            message = control.WorkerBroken(error=f"worker spoke nonsense: {error}", usage=False)
        if message is None:
            self._forget(worker.link)  # it is dead or about to be: SIGCHLD says the rest
            return False
        if isinstance(message, control.WorkerReady):
            self._give_chunk(worker)
        elif isinstance(message, control.Computed):
            now = time.monotonic()
            self.dispatcher.returned(worker.slot, message.until, now)
            self.board.rows[worker.slot]["chunk_done"] = 0
            self._report_finished()
            self._give_chunk(worker)
            self._check_done()
        elif isinstance(message, control.WorkerBroken):
            self._fail(message.error, usage=message.usage)
        return True

    def _give_chunk(self, worker: Worker) -> None:
        if self.state is not State.RUNNING:
            return
        chunk = self.dispatcher.take(worker.slot, time.monotonic())
        if chunk is not None:
            control.send(worker.link, control.Compute(chunk.start, chunk.stop))

    def _on_signal(self, signals: socket.socket) -> None:
        received = b""
        with contextlib.suppress(BlockingIOError):
            while more := signals.recv(4096):
                received += more
        if signal.SIGTERM in received:
            self.request(Level.STOP, "SIGTERM to the warden", "signal")
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # ECHILD, and orphans come to us: no descendant exists
                self._happen(Event.GONE)
                return
            if pid == 0:
                return
            worker = self._by_pid.pop(pid, None)
            if worker is not None:
                self._bury(worker, status)

    def _bury(self, worker: Worker, status: int) -> None:
        while self._on_worker(worker):
            pass  # its last words
        self._forget(worker.link)
        worker.link.close()
        del self.workers[worker.slot]
        chunk = self.dispatcher.in_hand(worker.slot)
        kept_until = self._kept_until(worker.slot, chunk)
        code = os.waitstatus_to_exitcode(status)
        self._heed_flag()
        self.events.emit("worker_reaped", serial=worker.serial, pid=worker.outside, code=code)
        if self.state is not State.RUNNING:
            if chunk is not None:
                self.dispatcher.returned(worker.slot, kept_until, time.monotonic())
                self._check_done()
            return
        why = describe_exit(code)
        self.front.post(control.WorkerLost(worker.serial, worker.outside, why))
        verdict = self.dispatcher.crashed(worker.slot, kept_until, blamed=self._to_blame(code))
        if verdict.failed is not None:
            self._give_up(verdict.failed, f"the worker {why} again and again over this combination")
        if verdict.hopeless:
            self._fail(f"workers keep dying with nothing finished in between (the last {why})")
            return
        self._start_worker(worker.slot)
        self._check_done()

    def _to_blame(self, code: int) -> bool:
        """Whether what a worker computed may have killed it: a SIGKILL comes from somebody
        else, unless the kernel has just run out of memory.
        """
        oom_kills, self._oom_kills = self._oom_kills, memory.oom_kills()
        return code != -signal.SIGKILL or self._oom_kills != oom_kills

    def _kept_until(self, slot: int, chunk: Chunk | None) -> int:
        """First index of a dead worker's chunk that is not in its journal."""
        if chunk is None:
            return 0
        row = self.board.rows[slot]
        if row["chunk_start"] != chunk.start:
            return chunk.start  # it died before it looked at the chunk
        return int(min(max(row["kept_until"], chunk.start), chunk.stop))

    def _give_up(self, index: int, error: str) -> None:
        if self._failures is None:
            serial, self._serial = self._serial, self._serial + 1
            path = journal_path(self.run_dir / rundir.JOURNAL_DIR, serial)
            self._failures = JournalWriter(path, self.plan.run_id, serial)
        try:
            self._failures.append_failed(index, error)
        except FullstopError as problem:
            self._fail(str(problem))
        self.events.emit("combination_failed", index=index, error=error)
        self.front.post(control.CombinationFailed(index, error))

    def _report_finished(self, *, force: bool = False) -> None:
        now = time.monotonic()
        finished = self.dispatcher.finished
        if finished != self._reported and (force or now - self._reported_at >= _REPORT_EVERY_S):
            self._reported, self._reported_at = finished, now
            self.front.post(control.Finished(finished))

    # -- the front and callers from outside --------------------------------

    def _on_front(self) -> None:
        try:
            message, fds = control.receive(self.front.sock)
        except ProtocolError:
            return
        for fd in fds:
            os.close(fd)
        if message is None:
            self._on_front_lost()
        else:
            self._obey(message, "front")

    def _on_front_lost(self) -> None:
        self._forget(self.front.sock)
        self._forget(self.front.pidfd)
        if not self._front_lost:
            self._front_lost = True
            self.request(Level.STOP, "the front died", "warden")

    def _on_connection(self) -> None:
        if self._control:
            for client in self._control.accept():
                self._watch(client, lambda client=client: self._on_client(client))  # type: ignore[misc]

    def _on_client(self, client: socket.socket) -> None:
        if self._control and not self._control.serve(client):
            self._forget(client)
            client.close()

    def _on_caller(self, message: control.Message) -> control.Message | None:
        if isinstance(message, control.AskStatus):
            stopping = self.state is not State.RUNNING
            return control.Status(
                run_id=self.plan.run_id,
                status=RunStatus.STOPPING if stopping else RunStatus.RUNNING,
                done=self.dispatcher.finished + self.board.in_flight(),
                total=self.plan.grid.size,
                workers=[worker.outside for worker in self.workers.values()],
            )
        self._obey(message, "stop command")
        return None

    def _obey(self, message: control.Message, who: str) -> None:
        if isinstance(message, control.RequestStop):
            level = Level(min(max(message.level, Level.DRAIN), Level.KILL))
            self.request(level, message.reason, who)
        elif isinstance(message, control.DumpStacks):
            for worker in self.workers.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, DUMP_SIGNAL)  # our own unreaped child: the pid is its own

    def _close(self) -> None:
        if self._control:
            self._control.close()
        if self._failures:
            self._failures.close()
        for worker in self.workers.values():
            worker.link.close()
        self._selector.close()
        self.containment.end()
        self.events.close()
        for fd in (self.fds.bars, self.fds.function):
            if fd is not None:
                os.close(fd)
        self.flag.close()
        self.board.close()
        self.backend = None  # what was prepared is big, and a kept warden holds nothing of a run


def _closed(watched: object) -> bool:
    return isinstance(watched, socket.socket) and watched.fileno() < 0


def describe_exit(code: int) -> str:
    """Say how a process ended, for people: its exit status or the signal's name."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
    return f"died of {name}{hint}"
