"""The front: starts a run, watches it, stops it, and says what became of it.

One loop with one wait: the warden's line and death, requests from other
threads, signals, and the clock. It holds nothing that the run needs to end:
when the front dies at any instant, the warden ends the run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from supervisor.errors import AllstopError, ConfigError, RunFailedError
from supervisor.front.link import WardenLink, keep_warden
from supervisor.front.signals import STOPPING, SignalQueue
from supervisor.ipc import messages
from supervisor.ipc.stopflag import Level, StopFlag
from supervisor.records import registry, rundir
from supervisor.records.claim import Claim
from supervisor.records.events import EventLog
from supervisor.records.plan import ALLOCATION, StopTimes
from supervisor.records.report import Gathered, MemoryReport, Report, Rung, StopReport
from supervisor.states import ExitCode, RunStatus
from supervisor.system import memory, process
from supervisor.system.meanwhile import Meanwhile
from supervisor.system.process import Identity

if TYPE_CHECKING:
    from slurm.watch import JobWatch
    from supervisor.rows.grid import Value

TICK_S = 0.25
SETTLE_POLL_S = 0.005
_MAX_ERRORS_KEPT = 100
_MEMORY_FACT_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run stands, for whoever shows it.

    Attributes
    ----------
    status : RunStatus
        Where it is.
    done, total : int
        Combinations of the grid.
    failed : int
        Those of them that have failed, in this attempt.
    elapsed_s : float
        Since the first worker was forked, in s.
    ram_bytes : int
        Latest sample of what the run's processes hold.
    best : (dict, float) or None
        Parameters and value of the best combination so far.
    stop_level : Level or None
        How it was asked to end.
    """

    status: RunStatus
    done: int
    total: int
    failed: int
    elapsed_s: float
    ram_bytes: int
    best: tuple[dict[str, Value], float] | None
    stop_level: Level | None


Tick = Callable[[Progress], None]
Say = Callable[[str], None]


class PlanLike(Protocol):
    """What a front has to know of a plan."""

    @property
    def run_id(self) -> str:
        """Name of the run."""
        ...

    @property
    def times(self) -> StopTimes:
        """Timers of the escalation."""
        ...

    @property
    def combos_total(self) -> int:
        """Combinations there are to compute."""
        ...

    @property
    def resumed(self) -> int:
        """How often the run was resumed."""
        ...


class PreparedLike(Protocol):
    """A run that was checked and has its directory, whatever the work is."""

    @property
    def plan(self) -> PlanLike:
        """What was asked for."""
        ...

    @property
    def run_dir(self) -> Path:
        """Its directory."""
        ...

    @property
    def claim(self) -> Claim:
        """The claim on it."""
        ...

    @property
    def finished(self) -> int:
        """Combinations that earlier attempts have finished."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report should mention besides."""
        ...


class Front(ABC):
    """Carries one run from its plan to its report, whatever the work is.

    Parameters
    ----------
    prepared : PreparedLike
        What to run; its directory is claimed, and empty but for what a resumed run left.
    link : WardenLink
        A warden without a run; this object owns it from now on.
    keep_warden : bool
        Keep the warden for the next run of this process.
    detach : bool
        Let the cluster jobs outlive the run.
    """

    def __init__(
        self,
        prepared: PreparedLike,
        link: WardenLink,
        *,
        keep_warden: bool = True,
        detach: bool = False,
    ) -> None:
        self.run_dir = run_dir = prepared.run_dir
        self.flag = StopFlag()
        self.listeners: list[queue.SimpleQueue[None]] = []
        """Each is given something whenever :attr:`finished` or :attr:`report` changes."""
        self.finished = prepared.finished
        self.report: Report | None = None
        self._keep_warden = keep_warden
        self._detach = detach
        self._plan = prepared.plan
        self._claim = prepared.claim
        self._link = link
        self._jobs: JobWatch | None = None
        self._events = EventLog(run_dir, "front")
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._requests: deque[tuple[Level, str, str]] = deque()
        self._sampler = memory.Sampler(0)  # the root is told when the warden has introduced itself
        self._status = RunStatus.STARTING
        self._began = time.monotonic()
        self._started: messages.RunStarted | None = None
        self._ended: messages.RunEnded | None = None
        self._stop: StopReport | None = None
        self._stop_at = 0.0
        self._stop_signal: int | None = None
        self._reason = ""
        self._handed_over = False
        self._cut_short = False
        """The warden was killed by us before it had begun."""
        self._errors: list[str] = list(prepared.notes)
        self._given_up = 0
        self._give_up_at: float | None = None
        self._next_tick = 0.0
        self._told = ""
        self._next_memory_fact = 0.0

    # -- asked from other threads ------------------------------------------

    def request(self, level: Level, reason: str = "", by: str = "python") -> None:
        """Ask the run to end. From any thread; returns at once.

        The flag is set here and now: workers see it before the warden does.
        """
        # noted before the flag is set: its effects may reach the loop before we do
        self._requests.append((level, reason, by))
        self.flag.request(min(level, Level.STOP))
        self.nudge()

    def nudge(self) -> None:
        """Have the loop look for news. From any thread."""
        with contextlib.suppress(OSError):  # the loop has ended: there is nobody to wake
            os.eventfd_write(self._wake, 1)

    # -- what depends on the work ------------------------------------------

    @abstractmethod
    def progress(self) -> Progress:
        """How the run stands now."""

    @abstractmethod
    def status_line(self) -> str:
        """How the run stands now, in a line."""

    @abstractmethod
    def _hand_over(self) -> None:
        """Hand the run to the warden."""

    def _standing(self) -> messages.Status:
        """What ``status`` is told when only cluster jobs are left."""
        progress = self.progress()
        return messages.Status(
            self._plan.run_id,
            RunStatus.RUNNING if self._stop is None else RunStatus.STOPPING,
            progress.done,
            progress.total,
            [],
            round(progress.elapsed_s, 3),
        )

    def _tick_for_jobs(self, standing: str) -> None:
        """Show the user what is waited for, and how far that is."""
        if self._on_tick:
            self._on_tick(self.progress())
        if standing and standing != self._told:
            self._told = standing
            self._say(f"allstop: {standing}")

    def _work_begun(self) -> None:  # noqa: B027 - not every work has it
        """The warden is about to fork."""

    @abstractmethod
    def _show_where(self) -> None:
        """Show where every process of the run is."""

    def _let_go(self) -> None:  # noqa: B027 - not every work has it
        """The run is somebody else's to finish: end what goes on beside the loop."""

    def _gather(self) -> Gathered:
        """Put results together."""
        return Gathered()

    def _wrap_up(self, status: RunStatus) -> None:  # noqa: B027 - not every work has it
        """Whatever else has to be on disk before the report."""

    def _complete(self, report: Report) -> None:  # noqa: B027 - not every work has it
        """Add to the report what only this kind of work has."""

    # -- the run -----------------------------------------------------------

    def run(
        self,
        *,
        signals: SignalQueue | None = None,
        on_tick: Tick | None = None,
        say: Say | None = None,
    ) -> Report:
        """Carry the run out; block until its report is written.

        Parameters
        ----------
        signals : SignalQueue, optional
            Signals to obey; only a command line's main thread has them.
        on_tick : callable, optional
            Told how the run stands, about four times a second: drawing a bar takes 3 ms.
        say : callable, optional
            Shows a line to the user (status on SIGUSR1, stacks on SIGQUIT).
        """
        self._signals = signals
        self._on_tick = on_tick
        self._say = say or (lambda _line: None)
        failure: AllstopError | None = None
        try:
            # the warden may only just have been spawned; a stop in the meantime is heard
            self._loop(on_tick, until=lambda: self._link.born)
            if self._ended is None:
                self._start()
            self._loop(on_tick)
        except AllstopError as error:
            failure = error
        except BaseException:
            # an exception of the caller's (Ctrl+C in a notebook): the run must not outlive it
            self._let_go()
            self._link.abandon()
            if self._jobs:
                self._jobs.close()  # whom the warden sends cancels them
            self._claim.release()  # whom the warden sends to finish the run needs it
            raise
        report = self._finish(failure)
        if not self._keep_warden:
            self._link.kill()
        try:
            if self._jobs:
                self._jobs.close()  # what it owes is nobody's from here on, and found by the look
            some_dead = _are_dead_runs()  # looked for while the warden dies
        finally:
            self._close()
        self.report = report
        self._tell_listeners()
        if on_tick:
            on_tick(self.progress())
        if some_dead:
            _clear_dead_runs()
        return report

    def _start(self) -> None:
        self._sampler.root = self._link.pid
        # it divides the attempts of a resumed run: said before the warden can say anything, and
        # before the run is found by a stop, who would take it for ended as it was
        self._events.emit(
            "run_requested",
            run_id=self._plan.run_id,
            warden=self._link.pid,
            resumed=self._plan.resumed,
        )
        registry.add(
            registry.Entry(
                self._plan.run_id,
                self.run_dir,
                Identity.of(os.getpid()) or Identity(os.getpid(), 0),
                self._link.identity,
            )
        )
        self._handed_over = True
        self._hand_over()

    def _loop(self, on_tick: Tick | None, until: Callable[[], bool] = bool) -> None:
        """Watch the run until it has ended, or until a condition holds."""
        waiting = select.poll()
        for fd in (self._link.sock.fileno(), self._link.pidfd, self._wake):
            waiting.register(fd, select.POLLIN)
        if self._signals:
            waiting.register(self._signals.fileno(), select.POLLIN)
        while self._ended is None and not until():
            ready = {fd for fd, _ in waiting.poll(1000 * self._pause(on_tick))}
            self._hear_warden()
            self._hear_requests()
            if self._ended is None and self._link.pidfd in ready:
                raise self._link.lost(self.run_dir)
            self._keep_time(on_tick)

    def _pause(self, on_tick: Tick | None) -> float:
        """Seconds until the clock wants something."""
        due = [self._sampler.due]
        if on_tick:
            due.append(self._next_tick)
        if self._give_up_at is not None:
            due.append(self._give_up_at)
        return max(0.0, min(due) - time.monotonic())

    def _keep_time(self, on_tick: Tick | None) -> None:
        now = time.monotonic()
        if now >= self._sampler.due:
            if self._started:
                self._sample_memory()
            else:
                self._sampler.due = now + TICK_S  # the baseline is the warden's to measure
        if on_tick and now >= self._next_tick:
            self._next_tick = now + TICK_S
            on_tick(self.progress())
        if self._ended is None and self._give_up_at is not None and now >= self._give_up_at:
            raise RunFailedError(
                f"the warden (pid {self._link.pid}) did not end the run in time and was killed",
                run_dir=str(self.run_dir),
            )

    # -- hearing -----------------------------------------------------------

    def _sample_memory(self) -> None:
        ram_bytes = self._sampler.sample()
        now = time.monotonic()
        if now >= self._next_memory_fact or self._stop is not None:
            self._next_memory_fact = now + _MEMORY_FACT_EVERY_S
            self._events.emit("memory_sampled", ram_bytes=ram_bytes)

    def _hear_requests(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._signals:
            for number in self._signals.take():
                self._on_signal(number)
        while self._requests:
            self._pass_on(*self._requests.popleft())

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGUSR1:
            self._say(self.status_line())
        elif number == signal.SIGQUIT:
            self._show_where()
            self._stop_signal = number
            self.request(Level.KILL, "SIGQUIT", "SIGQUIT")
        elif number in STOPPING:
            again = self._stop_signal is not None and not _is_echo(number)
            self._stop_signal = number
            self.request(Level.KILL if again else Level.STOP, number.name, number.name)

    def _pass_on(self, level: Level, reason: str, by: str) -> None:
        self._note_stop(level, reason, by)
        self._cancel_jobs(level)
        if self._ended is not None:
            return  # only cluster jobs are left
        if self._started is None:
            # it loads libraries or compiles kernels and would not hear us for seconds; no
            # worker exists yet (it says so before it forks one), so there is nothing to lose
            self._link.kill()
            self._cut_short = True
            self._ended = messages.RunEnded(
                RunStatus.STOPPED, self._reason, elapsed_s=0.0, survivors=[]
            )
            return
        self._link.wake()
        self._link.send(messages.RequestStop(int(level), reason or by))
        self._sample_memory()  # what there is to be freed; workers are still on their way out

    def _cancel_jobs(self, level: Level) -> None:
        """Cancel the run's cluster jobs, beside the local stop and from its first instant."""
        if self._jobs is None or self._detach or level is Level.DRAIN:
            return
        if level is Level.KILL and self._jobs.view.cancelling and self._ended is not None:
            self._jobs.abandon()  # somebody is tired of waiting: they stay owed
        self._jobs.cancel()

    def _note_stop(self, level: Level, reason: str, by: str) -> None:
        if self._stop is None:
            self._stop = StopReport(by, level.name.lower())
            # of a run whose processes have ended the flag tells of their end
            at = self.flag.requested_at if self._ended is None else 0.0
            self._stop_at = at or time.monotonic()
            self._reason = reason or by
            self._events.emit("stop_requested", level=level.name, reason=reason, by=by)
        elif level.name.lower() != self._stop.level:
            self._stop.level = max(level, Level[self._stop.level.upper()]).name.lower()
        self._status = RunStatus.STOPPING
        if level > Level.DRAIN:
            self._give_up_at = self._give_up_at or time.monotonic() + self._plan.times.longest_s

    def _hear_warden(self) -> None:
        """Hear all it has said so far: an answer must not be taken for outstanding."""
        with contextlib.suppress(BlockingIOError):
            while self._ended is None:
                message, fds = self._link.receive()
                for fd in fds:
                    os.close(fd)
                self._on_message(message)

    def _on_message(self, message: messages.Message | None) -> None:
        match message:
            case None:
                raise self._link.lost(self.run_dir)
            case messages.RunStarted():
                self._started = message
                self._sampler.peak = message.ram_baseline_bytes
                self._began = time.monotonic()
                self._sampler.due = self._began + self._sampler.interval_s
                if self._status is RunStatus.STARTING:
                    self._status = RunStatus.RUNNING
                self._work_begun()
            case messages.RunRefused():
                raise _refusal(message.error, usage=message.usage, run_dir=self.run_dir)
            case messages.Finished():
                self._advance(message.finished)
            case messages.StopBegun():
                self._hear_requests()  # if it was our own doing, we know more about it
                self._note_stop(Level(message.level), message.reason, message.requested_by)
            case messages.RungReached():
                if self._stop:
                    self._stop.rungs.append(
                        Rung(message.name, round(message.at_s, 6), message.acted_on)
                    )
            case messages.WorkerLost():
                self._note_error(f"worker {message.serial} (pid {message.pid}) {message.why}")
            case messages.CombinationFailed():
                self._given_up += 1
            case messages.RunEnded():
                self._ended = message

    def _advance(self, finished: int) -> None:
        self.finished = finished
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        # no lock that is taken in Python: Ctrl+C between its taking and the block that gives it
        # back would leave it taken, and this thread waiting for ever
        for listener in tuple(self.listeners):
            if listener.empty():
                listener.put(None)

    def _note_error(self, error: str) -> None:
        self._events.emit("error_noted", error=error)
        if len(self._errors) < _MAX_ERRORS_KEPT:
            self._errors.append(error)

    # -- the end -----------------------------------------------------------

    def _finish(self, failure: AllstopError | None) -> Report:
        self._events.emit("finishing", failure=None if failure is None else str(failure))
        gone_at = time.monotonic()
        if failure:
            self._note_error(str(failure))
        ended = self._ended
        if failure:
            self._link.kill()  # otherwise it stays: should we be killed now, it writes what we owe
        killed = failure is not None or self._cut_short
        survivors = self._end_leftovers() if killed else (ended.survivors if ended else [])
        memory_back = Meanwhile(
            partial(self._see_memory_back, none_left=not (failure or survivors))
        )
        status = RunStatus(ended.outcome) if ended else RunStatus.FAILED
        self._wrap_up(status)
        if self._jobs is not None:
            status = self._see_jobs_out(self._jobs, status)
            gone_at = time.monotonic()
        end_of_jobs = self._jobs.view if self._jobs else None
        failure = failure or (end_of_jobs.refused if end_of_jobs else None)
        gathered = self._gather()
        ghosts = end_of_jobs.unverified if end_of_jobs else []
        if self._stop:
            self._stop.elapsed_s = round(gone_at - self._stop_at, 6)
            self._stop.survivors = survivors + ghosts
        else:
            for name in survivors:
                self._note_error(f"could not be killed: {name}")
            for name in ghosts:
                self._note_error(f"has not been seen to end: {name}")
        why = str(failure) if failure else (ended.reason if ended else "")
        status = self._verdict(status, gathered, why)
        usage = isinstance(failure, ConfigError) or bool(ended and ended.usage)
        report = Report(
            run_id=self._plan.run_id,
            status=status,
            reason=self._reason if status is not RunStatus.COMPLETED else "",
            exit_code=self._exit_code(status, usage=usage, survivors=bool(survivors or ghosts)),
            containment=self._started.containment if self._started else "none",
            combos_total=self._plan.combos_total,
            combos_done=gathered.done,
            combos_failed=gathered.failed,
            elapsed_s=round(gone_at - self._began, 6),
            run_dir=str(self.run_dir),
            stop=self._stop,
            memory=memory_back.result(),
            jobs=[job._asdict() for job in end_of_jobs.jobs] if end_of_jobs else [],
            errors=self._errors,
            resumed=self._plan.resumed,
        )
        self._complete(report)
        self._put_away(report)
        self._status = status
        self._keep_warden = self._keep_warden and failure is None and not survivors
        return report

    def _verdict(self, status: RunStatus, gathered: Gathered, why: str) -> RunStatus:
        """What the run comes to, now that its results have been put together, and the reason."""
        if status is not RunStatus.COMPLETED:
            if gathered.unwritten:
                self._note_error(gathered.unwritten)
            if status is RunStatus.FAILED:
                self._reason = why or self._reason
        elif gathered.shortcoming:
            status, self._reason = RunStatus.FAILED, gathered.shortcoming
        return status

    def _see_jobs_out(self, jobs: JobWatch, status: RunStatus) -> RunStatus:
        """Wait for the run's cluster jobs: for their own end, or for that of their cancel."""
        from supervisor.front.jobs import Desk, see_jobs_out

        jobs.quiet()
        if self._detach:
            jobs.detach()
        elif status is RunStatus.COMPLETED:
            jobs.wait_for_end()
        else:
            jobs.cancel()
        guarded = status is RunStatus.COMPLETED

        def hear() -> None:
            nonlocal guarded
            self._hear_requests()
            if guarded and not self._link.usable:
                guarded = False
                self._reason = str(self._link.lost(self.run_dir))
                self._note_error(self._reason)
                jobs.cancel()

        fds = [self._wake, *([self._signals.fileno()] if self._signals else [])]
        desk = Desk(
            self._plan.run_id,
            fds,
            hear,
            self.request,
            self._standing,
            self._tick_for_jobs,
        )
        see_jobs_out(jobs, desk)
        end = jobs.view
        if end.error:
            self._note_error(end.error)
        if end.refused:
            return RunStatus.FAILED
        if status is RunStatus.COMPLETED and not guarded:
            return RunStatus.FAILED  # its jobs were cancelled with the warden's death
        if status is RunStatus.COMPLETED and end.cut_short:
            return RunStatus.STOPPED
        if status is RunStatus.COMPLETED and end.failed:
            self._reason = ", ".join(end.failed)
            return RunStatus.FAILED
        return status

    def _end_leftovers(self) -> list[str]:
        """End what a warden that was lost has left; return what is alive all the same."""
        if not self._handed_over:
            return []  # it has not heard of the run
        from supervisor.containment.leftovers import end_leftovers

        if not self._link.see_dead():
            pid = self._link.pid
            return [f"pid {pid} (the warden), state {process.state_letter(pid) or 'gone'}"]
        return end_leftovers(self._plan.run_id, self.run_dir).survivors

    def _put_away(self, report: Report) -> None:
        fresh = self._plan.resumed == 0 and report.combos_done == 0
        if report.exit_code == ExitCode.USAGE and fresh:
            rundir.discard(self.run_dir)  # a mistake that can be mended leaves nothing behind
        else:
            try:
                report.write()
            except OSError as error:
                report.errors.append(f"report.json could not be written: {error.strerror}")
        # last: killed before, we leave an entry by which what is missing is found
        # a warden that was killed has left its socket: nobody would look for it afterwards
        registry.socket_path(self._plan.run_id).unlink(missing_ok=True)
        if report.exit_code == ExitCode.INCOMPLETE:
            registry.leave_to_reap(self._plan.run_id)
        else:
            registry.remove(self._plan.run_id)

    def _exit_code(self, status: RunStatus, *, usage: bool, survivors: bool) -> int:
        if survivors:
            return ExitCode.INCOMPLETE
        if usage:
            return ExitCode.USAGE
        if status is RunStatus.STOPPED:
            return ExitCode.from_signal(self._stop_signal or signal.SIGTERM)
        return ExitCode.FAILED if status is RunStatus.FAILED else ExitCode.DONE

    def _see_memory_back(self, *, none_left: bool) -> MemoryReport | None:
        """Measure memory, then let go of the warden's own, unless the warden is still needed.

        Beside the writing of results: the kernel walks through page tables for the one, and
        takes as long for the other, for which the front would wait at its end.
        """
        measured = self._measure_memory()
        if none_left and self._jobs is None and not self._keep_warden:
            self._link.send(messages.Rest(str(self.run_dir)))
        return measured

    def _measure_memory(self) -> MemoryReport | None:
        """Look until memory is back at its baseline, or the verification runs out.

        None: nothing had begun, or the warden was lost.
        """
        if self._started is None or self._ended is None:
            return None
        baseline = self._started.ram_baseline_bytes
        since = self._stop_at or time.monotonic() - self._ended.elapsed_s
        deadline = time.monotonic() + self._plan.times.verify_s
        peak = max(self._sampler.peak, baseline)
        while True:
            after = memory.tree_bytes(self._link.pid)
            now = time.monotonic()
            back = after <= baseline + memory.SETTLED_SLACK_BYTES
            if back or now >= deadline:
                break
            select.select([], [], [], SETTLE_POLL_S)
        self._events.emit("memory_settled", ram_bytes=after, back=back)
        return MemoryReport(
            ram_baseline_bytes=baseline,
            ram_peak_bytes=peak,
            ram_after_bytes=after,
            ram_freed_bytes=max(0, peak - after),
            settled_s=round(now - since, 6) if back else None,
        )

    def _close(self) -> None:
        if self._keep_warden:
            keep_warden(self._link)
        else:
            self._link.close()
        self._events.close()
        self._claim.release()
        os.close(self._wake)


def _refusal(error: str, *, usage: bool, run_dir: Path) -> AllstopError:
    return ConfigError(error) if usage else RunFailedError(error, run_dir=str(run_dir))


def _is_echo(number: signal.Signals) -> bool:
    """Whether SLURM and the batch shell may both have sent what one of them meant.

    The cluster kills by itself when its KillWait is over: no SIGTERM has to.
    """
    return number == signal.SIGTERM and ALLOCATION in os.environ


def _are_dead_runs() -> bool:
    """Whether earlier runs, or this one, have left something that has no owner."""
    from slurm.records.outstanding import orphaned

    with contextlib.suppress(ConfigError, OSError):
        return any(not entry.alive for entry in registry.entries()) or any(orphaned())
    return False


def _clear_dead_runs() -> None:
    """Have what was left cleared away, now that this run's results are written."""
    from supervisor.lifecycle.reap import send

    with contextlib.suppress(OSError, RuntimeError):  # no process, no thread to be had
        send()
