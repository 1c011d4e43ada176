"""What a run's processes hold in RAM, in bytes, counted once however often shared.

The measure is the proportional set size (PSS): a page mapped by k processes
counts 1/k in each, so the sum over a process tree is what the tree really
holds. RSS would count the libraries and the bars once per worker.

References
----------
proc(5), ``/proc/[pid]/smaps_rollup``; kernel documentation, filesystems/proc.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisor import process

SETTLED_SLACK_BYTES = 16 * 2**20
"""How close to its baseline memory must come to count as given back: the warden's
own bookkeeping grows by a few MB over a run."""

_COST_SHARE = 500  # sampling may take 0.2 % of one core's time


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process, in bytes; 0 when it is gone or not ours to read."""
    try:
        with Path(f"/proc/{pid}/smaps_rollup").open("rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def tree_bytes(root: int) -> int:
    """Proportional set size of a process and all its descendants, in bytes."""
    return sum_bytes([root, *process.descendants(root)])


def sum_bytes(pids: Iterable[int]) -> int:
    """Sum of the proportional set sizes of some processes, in bytes."""
    return sum(map(pss_bytes, pids))


@dataclass
class Sampler:
    """Samples a tree's memory now and then, so seldom that nobody notices.

    Reading ``smaps_rollup`` walks the page tables: 2 GB in 4 KiB pages take
    about 10 ms. The pause grows with what a sample cost.

    Attributes
    ----------
    peak : int
        Largest sample so far, in bytes.
    last : int
        Latest sample, in bytes.
    due : float
        ``time.monotonic()`` instant of the next sample.
    """

    root: int
    interval_s: float = 0.5
    peak: int = 0
    last: int = 0
    due: float = 0.0

    def sample(self) -> int:
        """Take a sample now and plan the next one."""
        begun = time.monotonic()
        self.last = tree_bytes(self.root)
        self.peak = max(self.peak, self.last)
        now = time.monotonic()
        self.due = now + max(self.interval_s, (now - begun) * _COST_SHARE)
        return self.last
