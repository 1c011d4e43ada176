"""The status of a run, whether it runs, has ended or was killed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.ipc import control_socket, messages
from supervisor.records import registry, rundir
from supervisor.records.command import plan_of, run_record
from supervisor.records.home import original_of
from supervisor.records.plan import Plan
from supervisor.states import RunStatus
from supervisor.system import durable
from supervisor.system.shape import Count, Seconds


class _Asked(NamedTuple):
    """The part of ``run.json`` that is shown; of a command only the first and the last."""

    run_id: str
    combos_total: Count = 0
    command: list[str] | None = None


class _Reported(NamedTuple):
    """The part of ``report.json`` that is shown."""

    status: RunStatus
    combos_done: Count
    elapsed_s: Seconds


@dataclass(slots=True)
class Status:
    """The status of one run.

    Attributes
    ----------
    run_id : str
        Id of the run.
    run_dir : str
        Its directory.
    status : RunStatus
        As its warden or its report says; ``starting`` or ``dead`` where neither does.
    done, total : int
        Combinations with a row, and combinations of the sweep; 0 for a command.
    workers : list of int
        Pids of the workers, or of the command's processes.
    command : list of str or None
        The command that it supervises; None: it is a sweep.
    elapsed_s : float or None
        Running time of the command, in s, where it is known.
    host : str
        The other host on which it was begun; empty: this one.
    """

    run_id: str
    run_dir: str
    status: RunStatus = RunStatus.DEAD
    done: int = 0
    total: int = 0
    workers: list[int] = field(default_factory=list)
    command: list[str] | None = None
    elapsed_s: float | None = None
    host: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; ``command`` and ``elapsed_s`` only where there is a command."""
        plain = asdict(self)
        if self.command is None:
            del plain["command"], plain["elapsed_s"]
        return plain


def status_of(run_dir: Path) -> Status:
    """Ask a run's warden for its status; where it does not answer, read the run's files.

    Raises
    ------
    ConfigError
        If there is no run in the directory.
    """
    asked = run_record(run_dir, _Asked)
    status = Status(asked.run_id, str(run_dir), total=asked.combos_total, command=asked.command)
    # in a copy, the process that answers to the id is of the original
    is_copy = original_of(run_dir, rundir.read_run_file(run_dir)) != ""
    answer = None if is_copy else _ask(status.run_id)
    if answer is not None:
        _take_answer(status, answer)
    elif (run_dir / rundir.REPORT_FILE).exists():
        _take_report(status, durable.read_record(run_dir / rundir.REPORT_FILE, _Reported))
    else:
        _take_traces(status, run_dir, is_copy=is_copy)
    return status


def _take_answer(status: Status, answer: messages.Status) -> None:
    status.status = RunStatus(answer.status)
    status.done, status.total = answer.done, answer.total
    status.workers = answer.workers
    status.elapsed_s = answer.elapsed_s


def _take_report(status: Status, report: _Reported) -> None:
    status.status = report.status
    status.done = report.combos_done
    status.elapsed_s = report.elapsed_s


def _take_traces(status: Status, run_dir: Path, *, is_copy: bool) -> None:
    """Count what the journals hold, and look whether front or warden lives."""
    if status.command is None:
        from supervisor.lifecycle.gather import count_covered

        plan = plan_of(run_dir)
        status.done = count_covered(run_dir, plan) if isinstance(plan, Plan) else 0
    entry = None if is_copy else registry.find(status.run_id)
    if entry is not None and entry.alive:
        status.status = RunStatus.STARTING
    elif entry is not None and entry.elsewhere:
        status.status, status.host = RunStatus.ELSEWHERE, entry.elsewhere


def _ask(run_id: str) -> messages.Status | None:
    line = control_socket.connect(run_id)
    if line is None:
        return None
    with line:
        messages.send(line, messages.AskStatus())
        try:
            message, _ = messages.receive(line)
        except TimeoutError:
            return None
    return message if isinstance(message, messages.Status) else None
