"""Stopping runs from outside: request, wait, escalate, and confirm that nothing is left.

A run is ended by its warden. This module asks the warden over the control socket, or by
signal where the socket fails; kills a warden that does not end the run in time, after
which containment takes its workers along; and waits for the report and the end of the
run's cluster jobs. The command line, the Python API and the dashboard share it.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.containment.leftovers import end_leftovers
from supervisor.errors import ConfigError
from supervisor.ipc import control_socket, messages
from supervisor.ipc.stopflag import Level
from supervisor.lifecycle.look import Looker
from supervisor.lifecycle.reap import reap_run
from supervisor.records import registry, rundir
from supervisor.records.plan import StopTimes, margin_s
from supervisor.records.registry import Entry
from supervisor.records.report import SeenJob, unseen
from supervisor.system import process
from supervisor.system.process import Identity
from supervisor.system.shape import ShapeError, read_as

_POLL_S = 0.01
_LISTENS_S = 10.0
_KILLED_S = 5.0
_REPORT_S = 10.0  # for a healthy front on a busy machine
_JOBS_S = 75.0  # the front itself waits for cluster jobs a little less long
_ASK_EVERY_S = 1.0

_REQUESTED, _STARTED, _ENDED = "front.run_requested", "warden.run_started", "warden.run_ended"
_BY_COMMAND = "requested by the stop command"


class _JobsOfReport(NamedTuple):
    """The part of ``report.json`` that a stop needs."""

    jobs: list[SeenJob]


class _TimesOfRun(NamedTuple):
    """The part of ``run.json`` that a stop needs."""

    times: StopTimes


@dataclass(slots=True)
class Outcome:
    """What was observed of one run's end.

    Attributes
    ----------
    run_id : str
        Id of the run.
    gone : bool
        Whether no process and no cluster job of the run is left.
    survivors : list of str
        What is left, each named with its state.
    elapsed_s : float
        Time since the request, in s.
    escalated : list of str
        What was done because the warden or the front did not do its part.
    note : str
        Why the run's directory could not be looked at: the run may write results and report
        later; empty: it could.
    """

    run_id: str
    gone: bool
    survivors: list[str]
    elapsed_s: float
    escalated: list[str]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def stop_runs(entries: Iterable[Entry], level: Level, reason: str = _BY_COMMAND) -> list[Outcome]:
    """Stop runs and return when the end of each was confirmed, or is known to be incomplete.

    All runs receive the request before the first one is waited for.

    Parameters
    ----------
    entries : iterable of Entry
        The runs.
    level : Level
        How urgently they are to end. A drain has no time limit while the warden answers.
    reason : str
        Reason that the runs' reports give.
    """
    asked = list(entries)
    # those that listen first: asking another may have to wait until it does
    silent_last = sorted(asked, key=lambda entry: not registry.socket_path(entry.run_id).exists())
    begun = {entry.run_id: RunStop.begin(entry, level, reason) for entry in silent_last}
    return [begun[entry.run_id].confirm() for entry in asked]


@dataclass(slots=True)
class RunStop:
    """The stop of one run: :meth:`begin` requests it, :meth:`confirm` waits for the end."""

    _run: _Run
    _request: _Request
    _seen: set[Identity] = field(default_factory=set)
    """Descendants of the warden; the stop is complete only when they are dead."""

    @classmethod
    def begin(cls, entry: Entry, level: Level, reason: str = _BY_COMMAND) -> RunStop:
        """Request the stop; does not wait for it."""
        run = _Run(entry, Looker(entry.run_dir))
        stop = cls(run, _Request.connect(run, level))
        stop._note_descendants()
        stop._request.send(reason)
        return stop

    def confirm(self) -> Outcome:
        """Wait until the run has ended and its report is written; escalate where needed."""
        ended = self._request.await_end()
        survivors = self._end_without_word() if ended is None else list(ended.survivors)
        self._run.await_report()
        survivors += [job for job in self._jobs_left() if job not in survivors]
        self._run.look.close()
        return Outcome(
            self._run.entry.run_id,
            gone=not survivors,
            survivors=survivors,
            elapsed_s=round(time.monotonic() - self._request.began, 3),
            escalated=self._request.escalated,
            note=self._run.look.problem,
        )

    def _note_descendants(self) -> None:
        self._seen.update(process.identities_below(self._run.entry.warden))

    def _end_without_word(self) -> list[str]:
        """End a run whose warden has not reported its end; return the survivors."""
        if self._run.has_working_warden:
            self._note_descendants()
            self._request.escalate(signal.SIGKILL, "did not end the run in time")
        left = _kill(self._seen)
        if not self._run.entry.alive and self._run.look.takes_writes():
            reaped = reap_run(self._run.entry)  # no other process is left to write the results
            if reaped is not None:
                return reaped.survivors
        elif not self._run.entry.alive:
            # the next run or `reap` finishes it when its directory can be written again
            return end_leftovers(self._run.entry.run_id, None).survivors
        return [
            f"pid {who.pid} ({process.command_name(who.pid)}), "
            f"state {process.state_letter(who.pid)}"
            for who in left
            if who.alive
        ]

    def _jobs_left(self) -> list[str]:
        """Name the run's cluster jobs that were not seen to end."""
        if not self._run.has_report:
            return self._cancel_jobs()  # the front hangs, or takes too long
        try:
            found = self._run.look.read(rundir.REPORT_FILE)
            return unseen(read_as(_JobsOfReport, found or {}).jobs)
        except ShapeError as error:
            # a run that has submitted nothing has no ledger
            return [f"perhaps a job: {error}"] if self._run.has_ledger else []

    def _cancel_jobs(self) -> list[str]:
        """Cancel jobs in the front's place; name those that were not seen to end."""
        from slurm.reconcile import cancel_outstanding
        from slurm.records.outstanding import all_outstanding

        left: list[str] = []
        for outstanding in [
            outstanding
            for outstanding in all_outstanding()
            if outstanding.ledger == self._run.entry.run_dir / rundir.LEDGER_FILE
        ]:
            if not self._run.look.takes_writes():
                left.append(f"cluster jobs of token {outstanding.token}, not seen to end")
                continue
            cancelled = cancel_outstanding(outstanding)
            self._request.escalated.append(
                "its front did not cancel its cluster jobs: cancelled them"
            )
            left += unseen([job._asdict() for job in cancelled.jobs])
            left += [cancelled.error] if cancelled.error and not left else []
        return left


@dataclass(frozen=True, slots=True)
class _Run:
    """A run as its registry entry, its files and its two processes show it from outside."""

    entry: Entry
    look: Looker

    @property
    def has_report(self) -> bool:
        return self.look.exists(rundir.REPORT_FILE)

    @property
    def has_ledger(self) -> bool:
        return self.look.exists(rundir.LEDGER_FILE)

    @property
    def ledger(self) -> Path:
        return self.entry.run_dir / rundir.LEDGER_FILE

    @property
    def ended(self) -> bool:
        """Whether all its processes have ended; results or report may be still to come."""
        return self.look.latest(_REQUESTED, _ENDED) == _ENDED

    @property
    def closed(self) -> bool:
        """Whether it is over for the front too: the warden may serve another run by now."""
        now = registry.find(self.entry.run_id)
        return now is None or now.over or self.has_report

    @property
    def has_working_warden(self) -> bool:
        """Whether the warden is alive and still at this run."""
        return self.entry.warden.alive and not self.closed and not self.ended

    @property
    def is_about_to_listen(self) -> bool:
        """Whether a warden has not begun yet, or a front still waits for cluster jobs."""
        happened = self.look.latest(_REQUESTED, _STARTED, _ENDED)
        if happened == _REQUESTED:
            return _is_at_work(self.entry.warden)
        outstanding = happened == _ENDED and self.has_ledger and not self.has_report
        return outstanding and _is_at_work(self.entry.front)

    @property
    def longest_s(self) -> float:
        """How long a healthy warden may take to end the run."""
        try:
            found = self.look.read(rundir.RUN_FILE)
            return read_as(_TimesOfRun, found or {}).times.longest_s
        except (ConfigError, ShapeError):
            return margin_s()

    def await_report(self) -> None:
        """Wait until the front, or the process that finishes in its place, has reported.

        Does not wait for a suspended front, nor where front and warden are dead.
        """
        patience_s = _JOBS_S if self.has_ledger else _REPORT_S
        _wait(
            lambda: self.has_report or not self.entry.alive or _is_suspended(self.entry.front),
            time.monotonic() + patience_s,
        )


@dataclass(slots=True)
class _Request:
    """The request to a run's warden: on the control socket, or by signal where that fails."""

    run: _Run
    level: Level
    line: socket.socket | None
    began: float
    escalated: list[str] = field(default_factory=list)

    @classmethod
    def connect(cls, run: _Run, level: Level) -> _Request:
        return cls(run, level, _connect(run), time.monotonic())

    def send(self, reason: str) -> None:
        """Request the stop; wake a suspended warden, which could not act on it."""
        if self.line is not None:
            messages.send(self.line, messages.RequestStop(int(self.level), reason))
        else:
            self._signal("does not answer")
        if _is_suspended(self.run.entry.warden):
            self.escalate(signal.SIGCONT, "was suspended")

    def await_end(self) -> messages.RunEnded | None:
        """Wait until the warden reports the end; None: it is dead, or silent for too long."""
        longest_s = self.run.longest_s
        deadline = self.began + longest_s
        if self.line is not None:
            with self.line as line:
                ended, deadline = self._listen(line, deadline, longest_s)
            if ended is not None:
                return ended
        _wait(lambda: not self.run.entry.warden.alive or self.run.closed, deadline)
        return None

    def _listen(
        self, line: socket.socket, deadline: float, longest_s: float
    ) -> tuple[messages.RunEnded | None, float]:
        """Receive the warden's messages until it reports the end; return the deadline too.

        A chunk may take long, so in a drain each answer of the warden moves the
        deadline.
        """
        draining = self.level is Level.DRAIN
        while not _over(deadline):
            left = max(_POLL_S, deadline - time.monotonic())
            line.settimeout(min(left, _ASK_EVERY_S) if draining else left)
            try:
                message, _ = messages.receive(line)
            except TimeoutError:
                messages.send(line, messages.AskStatus())
                continue
            if isinstance(message, messages.RunEnded):
                return message, deadline
            if message is None:
                self._signal("closed the connection")
                break
            if draining:
                deadline = time.monotonic() + longest_s
        return None, deadline

    def _signal(self, why: str) -> None:
        """Signal the warden, unless the run has ended: the warden may serve another one."""
        if self.run.entry.warden.alive and not self.run.ended:
            self.escalate(signal.SIGKILL if self.level is Level.KILL else signal.SIGTERM, why)

    def escalate(self, number: signal.Signals, why: str) -> None:
        """Signal the warden and note why."""
        warden = self.run.entry.warden
        if warden.send(number):
            self.escalated.append(f"its warden (pid {warden.pid}) {why}: sent it {number.name}")


def _connect(run: _Run) -> socket.socket | None:
    """Connect to a run's warden, or to its front that waits for cluster jobs; None: no answer.

    A run can be found as soon as it has a warden, which listens a moment later. Until then
    SIGTERM would be lost on a warden in a PID namespace of its own, and kill any other.
    """
    line = control_socket.connect(run.entry.run_id)  # before anything is read from a disk
    if line is not None:
        return line
    deadline = time.monotonic() + _LISTENS_S
    while True:
        expected = run.is_about_to_listen  # before connecting: a listener records that it is one
        line = control_socket.connect(run.entry.run_id)
        if line is not None or not expected or _over(deadline):
            return line
        time.sleep(_POLL_S)


def _kill(processes: Iterable[Identity]) -> list[Identity]:
    """SIGKILL processes until they are gone, for a bounded time; return those that are not."""
    left = list(processes)
    deadline = time.monotonic() + _KILLED_S
    while (left := [who for who in left if who.alive]) and not _over(deadline):
        for who in left:
            who.send(signal.SIGKILL)
        time.sleep(_POLL_S)
    return left


def _is_at_work(who: Identity) -> bool:
    return who.alive and not _is_suspended(who)


def _is_suspended(who: Identity) -> bool:
    return who.alive and process.state_letter(who.pid) in ("T", "t")


def _wait(condition: Callable[[], bool], deadline: float) -> None:
    """Wait until a condition holds or the deadline has passed."""
    while not condition() and not _over(deadline):
        time.sleep(_POLL_S)


def _over(deadline: float) -> bool:
    return time.monotonic() >= deadline
