"""Cleaning up after dead runs: processes, jobs, sockets and registry entries; finishing them.

A run is dead when its front and its warden are. A process that cleans up claims the run's
directory first, so that two of them, or one and a ``resume``, do not clash. The command
``reap`` cleans up in the foreground; a ``run`` that has seen a dead run starts
``python -P -m supervisor.lifecycle.reap`` in the background when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from supervisor.containment.leftovers import end_leftovers
from supervisor.errors import AllstopError, ConfigError, RunBusyError
from supervisor.ipc import control_socket
from supervisor.records import registry, rundir
from supervisor.records.claim import claim_directory
from supervisor.records.command import COMMAND_KEY
from supervisor.records.registry import Entry
from supervisor.system import gpu_files
from supervisor.system.environment import child_environment

_BRIEFLY_S = 5.0
_HELD_A_GPU = "its processes held a GPU after its warden's death"


@dataclass(slots=True)
class Reaped:
    """The outcome of cleaning up after one dead run.

    Attributes
    ----------
    run_id : str
        Its id.
    run_dir : str
        Its directory.
    processes_killed : list of str
        Leftover processes that were killed.
    survivors : list of str
        Processes and jobs that could not be ended, each with its state.
    jobs_ended : list of str
        Cluster jobs that were seen to end.
    status : str or None
        Status in its report; None: there is no directory to write a report to.
    combos_done : int or None
        Rows in its results; None: it supervised a command.
    notes : list of str
        Remarks.
    error : str
        Why it could not be finished; its registry entry stays, so that ``reap`` tries again.
    vram_freed_bytes : int or None
        VRAM that came back when its processes were killed; None: none were, or not measured.
    """

    run_id: str
    run_dir: str
    processes_killed: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    jobs_ended: list[str] = field(default_factory=list)
    status: str | None = None
    combos_done: int | None = None
    notes: list[str] = field(default_factory=list)
    error: str = ""
    vram_freed_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def reap() -> Iterator[Reaped]:
    """Clean up after dead runs, one by one, and yield the outcome of each.

    A run of another host is left alone: whether it is dead cannot be seen from here.
    """
    sockets = list(registry.sockets())  # before the entries: a run has one before it has a socket
    for entry in list(registry.entries()):
        reaped = reap_run(entry)
        if reaped is not None:
            yield reaped
    for path in registry.torn():  # its run had not begun: there is nothing else of it
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    yield from map(_remove_unreadable, registry.unreadable())
    yield from _lone_holders()
    yield from _lone_sockets(sockets)
    yield from _orphaned_jobs()
    yield from _unreadable_jobs()


def reap_named(name: str) -> Iterator[Reaped]:
    """Clean up after a run that the user says is dead, whatever host it was begun on.

    Raises
    ------
    RunNotFoundError
        If there is no such run.
    RunBusyError
        If it is alive.
    """
    entries = registry.named(name)
    run_dir = entries[0].run_dir if entries else registry.find_dir(name)
    for entry in entries:
        if entry.alive:
            raise RunBusyError(f"run {entry.run_id} is alive: allstop stop {entry.run_id} ends it")
        reaped = reap_run(entry, trusted=True)
        if reaped is not None:
            yield reaped
    # its front may have died after its report, or after its entry was removed
    yield from _orphaned_jobs(run_dir / rundir.LEDGER_FILE, trusted=True)


def send() -> None:
    """Start a process that cleans up in the background; return at once."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "supervisor.lifecycle.reap"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        start_new_session=True,
    )
    # a long-lived program would otherwise keep it as a zombie
    threading.Thread(target=process.wait, name="allstop-reap", daemon=True).start()


def reap_run(entry: Entry, *, trusted: bool = False) -> Reaped | None:
    """Clean up after one run; None if it may be alive, or another process does it.

    Parameters
    ----------
    entry : Entry
        The run.
    trusted : bool
        The user has named it: it is dead if it lived on another host, its jobs are cancelled.
    """
    if entry.alive or not (entry.dead or trusted):
        return None
    try:
        if entry.run_dir.is_dir():
            rundir.check_own(entry.run_dir)
    except (ConfigError, OSError) as error:
        ended = end_leftovers(entry.run_id, None)
        return Reaped(entry.run_id, str(entry.run_dir), *ended, error=str(error))
    try:
        if not entry.intact:
            return _strike_off(entry)
        with claim_directory(entry.run_dir):
            now = registry.find(entry.run_id)
            if now is None or now.alive or not (now.dead or trusted):
                return None  # finished or resumed meanwhile
            return _clear(entry, trusted=trusted)
    except RunBusyError:
        return None
    except (AllstopError, OSError) as error:  # the other runs are still to be cleaned up
        return Reaped(entry.run_id, str(entry.run_dir), error=str(error))


def _strike_off(entry: Entry) -> Reaped:
    reaped = Reaped(entry.run_id, str(entry.run_dir), *end_leftovers(entry.run_id, None))
    there = os.path.lexists(entry.run_dir / rundir.RUN_FILE)
    why = "does not hold this run any more" if there else "is gone"
    reaped.notes.append(entry.damage or f"its directory {why}: registry entry removed")
    _forget(entry.run_id)
    return reaped


def _remove_unreadable(path: Path) -> Reaped:
    """Remove an entry that says nothing any more, unless its run answers."""
    reaped = Reaped(path.stem, "")
    try:
        if control_socket.is_answering(path.stem):
            reaped.notes.append(f"{path} could not be read, but its run answers: left")
        else:
            path.unlink(missing_ok=True)
            reaped.notes.append(f"{path} could not be read: removed")
    except (ConfigError, OSError) as error:
        reaped.error = f"{path} can be neither read nor removed: {error}"
    return reaped


def _clear(entry: Entry, *, trusted: bool) -> Reaped:
    from supervisor.lifecycle.finish import report_of_dead_run
    from supervisor.lifecycle.gpu import dead_run

    vram_before = dead_run.used_by(entry.run_dir)
    reaped = Reaped(entry.run_id, str(entry.run_dir), *end_leftovers(entry.run_id, entry.run_dir))
    try:
        report = report_of_dead_run(entry.run_dir, trusted=trusted)
        reaped.status = str(report.status)
        reaped.notes += report.errors
        if not entry.intact:
            reaped.notes.append(f"it could not begin, and left nothing: {report.reason}")
        elif COMMAND_KEY not in rundir.read_run_file(entry.run_dir):
            reaped.combos_done = report.combos_done
    except (AllstopError, OSError) as error:
        reaped.error = " ".join(str(error).split()) or type(error).__name__
    if reaped.processes_killed and vram_before:
        # after the run was finished, which waits until its VRAM is back
        vram_after = dead_run.used_by(entry.run_dir)
        freed = (held - vram_after.get(uuid, held) for uuid, held in vram_before.items())
        reaped.vram_freed_bytes = sum(max(0, change) for change in freed)
    if not (reaped.error or reaped.survivors):
        _forget(entry.run_id)
    return reaped


def _forget(run_id: str) -> None:
    registry.remove(run_id)
    registry.socket_path(run_id).unlink(missing_ok=True)


def _orphaned_jobs(ledger: Path | None = None, *, trusted: bool = False) -> Iterator[Reaped]:
    """Cancel cluster jobs whose owner is dead; those of one ledger, if one is given."""
    from slurm.records.outstanding import orphaned

    silent: set[str] = set()
    for outstanding in orphaned(ledger, trusted=trusted):
        from slurm.reconcile import cancel_outstanding

        where = json.dumps([outstanding.address, outstanding.variables])
        # the same cluster did not answer for the previous one: do not wait a minute again
        cancelled = cancel_outstanding(
            outstanding, patience_s=_BRIEFLY_S if where in silent else None
        )
        if cancelled.error:
            silent.add(where)
        reaped = Reaped(
            outstanding.token, str(outstanding.ledger.parent), error=cancelled.error or ""
        )
        for job in cancelled.jobs:
            name = f"job {job.id or '(id unknown)'} on {outstanding.address}, {job.state}"
            (reaped.jobs_ended if job.verified else reaped.survivors).append(name)
        yield reaped


def _unreadable_jobs() -> Iterator[Reaped]:
    """Name the records of cluster jobs that say nothing any more.

    Only the token is known, by the file's name, and not where its jobs are: they are left to
    the user.
    """
    from slurm.records.outstanding import unreadable

    for path, why in unreadable():
        mend = f"end jobs with the wckey {path.stem}, if there are any, and remove the file"
        yield Reaped(path.stem, "", error=f"{why}: {mend}")


def _lone_holders() -> Iterator[Reaped]:
    """End processes that hold a GPU for a run that is dead, and in no registry any more.

    Only those that carry the run's cookie, where no warden does.
    """
    for run_id in gpu_files.ownerless_runs():
        if registry.find(run_id) is None:
            yield Reaped(run_id, "", *end_leftovers(run_id, None), notes=[_HELD_A_GPU])


def _lone_sockets(sockets: list[Path]) -> Iterator[Reaped]:
    """Remove sockets of runs without a registry entry that no process listens on."""
    known = {entry.run_id for entry in registry.entries()}
    for path in sockets:
        if path.stem in known or not path.exists():
            continue
        with contextlib.suppress(ConfigError):
            line = control_socket.connect(path.stem)
            if line is not None:
                line.close()
                continue
            path.unlink(missing_ok=True)
            yield Reaped(path.stem, "", notes=[f"its control socket {path} was left over: removed"])


def main() -> None:
    """Entry point of the background process; the runs' reports have the outcome."""
    for _ in reap():
        pass


if __name__ == "__main__":
    main()
