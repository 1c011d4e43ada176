"""What the kernel offers: the system calls and files that a run is built on."""

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
_NEWER_KERNEL = "use a newer kernel; in a container, one whose seccomp profile allows it"


def platform_check() -> Finding:
    """Linux, and which."""
    here = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform != "linux":
        return Finding(
            "platform",
            Status.PROBLEM,
            f"{here}: allstop needs Linux (memfd, pidfd, futex)",
            "on Windows it runs inside WSL2",
        )
    cores = len(os.sched_getaffinity(0))
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding(
        "platform",
        Status.OK,
        f"{here}, {cores} usable core{'s' * (cores > 1)}, {ram / 2**30:.1f} GiB RAM",
    )


def futex_check() -> Finding:
    """A futex call of ours reaches the kernel: its number differs between architectures."""
    from supervisor.errors import UnsupportedPlatformError
    from supervisor.ipc import futex

    word = ctypes.c_uint32(0)
    try:
        # the word is not what we say we expect, so the kernel answers at once
        futex.wait(ctypes.addressof(word), expected=1, deadline=time.monotonic() + 1.0)
    except UnsupportedPlatformError as error:
        return Finding("futex", Status.PROBLEM, str(error), "report the architecture to us")
    except OSError as error:
        return Finding("futex", Status.PROBLEM, f"futex(2): {error.strerror}", _NEWER_KERNEL)
    return Finding("futex", Status.OK, f"answers on {platform.machine()}")


def pidfd() -> Finding:
    """Signals go through pidfds: a reused pid is never hit."""
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
            f"it needs Linux 5.3: {_NEWER_KERNEL}",
        )
    return Finding("pidfd", Status.OK, "pidfd_open and pidfd_send_signal work")


def memfd() -> Finding:
    """Shared memory without names."""
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
    """Descendants are found through ``/proc/<pid>/task/<tid>/children``."""
    path = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    try:
        path.read_text()
    except OSError as error:
        return Finding(
            "process tree",
            Status.PROBLEM,
            f"/proc/<pid>/task/<tid>/children: {error.strerror}: descendants cannot be found",
            "use a kernel with CONFIG_PROC_CHILDREN, and a mounted /proc",
        )
    return Finding("process tree", Status.OK, "/proc lists the children of a process")


def smaps_rollup() -> Finding:
    """Memory is measured as PSS."""
    try:
        there = "Pss:" in Path("/proc/self/smaps_rollup").read_text()
        why = "has no Pss"
    except OSError as error:
        there, why = False, error.strerror or str(error)
    if not there:
        return Finding(
            "memory figures",
            Status.WARNING,
            f"/proc/<pid>/smaps_rollup: {why}: memory reads as 0",
            "use a kernel of 4.14 or newer with CONFIG_PROC_PAGE_MONITOR",
        )
    return Finding("memory figures", Status.OK, "/proc/<pid>/smaps_rollup tells PSS")


def containment() -> Finding:
    """The containment that runs use here unless told otherwise: the strongest that works."""
    strengths = {"pid_namespace": "pid-namespace", "cgroup": "cgroup", "subreaper": "subreaper"}
    name = next((name for what, name in strengths.items() if try_out(what)[0]), "none")
    return Finding("containment", Status.INFO, f"runs use: {name}; tried on this machine:")


def pid_namespace() -> Finding:
    """The strongest containment: the kernel kills everything with the warden."""
    works, said = try_out("pid_namespace")
    return Finding("  PID namespace", Status.INFO, said if works else f"not available: {said}")


def cgroup() -> Finding:
    """Containment by ``cgroup.kill``."""
    works, said = try_out("cgroup")
    return Finding("  cgroup v2", Status.INFO, said if works else f"not available: {said}")


def subreaper() -> Finding:
    """Containment by parentage."""
    works, said = try_out("subreaper")
    if works:
        return Finding("  subreaper", Status.OK, said)
    return Finding("  subreaper", Status.PROBLEM, f"not available: {said}", _NEWER_KERNEL)


def huge_pages(setting: Path = _HUGE_PAGES) -> Finding:
    """Memory in 2 MiB pages is freed some thirty times as fast."""
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
