"""Finding the processes a test has started, however they tried to get away."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from supervisor.containment.cookie import Search
from supervisor.system.process import Identity, command_name, descendants, own_pid, state_letter
from tests.support.waiting import wait_for

COOKIE = "ALLSTOP_TEST"
"""Environment variable that every process started by a test inherits, daemons too."""


def with_cookie(token: str) -> list[Identity]:
    """Processes that carry a test's token, this one left out; zombies have no environment."""
    wanted = f"{COOKIE}={token}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                identity = Identity.of(int(entry.name))
                if identity is not None:
                    found.append(identity)
    return found


def carriers(run_id: str) -> list[Identity]:
    """Living processes that carry a run's id, once no process is in doubt (amid an exec)."""
    search = Search(run_id)
    return wait_for(
        lambda: (found := list(search.look())) is not None and search.certain and [found],
        "a look that leaves no process in doubt",
    )[0]


def is_helper(pid: int) -> bool:
    """Whether a process only writes for a run's front and warden: its scribe, or its keeper."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"records/scribe.py" in line or b"supervisor.lifecycle.keep\0" in line


def main_children(pid: int) -> list[int]:
    """Children of a process, those left out that only write for it."""
    from supervisor.system.process import children

    return [child for child in children(pid) if not is_helper(child)]


def exists(identity: Identity) -> bool:
    """Whether a process is in the table at all, be it as a zombie.

    A zombie that init has inherited is init's to reap, which may take it a second.
    """
    if Identity.of(identity.pid) != identity:
        return False
    if state_letter(identity.pid) != "Z":
        return True
    try:
        stat = Path(f"/proc/{identity.pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[1] != "1"


def present(identities: Iterable[Identity]) -> list[str]:
    """Describe those of some processes that still exist, zombies included."""
    return [
        f"pid {i.pid} ({command_name(i.pid)}), state {state_letter(i.pid)}"
        for i in identities
        if exists(i)
    ]


def kill(identities: Iterable[Identity]) -> None:
    """Clear away what a failed test has left; each is one that the test started."""
    for identity in identities:
        identity.send(signal.SIGKILL)


def outside(warden: int, inner: Iterable[int]) -> list[int]:
    """Pids, as this process knows them, of a warden's descendants that know their own as these.

    In a PID namespace the two differ; where there is none they are the same.
    """
    known = {own_pid(pid): pid for pid in descendants(warden)}
    return [known[pid] for pid in inner if pid in known]


def children_of_this() -> set[Identity]:
    """Children of the test process, zombies included."""
    from supervisor.system.process import children

    return {i for i in map(Identity.of, children(os.getpid())) if i is not None}
