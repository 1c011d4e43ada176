"""The front: starts a run, watches it, stops it, and has its end written down.

One loop with one wait: the warden's line and death, requests from other threads, signals,
and the clock. It holds nothing that the run needs to end: when the front dies at any instant,
the warden ends the run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from supervisor.errors import AllstopError, ConfigError, DiskSilentError, RunFailedError
from supervisor.front.ending import Ending
from supervisor.front.inbox import Inbox, Request
from supervisor.front.link import WardenLink, keep_warden
from supervisor.front.memory import MemoryWatch
from supervisor.front.notes import Notes
from supervisor.front.phase import End, Ended, Phase, Running, Started, Starting, Stopping
from supervisor.front.progress import Display, Progress, Say, Tick
from supervisor.front.signals import SignalQueue
from supervisor.front.vram import VramWatch
from supervisor.front.work import PreparedLike, Run, Work
from supervisor.ipc import messages
from supervisor.ipc.stopflag import Level, StopFlag
from supervisor.records import registry
from supervisor.records.command import AnyPlan
from supervisor.records.events import EventLog
from supervisor.records.plan import Plan
from supervisor.records.report import Report
from supervisor.records.stop_record import ECHO, StopRecord
from supervisor.records.verdict import Work as HowWorkEnded
from supervisor.states import RunStatus
from supervisor.system.process import Identity

_DISK_LOOK_S = 0.2
_DISK_PATIENCE_S = 2.0  # a healthy one may be that busy


class Front:
    """Runs one plan, up to its report, whatever the work is.

    Parameters
    ----------
    prepared : PreparedLike
        What to run; its directory is claimed, and empty but for what a resumed run left.
    link : WardenLink
        A warden without a run; this object owns it from now on.
    hire : callable
        Makes the work of the run it is given.
    keep_warden : bool
        Keep the warden for the next run of this process.

    Attributes
    ----------
    phase : Phase
        Where the run is; only the loop changes it.
    asked : StopRecord
        The requests to end it, whatever the phase: cluster jobs may outlast the work.
    asked_at : float
        ``time.monotonic()`` instant of the first request; 0: there was none.
    listeners : list of queue
        Each is given something whenever :attr:`finished` or :attr:`report` changes.
    finished : int
        Combinations that are done.
    report : Report or None
        None: the run is not over.
    left_to : str
        Who writes results and report, and why; empty: this object has.
    """

    def __init__(
        self,
        prepared: PreparedLike,
        link: WardenLink,
        hire: Callable[[Run], Work],
        *,
        keep_warden: bool = True,
    ) -> None:
        self.plan, self.run_dir, self.link = prepared.plan, prepared.run_dir, link
        self.flag = StopFlag()
        self.inbox = Inbox(self.flag)
        self.events = EventLog(self.run_dir, "front", scribe=link.scribe.line)
        self.notes = Notes(self.events, prepared.notes)
        self.memory = MemoryWatch(self.events)
        self.vram = VramWatch(self.plan, self.events, self.inbox.nudge)
        self.display = Display()
        self.phase: Phase = Starting()
        self.asked, self.asked_at = StopRecord(), 0.0
        self.listeners: list[queue.SimpleQueue[None]] = []
        self.finished = prepared.finished
        self.report: Report | None = None
        self.handed_over = False
        self.left_to = ""
        self.keep_warden = keep_warden
        self._claim = prepared.claim
        self._made_at = time.monotonic()
        # no reference cycle: descriptors are closed with the last reference to the front
        self.work = hire(weakref.proxy(self))

    # -- called from other threads ------------------------------------------

    def request(self, level: Level, reason: str = "", by: str = "python") -> None:
        """Ask the run to end. From any thread; returns at once, the flag set."""
        self.inbox.request(level, reason, by)

    def nudge(self) -> None:
        """Have the loop look for news. From any thread."""
        self.inbox.nudge()

    @property
    def began(self) -> float:
        """``time.monotonic()`` instant of the first fork, or of this object's making."""
        return self.phase.started.at if self.phase.started else self._made_at

    @property
    def elapsed_s(self) -> float:
        """Since the first worker was forked, in s."""
        return time.monotonic() - self.began

    @property
    def status(self) -> RunStatus:
        """Where the run is, as everything outside is told."""
        if self.report:
            return self.report.status
        if self.asked:
            return RunStatus.STOPPING
        return RunStatus.STARTING if isinstance(self.phase, Starting) else RunStatus.RUNNING

    def progress(self) -> Progress:
        """How the run is doing now."""
        count = self.work.count()
        return Progress(
            status=self.status,
            done=count.done,
            total=count.total,
            failed=count.failed,
            elapsed_s=self.elapsed_s,
            ram_bytes=self.memory.last_bytes,
            best=count.best,
            stop_level=self.flag.level,
        )

    def advance(self, finished: int) -> None:
        """Note how many combinations are finished, and tell the listeners."""
        self.finished = finished
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        # no lock that is taken in Python: Ctrl+C between its taking and the block that gives it
        # back would leave it taken, and this thread waiting for ever
        for listener in tuple(self.listeners):
            if listener.empty():
                listener.put(None)

    # -- the run -----------------------------------------------------------

    def run(
        self,
        *,
        signals: SignalQueue | None = None,
        on_tick: Tick | None = None,
        say: Say | None = None,
    ) -> Report:
        """Run to the end; block until the report is written.

        Parameters
        ----------
        signals : SignalQueue, optional
            Signals to obey; only a command line's main thread has them.
        on_tick : callable, optional
            Given the progress about four times a second.
        say : callable, optional
            Shows a line to the user (status on SIGUSR1, stacks on SIGQUIT).
        """
        self.inbox.listen_to(signals)
        self.display = Display(on_tick, say)
        try:
            if not self.work.elsewhere:
                self.vram.start()
            # the warden may only just have been spawned; a stop in the meantime is received
            self._loop(until=lambda: self.link.born and self.vram.ready)
            if not self._over:
                self._start()
            self._loop()
        except AllstopError as error:
            self.notes.note(str(error))
            self._end(End.of(error))
        except BaseException:
            # an exception of the caller's (Ctrl+C in a notebook): the run must not outlive it
            self._abandon()
            raise
        report = Ending(self).report()
        if not self.keep_warden:
            self.link.kill()
        try:
            if self.work.jobs:
                self.work.jobs.close()  # what is outstanding has no owner now, and is found below
            # looked for while the warden dies; a shard leaves it to the run it is part of
            some_dead = not _is_shard(self.plan) and _are_dead_runs()
        finally:
            self._close()
        self.report = report
        self._tell_listeners()
        self.display.show(self.progress())
        if some_dead:
            _clear_dead_runs()
        return report

    def _start(self) -> None:
        self.memory.watch(self.link.pid)
        self.vram.watch(self.link.pid)
        # it divides the attempts of a resumed run: said before the warden can say anything, and
        # before a stop can find the run and take it for ended as it was
        self.events.emit(
            "run_requested",
            run_id=self.plan.run_id,
            warden=self.link.pid,
            resumed=self.plan.resumed,
            elsewhere=self.work.elsewhere,
        )
        self._register()
        self.handed_over = True
        self.work.hand_over()

    def _register(self) -> None:
        """Let others find the run; with a full home directory it runs all the same."""
        front = Identity.of(os.getpid()) or Identity(os.getpid(), 0)
        entry = registry.Entry(self.plan.run_id, self.run_dir, front, self.link.identity)
        try:
            registry.add(entry)
        except OSError as error:
            lacks = (
                f"the run is not in the registry ({registry.state_dir()}: {error.strerror}): "
                "Ctrl+C stops it, but allstop stop and reap will not find it: free some space, "
                "or set XDG_STATE_HOME"
            )
            self.notes.note(lacks)
            self.display.say(f"allstop: {lacks}")

    @property
    def _over(self) -> bool:
        """Whether the work has ended."""
        return isinstance(self.phase, Ended)

    def _loop(self, until: Callable[[], bool] = bool) -> None:
        """Watch the run until it has ended, or until a condition holds."""
        waiting = select.poll()
        for fd in (self.link.sock.fileno(), self.link.pidfd, *self.inbox.fds):
            waiting.register(fd, select.POLLIN)
        while not (self._over or until()):
            ready = {fd for fd, _ in waiting.poll(1000 * self._pause())}
            self._hear_warden()
            self.hear_requests()
            if not self._over and self.link.pidfd in ready:
                raise self.link.lost(self.run_dir)
            self._keep_time()

    def _pause(self) -> float:
        """Seconds until the clock wants something."""
        give_up_at = self.phase.give_up_at if isinstance(self.phase, Stopping) else None
        due = (self.memory.due, self.display.due, self.work.due, give_up_at)
        return max(0.0, min(at for at in due if at is not None) - time.monotonic())

    def _keep_time(self) -> None:
        now = time.monotonic()
        self.work.keep_time()
        if now >= self.memory.due:
            if self.phase.started:
                self.memory.sample(stopping=bool(self.asked))
            else:
                self.memory.put_off()
            self.flag.note_disk(silent=self.events.late)
        self.display.tick(self.progress)
        if isinstance(self.phase, Stopping) and now >= (self.phase.give_up_at or now + 1):
            raise RunFailedError(
                f"the warden (pid {self.link.pid}) did not end the run in time and was killed",
                run_dir=str(self.run_dir),
            )

    # -- messages, signals, requests -----------------------------------------------------------

    def hear_requests(self) -> None:
        """Act on the signals and requests that have arrived."""
        for number in self.inbox.signals():
            self._on_signal(number)
        for request in self.inbox.requests():
            self._obey(request)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGUSR1:
            self.display.say(self.work.status_line())
            return
        if number == signal.SIGQUIT:
            with contextlib.suppress(AllstopError, OSError):  # the kill must follow
                self.work.show_where()
        self.inbox.request_by_signal(number)

    def _obey(self, request: Request) -> None:
        self._note_stop(request)
        self._cancel_jobs(request.level)
        match self.phase:
            case Starting():
                # it loads libraries or compiles kernels and would not receive this for seconds;
                # no worker exists (it says so before it forks one): there is nothing to lose
                self.link.kill()
            case Running() | Stopping():
                self.link.wake()
                self.link.send(messages.RequestStop(int(request.level), request.reason, request.by))
                self.memory.sample(stopping=True)  # the memory that the stop will free
            case Ended():
                pass  # only cluster jobs are left
            case never:
                assert_never(never)
        # written last: a stop waits for no disk. The warden has noted the same by then
        self.events.emit(
            "stop_requested", level=request.level.name, reason=request.reason, by=request.by
        )
        if isinstance(self.phase, Starting):
            # after its cause: if we die now, the process that finishes the run knows of both
            self._end(End(HowWorkEnded.STOPPED, by_force=True))

    def _note_stop(self, request: Request, *, relayed: bool = False) -> None:
        if not self.asked:
            # of a run whose processes have ended the flag tells of their end
            at = 0.0 if isinstance(self.phase, Ended) else self.flag.requested_at
            self.asked_at = at or time.monotonic()
        level = request.level.name.lower()
        self.asked.note(level, request.reason, request.by, relayed=relayed)
        self._begin_stopping(request.level)

    def _begin_stopping(self, level: Level) -> None:
        at = None if level is Level.DRAIN else time.monotonic() + self.plan.times.longest_s
        match self.phase:
            case Running(started):
                self.phase = Stopping(started, at)
            case Stopping(_, None):
                self.phase = replace(self.phase, give_up_at=at)

    def _cancel_jobs(self, level: Level) -> None:
        """Cancel the run's cluster jobs, beside the local stop and from its first instant."""
        jobs = self.work.jobs
        if jobs is None or self.work.detach or level is Level.DRAIN:
            return
        if level is Level.KILL and jobs.view.cancelling and isinstance(self.phase, Ended):
            jobs.abandon()  # the user will not wait any longer: they stay outstanding
        jobs.cancel()

    def _hear_warden(self) -> None:
        """Take in all it has said so far: an answer must not be taken for outstanding."""
        with contextlib.suppress(BlockingIOError):
            while not self._over:
                message, fds = self.link.receive()
                for fd in fds:
                    os.close(fd)
                self._on_message(message)

    def _on_message(self, message: messages.Message | None) -> None:
        match message:
            case None:
                raise self.link.lost(self.run_dir)
            case messages.RunStarted():
                self._begin(message)
            case messages.RunRefused():
                refused = ConfigError if message.usage else RunFailedError
                raise refused(message.error)
            case messages.Finished():
                self.advance(message.finished)
            case messages.StopBegun():
                if message.requested_by == ECHO:
                    self.hear_requests()  # it was our own doing: we know more about it
                told = Request(Level(message.level), message.reason, message.requested_by)
                self._note_stop(told, relayed=True)
            case messages.RungReached():
                self.asked.rung(message.name, message.at_s, message.acted_on)
            case messages.WorkerLost():
                self.notes.note(f"worker {message.serial} (pid {message.pid}) {message.why}")
            case messages.RunEnded():
                self._end(End.told(message, elsewhere=self.work.elsewhere))
            case _:
                self.work.hear(message)

    def _begin(self, message: messages.RunStarted) -> None:
        started = Started(time.monotonic(), message.containment, message.ram_baseline_bytes)
        self.phase = Running(started)
        self.memory.begin(started)
        self.work.begun(started.at)

    # -- the end -----------------------------------------------------------

    def await_disk(self) -> None:
        """Return when the disk answers; after a stop was requested it is not waited for long.

        Raises
        ------
        DiskSilentError
            If it does not.
        """
        while not self.events.answers(_DISK_LOOK_S):
            self.hear_requests()
            hurried = self.asked.level == Level.KILL.name.lower()
            if self.asked and (hurried or self.events.silent_s >= _DISK_PATIENCE_S):
                raise DiskSilentError(
                    f"the disk of {self.run_dir} does not answer", run_dir=str(self.run_dir)
                )
            self.display.say_once(
                f"waiting for the disk of {self.run_dir}, which does not answer "
                "(Ctrl+C: another process does)"
            )

    def _end(self, end: End) -> None:
        """Enter the last phase; what was seen is a fact before anything is done about it."""
        self.phase = Ended(self.phase.started, end)
        self.events.emit(
            "finishing",
            work=end.work,
            reason=end.reason,
            usage=end.usage,
            survivors=list(end.survivors),
        )

    def _abandon(self) -> None:
        """Leave the run to the warden, which takes our hanging up for our death."""
        self.work.let_go()
        self.vram.close()
        self.link.abandon()
        if self.work.jobs:
            self.work.jobs.close()  # the process that the warden starts cancels them
        self._claim.release()  # it needs the claim to finish the run

    def _close(self) -> None:
        if self.keep_warden:
            keep_warden(self.link)
        else:
            self.link.close()
        self.work.close()
        self.vram.close()
        self.events.close()
        self._claim.release(silently=bool(self.left_to))
        self.inbox.close()


def _is_shard(plan: AnyPlan) -> bool:
    return isinstance(plan, Plan) and plan.shard is not None


def _are_dead_runs() -> bool:
    """Whether earlier runs, or this one, have left something that has no owner here."""
    from slurm.records.outstanding import orphaned

    with contextlib.suppress(ConfigError, OSError):
        dead = any(entry.dead for entry in registry.entries())
        return dead or bool(registry.torn()) or any(orphaned())
    return False


def _clear_dead_runs() -> None:
    """Have what was left cleared away, now that this run's results are written."""
    from supervisor.lifecycle.reap import send

    with contextlib.suppress(OSError, RuntimeError):  # no process or thread can be started
        send()
