"""``stop``: end a run from anywhere, and return when that was verified."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.errors import ConfigError
from supervisor.ipc import control_socket, messages
from supervisor.ipc.stopflag import Level
from supervisor.lifecycle.reap import reap_run
from supervisor.records import registry, rundir
from supervisor.records.events import latest
from supervisor.records.plan import StopTimes, margin_s
from supervisor.records.registry import Entry
from supervisor.records.report import unseen
from supervisor.states import ExitCode
from supervisor.system import durable, process
from supervisor.system.process import Identity

_POLL_S = 0.01
_LISTENS_S = 10.0
_KILLED_S = 5.0
_REPORT_S = 10.0  # for a front that is well, on a busy machine
_JOBS_S = 75.0  # as long as a front sees cluster jobs out, and a little
_ASK_EVERY_S = 1.0

_REQUESTED, _ENDED = "front.run_requested", "warden.run_ended"  # an attempt, from end to end


def stop(
    run: Annotated[
        str | None,
        typer.Argument(help="A run's id or directory; may be left out if only one runs."),
    ] = None,
    stop_all: Annotated[bool, typer.Option("--all", help="Stop every running run.")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Finish the chunks in hand.")] = False,
    now: Annotated[bool, typer.Option("--now", help="SIGKILL at once.")] = False,
    purge_cache: Annotated[
        bool, typer.Option("--purge-cache", help="Delete kept bars and indicators too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was seen as JSON.")] = False,
) -> int:
    """Stop a run. Exit code 0: all gone; 3: not."""
    if drain and now:
        raise ConfigError("--drain and --now contradict each other: give one")
    level = Level.DRAIN if drain else Level.KILL if now else Level.STOP
    if stop_all:
        if run is not None:
            raise ConfigError("--all and a run's name contradict each other: give one")
        entries = [entry for entry in registry.entries() if entry.alive]
    elif purge_cache and run is None and not any(entry.alive for entry in registry.entries()):
        entries = []  # there is nothing to stop: only caches to purge
    else:
        entries = [registry.find_running(run)]
    stops = [_Stop.begin(entry, level) for entry in entries]
    outcomes = [begun.see_gone(patient=drain) for begun in stops]
    purged = _purge_caches() if purge_cache else None
    if as_json:
        said: dict[str, Any] = {"stopped": [outcome.to_json() for outcome in outcomes]}
        print(json.dumps(said if purged is None else said | {"purged_bytes": purged}))
    else:
        _say(outcomes)
        if purged is not None:
            print(f"caches purged: {purged / 2**20:,.1f} MB freed")
    return ExitCode.DONE if all(outcome.gone for outcome in outcomes) else ExitCode.INCOMPLETE


def _purge_caches() -> int:
    """Delete what is kept on disk between runs; return the bytes freed."""
    from supervisor.market import cache
    from workers.indicators import disk

    return cache.clear() + disk.clear(disk.default_directory())


@dataclass(slots=True)
class Outcome:
    """What was seen of one run's end.

    Attributes
    ----------
    run_id : str
        Its id.
    gone : bool
        Whether no process of the run is left but those that were to outlive it.
    survivors : list of str
        What is left, each named with its state.
    elapsed_s : float
        Since it was asked to stop.
    escalated : list of str
        What had to be done because the warden did not do its part.
    """

    run_id: str
    gone: bool
    survivors: list[str]
    elapsed_s: float
    escalated: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _say(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        for line in outcome.escalated:
            print(f"{outcome.run_id}: {line}")
        gone = f"gone after {outcome.elapsed_s:.2f} s" if outcome.gone else "NOT gone"
        print(f"{outcome.run_id}: {gone}")
        for survivor in outcome.survivors:
            print(f"  survivor: {survivor}")
    if not outcomes:
        print("no run is running")


@dataclass(slots=True)
class _Stop:
    """One run that was asked to end: all are asked before any is waited for.

    The warden ends the run. If it was suspended, it is woken; if it does not
    answer in time, it is killed, and containment takes its workers along.
    """

    entry: Entry
    level: Level
    line: socket.socket | None
    began: float
    below: set[Identity] = field(default_factory=set)
    """Descendants of the warden that were seen: whoever else says so, they must be gone."""
    escalated: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, entry: Entry, level: Level) -> _Stop:
        stop = cls(entry, level, _call(entry), time.monotonic())
        stop._look()
        warden = entry.warden
        if stop.line is not None:
            messages.send(stop.line, messages.RequestStop(int(level), "asked by the stop command"))
        else:
            stop._ask_otherwise("cannot be called")
        if _suspended(warden):
            stop._escalate(signal.SIGCONT, "its warden (pid {pid}) was suspended: sent it {name}")
        return stop

    def see_gone(self, *, patient: bool) -> Outcome:
        """Wait for the warden's word, then for the report.

        ``patient``: a chunk in hand takes long, so the time counts from the warden's last
        sign of life.
        """
        ended = self._hear_end(patient=patient)
        if ended is not None:
            survivors = list(ended.survivors)
        else:
            if self.entry.warden.alive and not self._over_without_us() and not self._ended():
                self._look()
                self._escalate(
                    signal.SIGKILL,
                    "its warden (pid {pid}) did not end the run in time: sent it {name}",
                )
            survivors = self._see_dead()
        self._await_report()
        survivors += [ghost for ghost in self._ghosts() if ghost not in survivors]
        return Outcome(
            self.entry.run_id,
            gone=not survivors,
            survivors=survivors,
            elapsed_s=round(time.monotonic() - self.began, 3),
            escalated=self.escalated,
        )

    def _longest_s(self) -> float:
        """How long a warden may take that is well."""
        try:
            times = durable.read_json(self.entry.run_dir / rundir.RUN_FILE)["times"]
            return StopTimes(**times).longest_s
        except (ConfigError, KeyError, TypeError):
            return margin_s()

    def _hear_end(self, *, patient: bool) -> messages.RunEnded | None:
        """Hear that the run has ended; None: the warden is dead, or silent for too long."""
        longest_s = self._longest_s()
        deadline = self.began + longest_s
        if self.line is not None:
            with self.line as line:
                while not _over(deadline):
                    left = max(_POLL_S, deadline - time.monotonic())
                    line.settimeout(min(left, _ASK_EVERY_S) if patient else left)
                    try:
                        message, _ = messages.receive(line)
                    except TimeoutError:
                        messages.send(line, messages.AskStatus())
                        continue
                    if isinstance(message, messages.RunEnded):
                        return message
                    if message is None:
                        self._ask_otherwise("hung up")
                        break
                    if patient:
                        deadline = time.monotonic() + longest_s
        while not _over(deadline) and self.entry.warden.alive and not self._over_without_us():
            time.sleep(_POLL_S)
        return None

    def _ask_otherwise(self, why: str) -> None:
        """Signal the warden, unless the run is over: it may serve another one by now."""
        if self.entry.warden.alive and not self._ended():
            number = signal.SIGKILL if self.level is Level.KILL else signal.SIGTERM
            self._escalate(number, f"its warden (pid {{pid}}) {why}: sent it {{name}}")

    def _ended(self) -> bool:
        """Whether the run itself is over, and only its results or report are still to come."""
        return latest(self.entry.run_dir, _REQUESTED, _ENDED) == _ENDED

    def _over_without_us(self) -> bool:
        """Whether the run has ended though nobody told us: its warden may serve another one."""
        now = registry.find(self.entry.run_id)
        return self._report.exists() or now is None or now.over

    def _look(self) -> None:
        self.below.update(process.identities_below(self.entry.warden))

    def _see_dead(self) -> list[str]:
        """See the warden's descendants gone with it; return what is left of them."""
        left = list(self.below)
        deadline = time.monotonic() + _KILLED_S
        while (left := [who for who in left if who.alive]) and not _over(deadline):
            for who in left:
                who.send(signal.SIGKILL)
            time.sleep(_POLL_S)
        if not self.entry.alive:
            reaped = reap_run(self.entry)  # nobody else is left to write what it has finished
            left = [who for who in left if who.alive]
            if reaped is not None:
                return reaped.survivors
        return [
            f"pid {who.pid} ({process.command_name(who.pid)}), "
            f"state {process.state_letter(who.pid)}"
            for who in left
        ]

    def _await_report(self) -> None:
        """Wait for what the front, or whoever finishes in its place, still has to write.

        Not for a front that hangs, nor where both are dead.
        """
        jobs = (self.entry.run_dir / rundir.LEDGER_FILE).exists()
        deadline = time.monotonic() + (_JOBS_S if jobs else _REPORT_S)
        while not self._report.exists() and not _over(deadline):
            if not self.entry.alive or _suspended(self.entry.front):
                return
            time.sleep(_POLL_S)

    def _ghosts(self) -> list[str]:
        """Cluster jobs of the run's that nobody has seen gone."""
        if not self._report.exists():
            return self._cancel_jobs()  # its front hangs, or takes too long
        with contextlib.suppress(ConfigError, KeyError, TypeError):
            return unseen(durable.read_json(self._report)["jobs"])
        return []

    def _cancel_jobs(self) -> list[str]:
        """Do what the front does not; return what could not be seen gone."""
        from slurm.reconcile import cancel_outstanding
        from slurm.records.outstanding import all_outstanding

        left: list[str] = []
        ledger = self.entry.run_dir / rundir.LEDGER_FILE
        for debt in [debt for debt in all_outstanding() if debt.ledger == ledger]:
            cancelled = cancel_outstanding(debt)
            self.escalated.append("its front did not cancel its cluster jobs: did that")
            left += unseen([job._asdict() for job in cancelled.jobs])
            left += [cancelled.error] if cancelled.error and not left else []
        return left

    @property
    def _report(self) -> Path:
        return self.entry.run_dir / rundir.REPORT_FILE

    def _escalate(self, number: signal.Signals, why: str) -> None:
        if self.entry.warden.send(number):
            self.escalated.append(why.format(pid=self.entry.warden.pid, name=number.name))


def _call(entry: Entry) -> socket.socket | None:
    """Call a run's warden, or its front that sees cluster jobs out; None: nobody answers.

    A run is found as soon as it has a warden, which listens a moment later. Until then SIGTERM
    would be lost on it, in a PID namespace of its own, and kill it anywhere else.
    """
    deadline = time.monotonic() + _LISTENS_S
    while True:
        awaited = _is_about_to_listen(entry)  # asked first: who listens says so afterwards
        line = control_socket.connect(entry.run_id)
        if line is not None or not awaited or _over(deadline):
            return line
        time.sleep(_POLL_S)


def _is_about_to_listen(entry: Entry) -> bool:
    """Whether a warden has not begun yet, or a front has cluster jobs still to see out."""
    happened = latest(entry.run_dir, _REQUESTED, "warden.run_started", _ENDED)
    if happened == _REQUESTED:
        return _is_at_work(entry.warden)
    jobs, report = (entry.run_dir / name for name in (rundir.LEDGER_FILE, rundir.REPORT_FILE))
    awaited = happened == _ENDED and jobs.exists() and not report.exists()
    return awaited and _is_at_work(entry.front)


def _is_at_work(who: Identity) -> bool:
    return who.alive and not _suspended(who)


def _suspended(who: Identity) -> bool:
    return who.alive and process.state_letter(who.pid) in ("T", "t")


def _over(deadline: float) -> bool:
    return time.monotonic() >= deadline
