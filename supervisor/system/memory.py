"""RAM of a run's processes, in bytes; shared pages are counted once.

The measure is the proportional set size (PSS): a page mapped by k processes
counts 1/k in each, so the sum over a process tree is the memory that the tree
uses. RSS would count the libraries and the bars once per worker.

References
----------
proc(5), ``/proc/[pid]/smaps_rollup``; kernel documentation, filesystems/proc.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisor.system import process

SETTLED_SLACK_BYTES = 16 * 2**20
"""How close to its baseline memory must come to count as released: the warden's own
bookkeeping grows by a few MB over a run."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_OFTEN_S, _SELDOM_S = 0.1, 0.5
_SLOWING = 1.5  # per sample that is close to the previous one
_STILL_BYTES = 4 * 2**20
_CALIBRATE_EVERY_S = 2.0
_COST_SHARE = 500  # reading the PSS may take 0.2 % of one core's time


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process without its files, in bytes.

    0 when it is gone or cannot be read. Before Linux 5.4, which does not list them
    separately, files are included.
    """
    kilobytes: dict[bytes, int] = {}
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open("rb") as file:
            for line in file:
                if line.startswith(b"Pss"):
                    name, value, _ = line.split()
                    kilobytes[name] = int(value)
    except OSError:
        return 0
    if b"Pss_Anon:" in kilobytes:
        return 1024 * (kilobytes[b"Pss_Anon:"] + kilobytes[b"Pss_Shmem:"])
    return 1024 * kilobytes.get(b"Pss:", 0)


def tree_bytes(root: int) -> int:
    """Proportional set size of a process and all its descendants, in bytes."""
    return sum_bytes([root, *process.descendants(root)])


def sum_bytes(pids: Iterable[int]) -> int:
    """Sum of the proportional set sizes of several processes, in bytes."""
    return sum(map(pss_bytes, pids))


def rss_bytes(pid: int) -> int:
    """Resident set size of a process, in bytes, shared pages in full; 0 when it is gone."""
    try:
        return int(process.read(f"/proc/{pid}/statm").split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def oom_kills() -> int:
    """Count the processes that the kernel has killed for lack of memory since boot."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return int(text.partition("\noom_kill ")[2].partition("\n")[0] or 0)


def available_bytes() -> int:
    """Memory that can still be used, in bytes: the machine's, or what a cgroup or ulimit leaves."""
    return min(_machine_bytes(), _cgroup_bytes(), _limit_bytes())


def _machine_bytes() -> int:
    try:
        text = Path("/proc/meminfo").read_text()
        return 1024 * int(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * _PAGE_BYTES


def _cgroup_bytes() -> int:
    """What is left of the limits of our cgroup (v2) and those above; sys.maxsize without any."""
    least = sys.maxsize
    with contextlib.suppress(OSError, ValueError):
        name = Path("/proc/self/cgroup").read_text().partition("0::/")[2].split("\n")[0]
        place = Path("/sys/fs/cgroup")
        for part in ("", *name.split("/")):
            place /= part
            with contextlib.suppress(OSError, ValueError):
                most = int((place / "memory.max").read_text())
                used = int((place / "memory.current").read_text())
                least = min(least, max(0, most - used))
    return least


def _limit_bytes() -> int:
    """What RLIMIT_AS leaves; sys.maxsize without one."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        used = int(process.read("/proc/self/statm").split()[0]) * _PAGE_BYTES
    except (OSError, IndexError):
        used = 0
    return max(0, most - used)


@dataclass
class Sampler:
    """Samples the memory of a process tree at low cost: often while it changes, else rarely.

    The PSS is the right measure, but reading it walks the page tables: 2 GB in 4 KiB
    pages take about 10 ms. The RSS costs microseconds but counts shared pages again in
    every process. So a sample is the RSS minus the difference of the two when both were
    last read; the PSS is read again when a process has started or ended, and otherwise
    rarely.

    Attributes
    ----------
    peak : int
        Largest sample so far, in bytes.
    last : int
        Latest sample, in bytes.
    interval_s : float
        How long to wait before the next sample, in s.
    due : float
        ``time.monotonic()`` instant of the next sample.
    """

    root: int
    peak: int = 0
    last: int = 0
    interval_s: float = _OFTEN_S
    due: float = 0.0

    def __post_init__(self) -> None:
        self._pids: list[int] = []
        self._counted_twice = 0
        self._calibrate_at = 0.0
        self._may_calibrate_at = 0.0

    def sample(self) -> int:
        """Take a sample now and plan the next one."""
        now = time.monotonic()
        pids = [self.root, *process.descendants(self.root)]
        rss = sum(map(rss_bytes, pids))
        if now >= self._calibrate_at or (pids != self._pids and now >= self._may_calibrate_at):
            self._pids = pids
            self._counted_twice = max(0, rss - sum_bytes(pids))
            cost_s = time.monotonic() - now
            self._calibrate_at = now + max(_CALIBRATE_EVERY_S, cost_s * _COST_SHARE)
            self._may_calibrate_at = now + cost_s * _COST_SHARE / 10
        before, self.last = self.last, max(0, rss - self._counted_twice)
        self.peak = max(self.peak, self.last)
        still = abs(self.last - before) < _STILL_BYTES
        self.interval_s = min(self.interval_s * _SLOWING, _SELDOM_S) if still else _OFTEN_S
        self.due = time.monotonic() + self.interval_s
        return self.last
