"""Tries each kind of containment, and CUDA, for real, in a short-lived process.

:func:`supervisor.doctor.ask.try_out` runs this file as a script, isolated and
with the standard library only: ``python -I -S probe.py WHAT``. Exit code 0
means that it works; the line printed says how, or why not. If the script is
killed, the processes it started end by themselves after a few seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_PR_SET_CHILD_SUBREAPER = 36
_MS_REC = 1 << 14
_MS_SLAVE = 1 << 19
_PATIENCE_S = 3.0

_libc = ctypes.CDLL(None, use_errno=True)


def pid_namespace() -> str:
    """Kill the first process of a new PID namespace and check that a daemon dies with it."""
    how = _unshare_pids()
    held, ours = os.pipe()
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        os.close(ready)
        try:
            _mount_proc()
        except OSError as error:
            os.write(tell, f"/proc cannot be mounted in it: {error.strerror}".encode())
            os._exit(1)
        _daemonise_and_wait(tell)
    os.close(ours)
    os.close(tell)
    said = os.read(ready, 4096).decode()
    if said != "x":
        os.waitpid(child, 0)
        raise OSError(0, said or "the namespace's first process did not start")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not _ended(held):
        raise OSError(0, "a daemonised process survived the namespace's first")
    return f"works {how}: a daemonised process died with the namespace's first"


def cgroup() -> str:
    """Create a cgroup, put a process in it, and kill the process by ``cgroup.kill``."""
    home = _own_cgroup()
    mine = home / f"allstop-doctor-{os.getpid()}"
    mine.mkdir(0o700)
    try:
        kill = mine / "cgroup.kill"
        if not kill.exists():
            raise OSError(0, "no cgroup.kill (needs Linux 5.14)")
        held, ours = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(held)
            _wait_for_death()
        os.close(ours)
        try:
            (mine / "cgroup.procs").write_text(str(child))
            kill.write_text("1")
            gone = _ended(held)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)  # our own child, not reaped yet
            os.waitpid(child, 0)
        if not gone:
            raise OSError(0, "cgroup.kill did not kill the process")
    finally:
        mine.rmdir()
    return f"works: {home} is writable and has cgroup.kill"


def subreaper() -> str:
    """Check that a daemonised process becomes our child."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(tell)
        _wait_for_death()
    os.close(tell)
    os.waitpid(child, 0)
    os.read(ready, 1)
    me = os.getpid()
    orphans = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    for orphan in orphans:
        os.kill(int(orphan), signal.SIGKILL)  # our own child, not reaped yet
        os.waitpid(int(orphan), 0)
    if len(orphans) != 1:
        raise OSError(0, "a daemonised process did not become our child")
    return "works: a daemonised process became our child"


def cuda() -> str:
    """Load CUDA's driver library and initialise it; return the newest CUDA that it runs.

    Neither makes a context. A message that begins with ``CUDA_`` is the driver's.
    """
    library = ctypes.CDLL("libcuda.so.1")
    version = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    code = library.cuInit(0)
    if code != 0:
        name = ctypes.c_char_p()
        library.cuGetErrorName(code, ctypes.byref(name))
        raise OSError(0, (name.value or b"CUDA_ERROR_UNKNOWN").decode())
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _unshare_pids() -> str:
    """Make the next child the first process of a new PID namespace."""
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWPID | _CLONE_NEWNS) == 0:
        return "with privileges"
    if _libc.unshare(_CLONE_NEWPID | _CLONE_NEWNS | _CLONE_NEWUSER) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return "without privileges, in a user namespace (in it, setuid programs such as sudo fail)"


def _mount_proc() -> None:
    """Mount a ``/proc`` of the new namespace; containers often forbid this step only."""
    for source, target, kind, flags in (
        (None, b"/", None, _MS_SLAVE | _MS_REC),
        (b"proc", b"/proc", b"proc", 0b1110),  # nosuid, nodev, noexec
    ):
        if _libc.mount(source, target, kind, ctypes.c_ulong(flags), None) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def _own_cgroup() -> Path:
    """Return the directory of our own cgroup in the v2 tree."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            _, _, _, root, mount = left.split()[:5]
            break
    else:
        raise OSError(0, "no cgroup v2 is mounted")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return Path(mount) / os.path.relpath(line[3:], root)
    raise OSError(0, "this process is not in a v2 cgroup")


def _daemonise_and_wait(tell: int) -> NoReturn:
    """As the first process of a namespace: start a daemon, report it, wait."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(tell, b"x")
        os.close(tell)
        _wait_for_death()
    os.close(tell)
    _wait_for_death()


def _wait_for_death() -> NoReturn:
    select.select([], [], [], 2 * _PATIENCE_S)  # ends by itself if the script died
    os._exit(0)


def _ended(held: int) -> bool:
    """Whether all holders of the other end of a pipe have ended, in time."""
    return bool(select.select([held], [], [], _PATIENCE_S)[0])


_TRIALS = {
    "pid_namespace": pid_namespace,
    "cgroup": cgroup,
    "subreaper": subreaper,
    "cuda": cuda,
}


def main(what: str) -> int:
    """Try one kind of containment; print one line."""
    try:
        print(_TRIALS[what]())
    except OSError as error:
        said = error.strerror or str(error)
        print(said if said.startswith("CUDA_") else said.lower())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
