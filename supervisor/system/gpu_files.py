"""The driver's device files, and the processes that have them open.

VRAM belongs to open descriptors: the driver frees it at the last close. A forked child holds
copies of its parent's descriptors, so it keeps the parent's VRAM after the parent's death, while
NVML shows the dead parent's pid or none. Descriptors show who really holds it.

References
----------
proc(5), ``/proc/[pid]/fd``; open-gpu-kernel-modules, ``nvidia_close`` in ``nv.c``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from supervisor.system import host
from supervisor.system.environment import ROOM, RUN_ID
from supervisor.system.process import Identity, command_name, state_letter

DIRECTORY_VARIABLE = "ALLSTOP_GPU_FILES"
"""Environment variable that names another directory than ``/dev``; the tests set it."""

WARDEN_TITLE = "allstop-warden"
"""What ``ps`` shows for a warden."""

_CONTROL, _CUDA, _WINDOWS = "nvidiactl", "nvidia-uvm", "dxg"
_DEVICE = re.compile(r"nvidia(\d+)")


class Holder(NamedTuple):
    """A process that has device files of the driver open.

    Attributes
    ----------
    who : Identity
        The process: pid and start time.
    name : str
        Its program's.
    minors : frozenset of int
        N of each ``/dev/nvidiaN`` that it has open.
    cuda : bool
        It has ``/dev/nvidia-uvm`` open, which CUDA does and a mere monitor does not.
    run_id : str
        The run whose cookie it carries; empty: none, or its environment may not be read.
    orphan : bool
        It is a child of pid 1 and leads no session: its parent has probably died.
    """

    who: Identity
    name: str
    minors: frozenset[int]
    cuda: bool
    run_id: str
    orphan: bool

    def may_hold(self, minor: int | None) -> bool:
        """Whether it may have memory on the device of this minor number; None: any device."""
        return self.cuda and (minor is None or not self.minors or minor in self.minors)

    def described(self) -> str:
        """The process as messages name it."""
        return f"pid {self.who.pid} ({self.name})"


class Look(NamedTuple):
    """What one look at all processes has shown.

    Attributes
    ----------
    holders : list of Holder
        The processes that have device files open.
    hidden : int
        Processes whose descriptors this user may not see.
    """

    holders: list[Holder]
    hidden: int


def directory() -> Path:
    """Return where the device files are: ``/dev``, unless a test says otherwise."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or "/dev")


def present() -> bool:
    """Whether this machine has an NVIDIA driver's device files; microseconds."""
    there = directory()
    return (there / _CONTROL).exists() or (there / _WINDOWS).exists()


def look_for_holders(pids: list[int] | None = None) -> Look:
    """Look for processes that have device files open.

    Parameters
    ----------
    pids : list of int, optional
        Where to look; every process that is listed in ``/proc``.
    """
    holders, hidden = [], 0
    for pid in _listed() if pids is None else pids:
        who = Identity.of(pid)
        if who is None:
            continue
        try:
            names = frozenset(_open_files(pid))
        except PermissionError:
            hidden += 1
            continue
        except OSError:
            continue  # gone
        # alive still: the pid was not reused while its descriptors were read
        if names and who.alive:
            holders.append(_holder(who, names))
    return Look(holders, hidden)


def ownerless_runs() -> list[str]:
    """Return the ids of this user's runs that hold a GPU although their wardens are dead.

    A warden carries its run's cookie and its own name, as no process does that it has forked.
    """
    if not present():
        return []
    held = {
        one.run_id
        for one in look_for_holders().holders
        if one.run_id and one.cuda and _ours(one.who.pid)
    }
    if not held:
        return []
    for pid in _listed():
        who = Identity.of(pid) if command_name(pid) == WARDEN_TITLE else None
        if who is not None:
            held.discard(run_id_of(who))
    return sorted(held)


def run_id_of(who: Identity) -> str:
    """Return the id of the run that a process's environment names; empty: none, or not known."""
    try:
        environment = Path(f"/proc/{who.pid}/environ").read_bytes()
    except OSError:
        return ""
    if Identity.of(who.pid) != who:
        return ""
    for entry in environment.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == RUN_ID.encode():
            shown = value.decode(errors="replace")
            return "" if shown == ROOM else shown
    return ""


def sees_all_processes() -> bool:
    """Whether this PID namespace is the machine's: in any other, NVML lists its own alone."""
    return host.namespace_of(os.getpid()) == host.INITIAL_NAMESPACE


def _listed() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _open_files(pid: int) -> Iterator[str]:
    """Yield the names of the driver's files that a process has open, such as ``nvidia0``."""
    prefix = f"{directory()}/"
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            target = os.readlink(entry.path).removesuffix(" (deleted)")  # noqa: PTH115
            name = target.removeprefix(prefix)
            if name != target and (name.startswith("nvidia") or name == _WINDOWS):
                yield name


def _holder(who: Identity, names: frozenset[str]) -> Holder:
    minors = frozenset(int(found[1]) for name in names if (found := _DEVICE.fullmatch(name)))
    return Holder(
        who,
        command_name(who.pid),
        minors,
        _CUDA in names or _WINDOWS in names,
        run_id_of(who),
        _is_orphan(who.pid),
    )


def _ours(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}").stat().st_uid == os.getuid()
    except OSError:
        return False


def _is_orphan(pid: int) -> bool:
    """Whether a process is a child of pid 1 that a service manager would not have started so."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    _, parent, _, session = stat.rpartition(b")")[2].split()[:4]
    return int(parent) == 1 and int(session) != pid


def state_of(holder: Holder) -> str:
    """Return the state letter of a holder that is alive; empty: it is gone."""
    return (state_letter(holder.who.pid) or "") if holder.who.alive else ""
