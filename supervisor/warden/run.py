"""One run in the warden, from the first fork to the last reaped process.

One loop with one wait, the escalation, the front and the control socket. The work itself
is the workforce's (:mod:`supervisor.warden.workforce`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from supervisor.containment import Containment
from supervisor.errors import ProtocolError
from supervisor.ipc import messages
from supervisor.ipc.control_socket import ControlSocket
from supervisor.ipc.stopflag import Level, StopFlag
from supervisor.records import registry
from supervisor.records.events import EventLog
from supervisor.records.plan import StopTimes
from supervisor.states import RunStatus
from supervisor.system import memory, process
from supervisor.warden.escalation import FINAL, Action, Event, State, step
from supervisor.warden.lines import Front
from supervisor.warden.workforce import Run, Workforce

_KILL_AGAIN_S = 0.02  # while killing: processes forked meanwhile are killed too
_NEAR_S = 0.1  # before a deadline
_LEVEL_EVENT = {Level.DRAIN: Event.DRAIN, Level.STOP: Event.STOP, Level.KILL: Event.KILL}


@dataclass
class StopRecord:
    """When and why the run began to end."""

    at: float
    level: Level
    reason: str
    by_request: bool


class RunInHand:
    """One run, from the first fork to the last reaped process.

    Parameters
    ----------
    run_id : str
        Its id.
    times : StopTimes
        Timers of its escalation.
    run_dir : Path
        Its directory.
    flag : StopFlag
        Its stop flag; this object owns it from now on.
    front : Front
        The process that started it.
    containment : Containment
        Containment of its processes.
    hire : callable
        Creates the workforce of the run it is given.
    """

    def __init__(
        self,
        run_id: str,
        times: StopTimes,
        run_dir: Path,
        flag: StopFlag,
        front: Front,
        containment: Containment,
        hire: Callable[[Run], Workforce],
    ) -> None:
        self.run_id = run_id
        self.run_dir = run_dir
        self.flag = flag
        self.containment = containment
        self.events = EventLog(run_dir, "warden", scribe=front.scribe)
        self._stop: StopRecord | None = None
        self._failure: str | None = None
        self._failure_usage = False
        self._state = State.RUNNING
        self._times = times
        self._front = front
        self._deadline: float | None = None
        self._selector = selectors.DefaultSelector()
        self._front_lost = False
        self._control: ControlSocket | None = None
        self._workforce = hire(self)

    # -- the run -----------------------------------------------------------

    def perform(self, signals: socket.socket) -> bool:
        """Run to the end; return whether the front is still alive."""
        _take(signals)  # signals from before the run do not concern it
        self.watch(signals, lambda: self._on_signal(signals))
        self.watch(self._front.sock, self._on_front)
        self.watch(self._front.pidfd, self._on_front_lost)
        try:
            self._listen()
            self._begin()
            while self.state not in FINAL:
                if self.state is not State.RUNNING:
                    self._reap()  # there may be no process left whose death would wake this one
                if self.state not in FINAL:
                    self._wait()
        except BaseException:
            self.containment.signal_all(signal.SIGKILL)  # a bug of ours must leave no survivors
            raise
        finally:
            self._close()
        return not self._front_lost

    def _listen(self) -> None:
        """Open the control socket; without room for it the run is stopped by its front alone."""
        try:
            self._control = ControlSocket(self.run_id, self._on_caller)
        except OSError as error:
            if error.errno not in (*registry.FULL, errno.ENOENT):
                raise
            where = registry.socket_path(self.run_id)
            lacks = f"no control socket ({where}: {os.strerror(errno.ENOSPC)}): allstop status "
            self.post(messages.Remark(f"{lacks}cannot ask the run, and stop signals its front"))
        else:
            self.watch(self._control.listener, self._on_connection)

    def _begin(self) -> None:
        for strength, why, fix in self.containment.passed_over:
            self.events.emit("containment_passed_over", strength=strength, why=why, fix=fix)
        self.containment.begin(self.run_id, self.events.emit)
        self._workforce.prepare()
        baseline = memory.tree_bytes(os.getpid())
        self.events.emit(
            "run_started", containment=self.containment.name, ram_baseline_bytes=baseline
        )
        self.post(messages.RunStarted(self.containment.name, baseline))
        self._workforce.start()
        self.check_done()

    def _wait(self) -> None:
        now = time.monotonic()
        timeout = None if self._deadline is None else _in_time(self._deadline - now)
        if self.state is State.KILLED:
            timeout = min(_KILL_AGAIN_S, timeout or 0.0)
        due = self._workforce.report_due
        if due is not None:
            pause = max(0.0, due - now)
            timeout = pause if timeout is None else min(timeout, pause)
        for key, _ in self._selector.select(self._front.outbox.patience(timeout)):
            if self._watches(key):  # the call for an earlier one may have closed this one
                key.data()
        self._workforce.report()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._happen(Event.DEADLINE)
        elif self.state is State.KILLED:
            self.containment.signal_all(signal.SIGKILL)

    # -- what the workforce calls ------------------------------------------

    @property
    def state(self) -> State:
        """State of the run, see :class:`~supervisor.warden.escalation.State`."""
        return self._state

    def watch(self, fd: int | socket.socket, call: Callable[[], object]) -> None:
        """Call a function whenever a descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, call)

    def forget(self, fd: int | socket.socket) -> None:
        """Stop watching a descriptor; harmless when repeated."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def _watches(self, key: selectors.SelectorKey) -> bool:
        """Whether it is open and watched still, by the same call: numbers are reused."""
        if isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() < 0:
            return False
        with contextlib.suppress(KeyError):
            return self._selector.get_key(key.fileobj) is key
        return False

    def post(self, message: messages.Message) -> None:
        """Send a message to the front; never blocks."""
        self._front.post(message)

    def heed_flag(self) -> None:
        """Begin the stop that the flag requests, should it arrive before the message does."""
        level = self.flag.level
        if level is not None and self.state is State.RUNNING:
            self.request(level, "the stop flag was set", "flag")

    def check_done(self) -> None:
        """End the run if the work is done, or drained."""
        draining = self.state is State.DRAINING
        if not self._workforce.exhausted and not (draining and self._workforce.idle):
            return
        if self._stop is None:
            self._stop = StopRecord(time.monotonic(), Level.DRAIN, "", by_request=False)
        if self.state in (State.RUNNING, State.DRAINING):
            self._happen(Event.WORK_DONE)

    def fail(self, why: str, *, usage: bool = False) -> None:
        """End the run as failed; ``usage``: the user can fix it."""
        if self._failure is None:
            self._failure, self._failure_usage = why, usage
            self.events.emit("run_failed", why=why)
        if self._stop is None:
            self._stop = StopRecord(time.monotonic(), Level.STOP, why, by_request=False)
        self._happen(Event.STOP)

    def leave(self) -> None:
        """In a forked child: close the run's files and sockets: EOF shows a peer's death."""
        self._selector.close()
        self.events.close()
        self._front.sock.close()
        if self._front.scribe:
            self._front.scribe.close()
        os.close(self._front.pidfd)
        if self._control:
            self._control.close(unlink=False)

    # -- events in, actions out --------------------------------------------

    def _happen(self, event: Event) -> None:
        result = step(self.state, event)
        if result.state is not self.state:
            self.events.emit("state_changed", state=result.state.name.lower())
        self._state = result.state
        for action in result.actions:
            self._ACTIONS[action](self)

    def _set_drain(self) -> None:
        self.flag.request(Level.DRAIN)
        self._rung("drain", self._workforce.size)
        self.check_done()

    def _set_stop(self) -> None:
        self.flag.request(Level.STOP)
        self._rung("flag", self._workforce.ask_to_end())

    def _set_kill(self) -> None:
        self.flag.request(Level.KILL)

    def _signal_term(self) -> None:
        self._workforce.outlived()
        self._rung("terminate", self.containment.signal_all(signal.SIGTERM, signal.SIGCONT))

    def _signal_kill(self) -> None:
        self._rung("kill", self.containment.signal_all(signal.SIGKILL))

    def _arm(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def _disarm(self) -> None:
        self._deadline = None

    def _report_end(self) -> None:
        survivors = self._survivors()
        stop = self._stop
        elapsed = time.monotonic() - stop.at if stop else 0.0
        if not survivors:
            # before the message: a front that has received it may kill the warden at once
            self.containment.end()
        self._workforce.report(force=True)
        self._rung("verify", len(survivors))
        ended = messages.RunEnded(
            outcome=self._outcome(),
            reason=messages.clip(self._failure or (stop.reason if stop else "")),
            elapsed_s=round(elapsed, 6),
            survivors=survivors[:100],
            usage=self._failure_usage,
        )
        # everything that decides how the run ended: if the front dies, another process
        # writes the report from this
        self.events.hurried = self.flag.disk_silent
        self.events.emit("run_ended", **ended._asdict())
        if self._control:
            self._control.broadcast(ended)
            self._control.close()
        self.post(ended)  # last: the front may kill the warden now

    def _survivors(self) -> list[str]:
        names = [
            f"pid {self.containment.outside(pid)} ({process.command_name(pid)}), "
            f"state {process.state_letter(pid)}"
            for pid in self.containment.living()
        ]
        if self.state is State.SURVIVED and not names:
            self._reap()
            if process.has_child():  # the list may miss one while another ends
                names.append("a process that /proc does not list")
        return names

    def _outcome(self) -> str:
        if self._failure is not None:
            return RunStatus.FAILED
        if self._workforce.exhausted:
            return RunStatus.COMPLETED
        return RunStatus.STOPPED

    _ACTIONS: ClassVar[dict[Action, Callable[[RunInHand], None]]] = {
        Action.SET_DRAIN: _set_drain,
        Action.SET_STOP: _set_stop,
        Action.SET_KILL: _set_kill,
        Action.SIGNAL_TERM: _signal_term,
        Action.SIGNAL_KILL: _signal_kill,
        Action.ARM_GRACE: lambda self: self._arm(self._times.grace_s),
        Action.ARM_TERMINATE: lambda self: self._arm(self._times.terminate_s),
        Action.ARM_VERIFY: lambda self: self._arm(self._times.verify_s),
        Action.DISARM: _disarm,
        Action.REPORT_CLEAN: _report_end,
        Action.REPORT_SURVIVORS: _report_end,
    }

    def request(self, level: Level, reason: str, requested_by: str) -> None:
        """Begin to end the run, or escalate if it is ending already."""
        if self.state in FINAL:
            return  # the end was reported: the next run's front would receive later messages
        if level is not Level.DRAIN:
            self.flag.request(min(level, Level.STOP))  # before anything is written
            self.events.hurried = True
        now = time.monotonic()
        if self._stop is None or not self._stop.by_request:
            # the flag may have been set, and workers have stopped, before the message arrived
            at = min(self.flag.requested_at or now, now)
            self._stop = StopRecord(at, level, reason, by_request=True)
            self.post(messages.StopBegun(level, reason, requested_by))
        elif level > self._stop.level:
            self._stop.level = level
            self.post(messages.StopBegun(level, reason, requested_by))
        self.events.emit("stop_requested", level=level.name, reason=reason, by=requested_by)
        self._happen(_LEVEL_EVENT[level])

    def _rung(self, name: str, acted_on: int) -> None:
        if self._stop is None or not self._stop.by_request:
            return  # ending after the last chunk is not a stop
        at_s = time.monotonic() - self._stop.at
        self.events.emit("rung_reached", rung=name, at_s=round(at_s, 6), acted_on=acted_on)
        self.post(messages.RungReached(name, at_s, acted_on))

    # -- signals and reaping ----------------------------------------------

    def _on_signal(self, signals: socket.socket) -> None:
        if signal.SIGTERM in _take(signals):
            self.request(Level.STOP, "SIGTERM to the warden", "signal")
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # ECHILD; orphans are adopted by the warden, so no descendant exists
                self._happen(Event.GONE)
                return
            if pid == 0:
                return
            self._workforce.reaped(pid, status)

    # -- the front and the control socket ----------------------------------

    def _on_front(self) -> None:
        try:
            message, fds = messages.receive(self._front.sock)
        except ProtocolError:
            return
        for fd in fds:
            os.close(fd)
        if message is None:
            self._on_front_lost()
        else:
            self._obey(message, "front")

    def _on_front_lost(self) -> None:
        self.forget(self._front.sock)
        self.forget(self._front.pidfd)
        if not self._front_lost:
            self._front_lost = True
            self.request(Level.STOP, "the front died", "warden")

    def _on_connection(self) -> None:
        if self._control:
            for client in self._control.accept():
                self.watch(client, lambda client=client: self._on_client(client))  # type: ignore[misc]

    def _on_client(self, client: socket.socket) -> None:
        if self._control and not self._control.serve(client):
            self.forget(client)
            client.close()

    def _on_caller(self, message: messages.Message) -> messages.Message | None:
        if isinstance(message, messages.AskStatus):
            stopping = self.state is not State.RUNNING
            return self._workforce.status()._replace(
                run_id=self.run_id,
                status=RunStatus.STOPPING if stopping else RunStatus.RUNNING,
            )
        self._obey(message, "stop command")
        return None

    def _obey(self, message: messages.Message, who: str) -> None:
        if isinstance(message, messages.RequestStop):
            level = Level(min(max(message.level, Level.DRAIN), Level.KILL))
            self.request(level, message.reason, message.by or who)
        elif isinstance(message, messages.DumpStacks):
            self._workforce.dump()

    def _close(self) -> None:
        if self._control:
            self._control.close()
        self._workforce.close()
        self._selector.close()
        self.containment.end()
        self.events.close()
        self.flag.close()


def _take(signals: socket.socket) -> bytes:
    """Read the numbers of the signals that have arrived."""
    received = b""
    with contextlib.suppress(BlockingIOError):
        while more := signals.recv(4096):
            received += more
    return received


def _in_time(left_s: float) -> float:
    """How long to wait in one call so as not to be late: a long wait ends a little early.

    References
    ----------
    ``select_estimate_accuracy`` (Linux, fs/select.c): a wait may take a thousandth longer than
    was asked for.
    """
    return max(0.0, left_s if left_s < _NEAR_S else 0.99 * left_s)
