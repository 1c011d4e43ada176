"""Containment by a cgroup per run: ``cgroup.kill`` kills all of it in one step.

Workers enter the cgroup right after the fork, so every process they start is born in
it and cannot leave. The warden stays outside. The cgroup adds two things to the
subreaper: a kill that no fork can outrun, and a name by which the processes are still
found after front and warden were both killed, see :mod:`supervisor.containment.leftovers`.

It needs Linux 5.14 and a cgroup v2 hierarchy in which the warden's own cgroup is
writable: as root, in a systemd user session, or where one was delegated.

References
----------
Kernel documentation, admin-guide/cgroup-v2, "Core Interface Files" and
"Delegation"; cgroups(7); proc(5), ``/proc/[pid]/mountinfo``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from pathlib import Path

from supervisor.containment import Note
from supervisor.containment.subreaper import Subreaper
from supervisor.containment.unavailable import UnavailableError

KILL_FILE = "cgroup.kill"
_PROCS_FILE = "cgroup.procs"
_EMPTY_S = 0.5
_LOOK_EVERY_S = 0.001
_FIX = (
    "run as root or in a systemd user session (systemd-run --user --scope), on Linux 5.14 or newer"
)


def name_of(run_id: str) -> str:
    """Name of a run's cgroup."""
    return f"allstop-{run_id}"


class Cgroup(Subreaper):
    """For machines that forbid namespaces but have a writable cgroup."""

    name = "cgroup"

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path: Path | None = None
        self._procs = -1

    def begin(self, run_id: str, note: Note) -> None:
        """Make the run's cgroup; it is recorded first, so that it is found whatever dies."""
        super().begin(run_id, note)
        path = self._home / name_of(run_id)
        note("cgroup_made", path=str(path))
        path.mkdir(0o700, exist_ok=True)
        self._path = path
        self._procs = os.open(path / _PROCS_FILE, os.O_WRONLY | os.O_CLOEXEC)

    def prepare_worker(self, warden_pid: int) -> None:
        """Enter the cgroup, before this process has any descendant."""
        super().prepare_worker(warden_pid)
        os.write(self._procs, b"0")  # 0: the process that writes

    def signal_all(self, *numbers: int) -> int:
        """Signal every descendant; SIGKILL also goes to the whole cgroup at once.

        The descendants are signalled one by one as well, because a worker that was just
        forked may not have entered the cgroup yet.
        """
        reached = super().signal_all(*numbers)
        if signal.SIGKILL in numbers and self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                (self._path / KILL_FILE).write_text("1")
        return reached

    def end(self) -> None:
        """Remove the cgroup; one with survivors in it stays, and is cleared later.

        The kernel may count a process in it for a moment after it was reaped.
        """
        if self._procs >= 0:
            os.close(self._procs)
            self._procs = -1
        if self._path is not None:
            _remove(self._path)
            self._path = None


def _remove(path: Path) -> None:
    deadline = time.monotonic() + _EMPTY_S
    while True:
        try:
            path.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                return
            select.select([], [], [], _LOOK_EVERY_S)
        else:
            return


def available() -> Cgroup:
    """Check that it works by making a cgroup below this process's own, and removing it.

    Raises
    ------
    UnavailableError
        If it does not; says what is missing.
    """
    try:
        home = own_cgroup()
        trial = home / f"allstop-trial-{os.getpid()}"
        trial.mkdir(0o700)
        try:
            if not (trial / KILL_FILE).exists():
                raise OSError(0, "cgroup.kill is missing (it needs Linux 5.14)")
            if not os.access(home / _PROCS_FILE, os.W_OK):
                raise OSError(0, f"{home / _PROCS_FILE} is not writable")
        finally:
            trial.rmdir()
    except OSError as error:
        where = f"{Path(error.filename).parent}: " if error.filename else ""
        raise UnavailableError(f"no writable cgroup: {where}{error.strerror}", _FIX) from None
    return Cgroup(home)


def own_cgroup() -> Path:
    """Directory of the cgroup that this process is in.

    Raises
    ------
    OSError
        If there is no cgroup v2, or none is mounted that holds this process.
    """
    for root, mount in hierarchies():
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            below = line.removeprefix("0::")
            if below == line:
                continue
            inside = os.path.relpath(below, root)
            if not inside.startswith(".."):
                return Path(mount) / inside
    raise OSError(0, "no cgroup v2 is mounted that holds this process")


def hierarchies() -> list[tuple[str, str]]:
    """Root and mount point of each cgroup v2 mount."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            root, mount = left.split()[3:5]
            found.append((_unescaped(root), _unescaped(mount)))
    return found


def _unescaped(text: str) -> str:
    """Decode a path of mountinfo, in which blanks and backslashes are written in octal."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text
