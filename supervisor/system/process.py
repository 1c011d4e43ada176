"""Processes by identity: pid plus start time to name one, a pidfd to signal one.

A pid alone names the process that has it now. Here a signal goes through a pidfd that
was opened first and checked *then*: an open pidfd refers to one process for ever, so the
pid cannot be reused between the check and the signal.

References
----------
pidfd_open(2); proc(5), ``/proc/[pid]/stat`` field 22 and
``/proc/[pid]/task/[tid]/children``.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from supervisor.system.host import Host, namespace_of, this_host
from supervisor.system.shape import Pid

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PF_KTHREAD = 0x00200000
_READ_BYTES = 2**16

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_subreaper(*, wanted: bool = True) -> None:
    """Become the parent of orphaned descendants, instead of init; or no longer, if not ``wanted``.

    References
    ----------
    prctl(2), ``PR_SET_CHILD_SUBREAPER``.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, int(wanted))


def die_with_parent(parent: int) -> None:
    """Be SIGKILLed by the kernel when the *thread* that forked this process ends.

    Parameters
    ----------
    parent : int
        The parent's pid, taken before the fork. If it died before the request was armed,
        this process has a new parent already, and exits.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_title(name: str) -> None:
    """Set the name that ``ps -o comm`` and ``top`` show, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _libc.prctl(_PR_SET_NAME, buffer, 0, 0, 0)


def forbid_core_dump() -> None:
    """Leave no core file when a signal ends this process, whatever the system's pattern is."""
    _prctl(_PR_SET_DUMPABLE, 0)


class Identity(NamedTuple):
    """A process that cannot be mistaken for another one with the same pid.

    Attributes
    ----------
    pid : int
        Its pid.
    start_time : int
        In clock ticks since boot.
    boot, node, machine, namespace : str
        Where it lives, see :class:`supervisor.system.host.Host`: after a reboot, on another
        host and in another PID namespace, pid and start time may recur. Empty: not known, and
        not compared.
    """

    pid: Pid
    start_time: int
    boot: str = ""
    node: str = ""
    machine: str = ""
    namespace: str = ""

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the identity of the process that has this pid now, or None."""
        fields = _stat(pid)
        return None if fields is None else cls.here(pid, int(fields[19]))

    @classmethod
    def here(cls, pid: int, start_time: int) -> Identity:
        """Name a process of this host and PID namespace."""
        at = this_host()
        return cls(pid, start_time, at.boot, at.node, at.machine, at.namespace)

    @property
    def host(self) -> Host:
        """Where it lives."""
        return Host(self.node, self.machine, self.boot, self.namespace)

    @property
    def alive(self) -> bool:
        """Whether this very process is alive, as far as can be seen here; a zombie is not."""
        ours = this_host()
        if ours.sees_pids_of(self.host):
            fields = _stat(self.pid)
            return _is_it(fields, self.start_time)
        return ours.is_same_boot(self.host) and self._is_visible_inside()

    @property
    def elsewhere(self) -> bool:
        """Whether it cannot be judged here: another host's, or of a namespace out of sight."""
        ours, theirs = this_host(), self.host
        if not ours.is_same_host(theirs):
            return True
        if not ours.is_same_boot(theirs):
            # two hosts may share a name: only a namespace that every host has, or a known
            # machine, shows that this one was booted again
            same = not theirs.namespace or theirs.namespace == ours.namespace
            return not (same or (theirs.machine and theirs.machine == ours.machine))
        unseen = not (ours.sees_pids_of(theirs) or ours.sees_all)
        return unseen and not self._is_visible_inside()

    @property
    def dead(self) -> bool:
        """Whether it has ended for certain."""
        return not (self.alive or self.elsewhere)

    def send(self, number: int) -> bool:
        """Signal this very process; False when it is gone, or its pid is another namespace's."""
        if not this_host().sees_pids_of(self.host):
            return False
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def _is_visible_inside(self) -> bool:
        """Whether it lives in a PID namespace below ours: its processes have pids here too."""
        return any(
            namespace_of(pid) == self.namespace
            and _innermost_pid(pid) == self.pid
            and _is_it(_stat(pid), self.start_time)
            for pid in _listed()
        )


def _is_it(fields: list[str] | None, start_time: int) -> bool:
    return fields is not None and int(fields[19]) == start_time and fields[0] not in "ZX"


def _innermost_pid(pid: int) -> int:
    """Return the pid that a process has in its own PID namespace; 0 when it is gone."""
    try:
        text = read(f"/proc/{pid}/status").decode(errors="replace")
    except OSError:
        return 0
    pids = text.partition("\nNSpid:")[2].partition("\n")[0].split()
    return int(pids[-1]) if pids else 0


def _listed() -> Iterator[int]:
    """Yield the pid of every process that ``/proc`` lists."""
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def pid_of(pidfd: int, proc: int | None = None) -> int:
    """Return the pid of the process that a pidfd refers to; 0 when it is gone and reaped.

    Parameters
    ----------
    pidfd : int
        The process.
    proc : int, optional
        Descriptor of the ``/proc`` mount in whose PID namespace the pid is wanted, if not
        that of ``/proc`` itself.
    """
    home = "/proc/" if proc is None else ""
    fd = os.open(f"{home}self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        text = os.read(fd, 4096).decode(errors="replace")
    finally:
        os.close(fd)
    pid = text.partition("\nPid:")[2].split(maxsplit=1)[:1]
    return max(0, int(pid[0])) if pid else 0


def own_pid(pid: int) -> int:
    """Return the pid that a process has in its own PID namespace; 0: it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return 0
    pids = text.partition("\nNSpid:")[2].partition("\n")[0].split()
    return int(pids[-1]) if pids else pid


def state_letter(pid: int) -> str | None:
    """Return a process's state as ``ps`` shows it (R, S, D, T, Z …), or None when gone."""
    fields = _stat(pid)
    return None if fields is None else fields[0]


class Program(Enum):
    """Whether a process has a program, and so a readable environment."""

    THERE = auto()
    BARE = auto()
    """It has one, started with an empty environment."""
    HIDDEN = auto()
    """It has one, which this user may not inspect."""
    CHANGING = auto()
    """Not at this moment: it is dying, or in execve(2)."""
    NEVER = auto()
    """It is a kernel thread, a zombie, or gone."""


def program_of(pid: int) -> Program:
    """Determine whether a process has a program.

    References
    ----------
    proc(5), ``/proc/[pid]/stat``: flags; startcode, which is 1 where this user may not see
    it, and set after env_start and env_end (``load_elf_binary``, fs/binfmt_elf.c).
    """
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX" or int(fields[6]) & _PF_KTHREAD:
        return Program.NEVER
    match fields[23]:
        case "0":
            return Program.CHANGING
        case "1":
            return Program.HIDDEN
    return Program.BARE if fields[47] == fields[48] else Program.THERE


def read(path: str) -> bytes:
    """Read a file of the kernel, in a quarter of the time that pathlib takes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts)


def newest_pid() -> int:
    """Return the pid assigned last; the kernel counts upwards and wraps around.

    References
    ----------
    proc(5), ``/proc/loadavg``, the last field.
    """
    return int(read("/proc/loadavg").split()[-1])


def command_name(pid: int) -> str:
    """Return the name of a process's program, or ``?``."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def describe_exit(code: int) -> str:
    """Describe how a process ended: its exit status or the signal's name."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
    return f"died of {name}{hint}"


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, zombies included."""
    found: list[int] = []
    try:
        threads = [entry.name for entry in os.scandir(f"/proc/{pid}/task")]
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, read(f"/proc/{pid}/task/{thread}/children").split())
        except OSError:
            continue
    return found


def has_child() -> bool:
    """Whether this process has a child, zombies included.

    Exact, as the kernel answers: :func:`children` may miss one while another ends.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """Return the pids of all descendants, parents before their children."""
    found: list[int] = []
    queue = children(pid)
    while queue:
        child = queue.pop()
        found.append(child)
        queue += children(child)
    return found


def identities_below(root: Identity) -> list[Identity]:
    """Return the identities of all descendants of this very process.

    A pid that was reused by an unrelated process since it was listed is left out. If the
    process itself is gone, the list is empty: its pid may be another process's.
    """
    found = [
        who
        for pid in descendants(root.pid)
        # the identity first, then the ancestry: the other way round, the pid could be reused in
        # between
        if (who := Identity.of(pid)) is not None and _descends_from(pid, root.pid)
    ]
    return found if root.alive else []


def signal_descendants(root: int, *numbers: int) -> int:
    """Send signals, in order, to every descendant of ``root``.

    Returns
    -------
    int
        How many living processes were signalled.
    """
    return sum(_signal_if_descendant(root, pid, numbers) for pid in descendants(root))


def _signal_if_descendant(root: int, pid: int, numbers: tuple[int, ...]) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # the pid may have been reused between the listing and the open
        if not _descends_from(pid, root) or state_letter(pid) in (None, "Z", "X"):
            return False
        for number in numbers:
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def _descends_from(pid: int, root: int) -> bool:
    """Whether a process descends from another one.

    The ancestors are read one by one; one of them may die, and its pid be reused, before
    the next one is read. If two readings agree, the line was valid in between.
    """
    line = _ancestors(pid, root)
    return line is not None and line == _ancestors(pid, root)


def _ancestors(pid: int, root: int) -> list[tuple[int, str]] | None:
    """Pids and start times from a process up to below ``root``; None: it is no ancestor."""
    line = []
    while pid > 1:
        fields = _stat(pid)
        if fields is None:
            return None
        line.append((pid, fields[19]))
        pid = int(fields[1])
        if pid == root:
            return line
    return None


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/pid/stat`` from the state on: the name before may hold any bytes."""
    try:
        text = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    return text.rpartition(b")")[2].decode(errors="replace").split()
