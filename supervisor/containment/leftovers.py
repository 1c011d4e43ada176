"""Kills the processes that a killed warden left, for its front, the next run or ``reap``.

A PID namespace leaves none. A run's cgroup outlives its warden, with every daemon in
it. Processes that a subreaper's run left are found by its cookie, see
:mod:`supervisor.containment.cookie`.
"""

from __future__ import annotations

import contextlib
import select
import signal
import time
from pathlib import Path
from typing import NamedTuple

from supervisor.containment.cgroup import KILL_FILE, hierarchies, name_of
from supervisor.containment.cookie import Search
from supervisor.errors import ConfigError
from supervisor.records import facts
from supervisor.records.events import read_events
from supervisor.records.rundir import read_run_file
from supervisor.system.process import Identity, command_name, state_letter

_PATIENCE_S = 5.0
_LOOK_EVERY_S = 0.005
_STRIKE_FOR_S = 0.002
_STILL_AT_IT_S = 1.0


def clear_leftovers(run_dir: Path, patience_s: float = _PATIENCE_S) -> list[Identity]:
    """Kill every process in a dead run's cgroup, and remove the cgroup.

    Only a directory of a cgroup v2 hierarchy that has the run's id in its name is
    touched, whatever the run's files say.

    Parameters
    ----------
    run_dir : Path
        The run's directory. Its front and its warden must be dead.
    patience_s : float
        How long to wait for the killed processes to be gone, in s.

    Returns
    -------
    list of Identity
        The processes that were in it and were killed.

    Raises
    ------
    OSError
        If it could not be cleared: no permission, or a process in D state.
    """
    killed: list[Identity] = []
    for path in _cgroups(run_dir):
        killed += _clear(path, patience_s)
    return killed


class Ended(NamedTuple):
    """The result for a dead run's leftover processes, each named for people.

    Attributes
    ----------
    killed : list of str
        Those that were alive and are gone.
    survivors : list of str
        Those that are still alive, with their state, and what could not be cleared.
    """

    killed: list[str]
    survivors: list[str]


def end_leftovers(run_id: str, run_dir: Path | None, patience_s: float = _PATIENCE_S) -> Ended:
    """Kill all processes that a dead run has left: its cgroup, then those with its cookie.

    The search for the cookie is repeated, because processes may be forked meanwhile,
    until a look has proved that no process is left.

    Parameters
    ----------
    run_id : str
        The run. Its warden must be dead: it carries the cookie too.
    run_dir : Path or None
        Its directory, if that still is the run's.
    patience_s : float
        How long to keep trying, in s.
    """
    ended = Ended([], [])
    if run_dir is not None:
        try:
            ended.killed.extend(f"pid {who.pid}" for who in clear_leftovers(run_dir, patience_s))
        except (OSError, ConfigError) as error:
            ended.survivors.append(f"processes in the run's cgroup: {error}")
    began = found_at = time.monotonic()
    seen: dict[Identity, str] = {}
    search = Search(run_id)
    while True:
        for who in search.look():
            if who not in seen:  # one that cannot be killed is found at each look
                seen[who] = f"pid {who.pid} ({command_name(who.pid)})"
                found_at = time.monotonic()
            who.send(signal.SIGKILL)
        # a dying process loses its environment, and with it the cookie, before it is dead
        dying = any(who.alive for who in seen)
        now = time.monotonic()
        if (search.over and not dying) or now >= began + patience_s:
            break
        if dying:
            select.select([], [], [], _LOOK_EVERY_S)
        while time.monotonic() < now + _STRIKE_FOR_S:
            if (struck := search.strike()) is not None and struck not in seen:
                seen[struck] = f"pid {struck.pid} ({command_name(struck.pid)})"
                found_at = time.monotonic()
    for who, name in seen.items():
        if who.alive:
            ended.survivors.append(f"{name}, state {state_letter(who.pid)}")
        else:
            ended.killed.append(name)
    if not search.over and time.monotonic() - found_at < _STILL_AT_IT_S:
        ended.survivors.append("a process that forks and exits faster than it can be found")
    return ended


def _cgroups(run_dir: Path) -> list[Path]:
    """The run's cgroups that are still there; several, if it was resumed."""
    try:
        run_id = read_run_file(run_dir)["run_id"]
    except ConfigError:
        return []
    mounts = [Path(mount) for _, mount in hierarchies()]
    found = map(facts.known, read_events(run_dir))
    noted = {fact.path for fact in found if isinstance(fact, facts.CgroupMade)}
    return [
        path
        for path in sorted(noted)
        if path.name == name_of(run_id)
        and ".." not in path.parts
        and any(mount in path.parents for mount in mounts)
        and path.is_dir()
    ]


def _clear(path: Path, patience_s: float) -> list[Identity]:
    deadline = time.monotonic() + patience_s
    killed: dict[int, Identity] = {}
    with contextlib.suppress(FileNotFoundError):  # another process has just cleared it
        while True:
            pids = [int(pid) for pid in (path / "cgroup.procs").read_text().split()]
            killed |= {pid: who for pid in pids if (who := Identity.of(pid)) is not None}
            (path / KILL_FILE).write_text("1")
            try:
                path.rmdir()
                break
            except FileNotFoundError:
                raise
            except OSError:
                if time.monotonic() >= deadline:
                    raise
            select.select([], [], [], _LOOK_EVERY_S)
    return list(killed.values())
