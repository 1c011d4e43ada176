"""Containment by a PID namespace: when the warden dies, the kernel kills every process in it.

The warden is the first process (PID 1) of a PID namespace of its own. Its descendants
cannot leave it, whatever they do to hide, ``setsid`` and double forks included, and
when PID 1 ends the kernel SIGKILLs every process in the namespace before PID 1 can be
seen gone. ``kill(-1)`` from PID 1 reaches all of them in one step that no fork can
escape.

A process cannot enter a new PID namespace itself, only its children can. So the
process that the front started makes one with ``CLONE_PARENT``, a sibling rather than a
child, and ends: the warden is a direct child of the front, which has its pidfd and its
exit status, and there is no process in between that could be killed.

Pids differ inside and outside, so the namespace gets a ``/proc`` of its own, in a mount
namespace of its own. The old ``/proc`` is kept open beside it and shows which pid a
process has outside. Mounts made outside later still appear inside, and none made inside
appears outside (``MS_SLAVE``).

Without privilege a user namespace is made as well, in which only the user's own ids
exist, mapped to themselves: files look the same, but setuid programs (``sudo``,
``ping``, ``fusermount``) do not work. The capabilities that it grants are dropped
again, so that a run may do what its user may, and no more.

References
----------
clone(2), pid_namespaces(7), user_namespaces(7), mount_namespaces(7), capset(2);
proc(5) on ``/proc/[pid]/fdinfo`` of a pidfd.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

from supervisor.containment import Note
from supervisor.containment.subreaper import Subreaper
from supervisor.containment.unavailable import UnavailableError
from supervisor.system import process

_CLONE_PIDFD = 0x00001000
_CLONE_PARENT = 0x00008000
_CLONE_NEWNS = 0x00020000
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000

_MS_NOSUID = 1 << 1
_MS_NODEV = 1 << 2
_MS_NOEXEC = 1 << 3
_MS_REC = 1 << 14
_MS_SLAVE = 1 << 19

_SYS_CLONE3 = 435  # the same on every architecture
_PR_GET_TID_ADDRESS = 40
_CAPABILITY_VERSION_3 = 0x20080522

_BORN = b"+"
_MAX_WHY_BYTES = 4096

# PyDLL keeps the GIL: no other thread may run between the fork and PyOS_AfterFork
_libc = ctypes.PyDLL(None, use_errno=True)


class _CloneArgs(ctypes.Structure):
    """``struct clone_args``, its first version."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
            "tls",
        )
    ]  # fmt: skip


class PidNamespace(Subreaper):
    """The strongest containment. Exists only in the first process of its namespace.

    Parameters
    ----------
    outer_proc : int
        Descriptor of the ``/proc`` that shows the pids outside.
    """

    name = "pid-namespace"

    def __init__(self, outer_proc: int) -> None:
        self._outer_proc = outer_proc

    def begin(self, run_id: str, note: Note) -> None:
        """Do nothing: PID 1 adopts every orphan of its namespace."""

    def signal_all(self, *numbers: int) -> int:
        """Signal every process of the namespace but this one, each signal in one step."""
        if os.getpid() != 1:
            raise RuntimeError("only a namespace's first process may signal all of it")
        reached = len(self.living())
        for number in numbers:
            try:
                os.kill(-1, number)
            except ProcessLookupError:
                break  # no process is left
        return reached

    def outside(self, pid: int) -> int:
        """Look a process's pid up in the ``/proc`` outside; 0 when it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return 0
        try:
            return process.pid_of(pidfd, self._outer_proc)
        finally:
            os.close(pidfd)


Introduce = Callable[[PidNamespace], None]


def enter(introduce: Introduce) -> PidNamespace:
    """Continue as the first process of a new PID namespace; the calling process ends.

    Returns in the new process only. When the attempt fails, it raises in the calling
    process, which has not been changed.

    Parameters
    ----------
    introduce : callable
        Called in the new process: makes it known to the front before the caller ends.

    Raises
    ------
    UnavailableError
        In the calling process: what was refused, and how to allow it.
    """
    ids = os.getuid(), os.getgid()  # read now: in a new user namespace no ids are mapped yet
    verdict, tell = os.pipe()
    try:
        pid, pidfd, unprivileged = _clone_somehow()
    except OSError:
        os.close(verdict)
        os.close(tell)
        raise
    if pid == 0:
        os.close(verdict)
        return _be_first(introduce, tell, ids if unprivileged else None)
    os.close(tell)
    said = os.read(verdict, _MAX_WHY_BYTES)
    os.close(verdict)
    if said == _BORN:
        os._exit(0)
    why = said.decode(errors="replace") or "its first process was killed"
    raise UnavailableError(why, _FIX_REFUSED, spent=pidfd)


# -- making the process ----------------------------------------------------


def _clone_somehow() -> tuple[int, int, bool]:
    """Make the namespace's first process, with privilege or else in a user namespace."""
    try:
        return *_clone(_CLONE_NEWPID | _CLONE_NEWNS), False
    except PermissionError:
        pass
    except OSError as error:
        raise _unavailable(error) from None
    try:
        return *_clone(_CLONE_NEWPID | _CLONE_NEWNS | _CLONE_NEWUSER), True
    except OSError as error:
        raise _unavailable(error) from None


def _clone(namespaces: int) -> tuple[int, int]:
    """Fork into new namespaces, as a sibling; return pid (0 in the child) and pidfd."""
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(
        flags=namespaces | _CLONE_PARENT | _CLONE_PIDFD, pidfd=ctypes.addressof(pidfd)
    )
    _keep_thread_id(arguments)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc.syscall(
        ctypes.c_long(_SYS_CLONE3),
        ctypes.byref(arguments),
        ctypes.c_size_t(ctypes.sizeof(arguments)),
    )
    code = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, os.strerror(code))
    return pid, pidfd.value


def _keep_thread_id(arguments: _CloneArgs) -> None:
    """Let the kernel set the C library's copy of the thread id in the child, as fork(3) does."""
    address = ctypes.c_uint64()
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) == 0 and address.value:
        arguments.flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
        arguments.child_tid = address.value


_FIX_REFUSED = (
    "allow namespaces and a /proc in them (a container's seccomp profile or masked paths, or "
    "AppArmor, forbid them; on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
)
_FIXES = {
    errno.ENOSPC: "raise user.max_user_namespaces and user.max_pid_namespaces with sysctl",
    errno.EUSERS: "raise user.max_user_namespaces with sysctl; or namespaces are nested too deep",
    errno.ENOSYS: "use a kernel of 5.3 or newer; in a container, one whose profile allows clone3",
    errno.EINVAL: "use a kernel with CONFIG_PID_NS and CONFIG_USER_NS",
}


def _unavailable(error: OSError) -> UnavailableError:
    fix = _FIXES.get(error.errno or 0, _FIX_REFUSED)
    why = "no more of them are allowed" if error.errno == errno.ENOSPC else error.strerror
    return UnavailableError(f"no PID namespace: {why}", fix)


# -- its first steps -------------------------------------------------------


def _be_first(introduce: Introduce, tell: int, ids: tuple[int, int] | None) -> PidNamespace:
    """Set the namespace up and return, or tell the parent why not and exit."""
    try:
        containment = _settle_in(ids)
        introduce(containment)
    except BaseException as error:  # noqa: BLE001 - reported to the parent, which continues
        os.write(tell, str(error).encode()[:_MAX_WHY_BYTES])
        os._exit(1)
    with contextlib.suppress(BrokenPipeError):  # the parent was killed; the front knows us already
        os.write(tell, _BORN)
    os.close(tell)
    return containment


def _settle_in(ids: tuple[int, int] | None) -> PidNamespace:
    if ids is not None:
        _map_ids(*ids)
    containment = PidNamespace(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    known_as = containment.outside(os.getpid())
    if known_as <= 0:
        raise OSError(0, "the outer /proc does not show pids")
    _mount(None, "/", None, _MS_SLAVE | _MS_REC)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    if str(Path("/proc/self").readlink()) != "1":
        raise OSError(0, "the new /proc does not show the new namespace")
    _number_from(known_as)
    if ids is not None:
        _drop_capabilities()
    os.setsid()
    return containment


def _number_from(pid: int) -> None:
    """Let pids inside start at this process's pid outside, rather than at 2 in every run.

    Programs name files by their pid, and two runs at once would use the same names.
    """
    with contextlib.suppress(OSError):  # a convenience only
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid))


def _map_ids(uid: int, gid: int) -> None:
    """Map the user's own ids to themselves."""
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError as error:
        raise OSError(error.errno, f"user namespace: ids not mapped: {error.strerror}") from None


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    if _libc.mount(*encoded, ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{target} cannot be mounted in a namespace: {os.strerror(code)}")


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")
