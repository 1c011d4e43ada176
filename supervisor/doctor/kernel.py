"""What the kernel offers: the system calls and files that runs need."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import select
import signal
import sys
import threading
import time
from pathlib import Path

from supervisor.doctor.ask import try_out
from supervisor.doctor.finding import Finding, Status

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_NEWER_KERNEL = "use a newer kernel; in a container, a seccomp profile that allows the call"


def platform_check() -> Finding:
    """Check that this is Linux, and name the kernel."""
    here = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform != "linux":
        return Finding(
            "platform",
            Status.PROBLEM,
            f"{here}: allstop needs Linux (memfd, pidfd, futex)",
            "on Windows, use WSL2",
        )
    return Finding("platform", Status.OK, here)


def futex_check() -> Finding:
    """Check that futex(2) can be called; its number depends on the architecture."""
    from supervisor.errors import UnsupportedPlatformError
    from supervisor.ipc import futex

    word = ctypes.c_uint32(0)
    try:
        # the word differs from the expected value, so the call returns at once
        futex.wait(ctypes.addressof(word), expected=1, deadline=time.monotonic() + 1.0)
    except UnsupportedPlatformError as error:
        return Finding("futex", Status.PROBLEM, str(error), "report the architecture to us")
    except OSError as error:
        return Finding("futex", Status.PROBLEM, f"futex(2): {error.strerror}", _NEWER_KERNEL)
    return Finding("futex", Status.OK, f"futex(2) works on {platform.machine()}")


def pidfd() -> Finding:
    """Check pidfds: a signal sent through one cannot reach a reused pid."""
    try:
        fd = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(fd, 0)
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll(0)
        finally:
            os.close(fd)
    except OSError as error:
        return Finding(
            "pidfd",
            Status.PROBLEM,
            f"pidfd_open: {error.strerror}",
            f"needs Linux 5.3: {_NEWER_KERNEL}",
        )
    return Finding("pidfd", Status.OK, "pidfd_open and pidfd_send_signal work")


def memfd() -> Finding:
    """Check memfds: shared memory without a name that could be left behind."""
    try:
        fd = os.memfd_create("allstop-doctor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            with mmap.mmap(fd, mmap.PAGESIZE) as memory:
                memory[0] = 1
        finally:
            os.close(fd)
    except OSError as error:
        return Finding("memfd", Status.PROBLEM, f"memfd_create: {error.strerror}", _NEWER_KERNEL)
    return Finding("memfd", Status.OK, "memfd_create works; /dev/shm is not needed")


def children() -> Finding:
    """Check ``/proc/<pid>/task/<tid>/children``, by which descendants are found."""
    path = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    try:
        path.read_text()
    except OSError as error:
        return Finding(
            "process tree",
            Status.PROBLEM,
            f"/proc/<pid>/task/<tid>/children: {error.strerror}: descendants cannot be found",
            "mount /proc, and use a kernel with CONFIG_PROC_CHILDREN",
        )
    return Finding("process tree", Status.OK, "/proc lists the children of a process")


def smaps_rollup() -> Finding:
    """Check ``smaps_rollup``, by which memory is measured as PSS."""
    try:
        readable = "Pss:" in Path("/proc/self/smaps_rollup").read_text()
        why = "has no Pss"
    except OSError as error:
        readable, why = False, error.strerror or str(error)
    if not readable:
        return Finding(
            "memory figures",
            Status.WARNING,
            f"/proc/<pid>/smaps_rollup: {why}: memory is reported as 0",
            "use Linux 4.14 or newer, with CONFIG_PROC_PAGE_MONITOR",
        )
    return Finding("memory figures", Status.OK, "/proc/<pid>/smaps_rollup has PSS")


def containment() -> Finding:
    """Name the containment that runs use by default: the strongest that works here."""
    strengths = {"pid_namespace": "pid-namespace", "cgroup": "cgroup", "subreaper": "subreaper"}
    name = next((name for what, name in strengths.items() if try_out(what)[0]), "none")
    return Finding("containment", Status.INFO, f"runs use: {name}; results of trying each kind:")


def pid_namespace() -> Finding:
    """Try the strongest containment: the kernel kills all processes with the warden."""
    works, said = try_out("pid_namespace")
    return Finding("  PID namespace", Status.INFO, said if works else f"not available: {said}")


def cgroup() -> Finding:
    """Try containment by ``cgroup.kill``."""
    works, said = try_out("cgroup")
    return Finding("  cgroup v2", Status.INFO, said if works else f"not available: {said}")


def subreaper() -> Finding:
    """Try containment by adopting orphans (``PR_SET_CHILD_SUBREAPER``)."""
    works, said = try_out("subreaper")
    if works:
        return Finding("  subreaper", Status.OK, said)
    return Finding("  subreaper", Status.PROBLEM, f"not available: {said}", _NEWER_KERNEL)


def huge_pages(setting: Path = _HUGE_PAGES) -> Finding:
    """Check for 2 MiB pages: memory in them is freed about thirty times as fast."""
    try:
        text = setting.read_text()
    except OSError:
        text = ""
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen in ("always", "madvise"):
        return Finding("huge pages", Status.OK, f"transparent huge pages: {chosen}")
    return Finding(
        "huge pages",
        Status.WARNING,
        f"transparent huge pages: {chosen or 'not in this kernel'}: "
        "freeing 1 GB takes about 64 ms instead of 2 ms",
        f"as root: echo madvise > {setting}" if chosen else "",
    )
