"""Runs all checks at the same time within one deadline; no check can end another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from supervisor.doctor import cluster, disk, gpu, gpu_packages, kernel, names, software
from supervisor.doctor.finding import Finding, Status
from supervisor.system import limits

Check = Callable[[], Finding | None]
"""A check; None: it has nothing to say here."""

DEADLINE_S = 15.0
"""For all checks together, which run at the same time."""

CHECKS: tuple[tuple[str, Check], ...] = (
    ("platform", kernel.platform_check),
    ("machine", software.machine),
    ("python", software.python),
    ("futex", kernel.futex_check),
    ("pidfd", kernel.pidfd),
    ("memfd", kernel.memfd),
    ("process tree", kernel.children),
    ("memory figures", kernel.smaps_rollup),
    ("containment", kernel.containment),
    ("  PID namespace", kernel.pid_namespace),
    ("  cgroup v2", kernel.cgroup),
    ("  subreaper", kernel.subreaper),
    ("huge pages", kernel.huge_pages),
    ("registry", disk.registry_dir),
    ("runtime dir", disk.runtime_dir),
    ("dead runs", disk.dead_runs),
    ("kernel cache", disk.kernel_cache),
    ("kernels", disk.kernels),
    ("caches", disk.caches),
    ("variables", disk.relative_paths),
    *gpu.CHECKS,
    ("GPU packages", gpu_packages.packages),
    ("SLURM", cluster.slurm),
    ("cluster jobs", cluster.outstanding_jobs),
    ("SSH", cluster.ssh),
    ("packages", software.packages),
    ("extras", software.extras),
    ("installation", names.installation),
    ("name clashes", names.clashes),
    ("local folders", names.local_folders),
)
"""In the order in which they are shown, by the names of their findings."""


def examine(
    checks: Sequence[tuple[str, Check]] = CHECKS, deadline_s: float = DEADLINE_S
) -> list[Finding]:
    """Run checks; return the findings of those that have something to say, in the given order.

    A check that raises, or does not return in time, gives a finding that says
    so. The thread of a late check is abandoned: the process is about to end.
    """
    found: dict[str, Finding | None] = {}

    def run(name: str, check: Check) -> None:
        try:
            found[name] = check()
        except ImportError as error:
            why, fix = names.broken_import(error)
            found[name] = Finding(name, Status.PROBLEM, f"could not be checked: {why}", fix)
        except Exception as error:  # noqa: BLE001 - any failure of a check is a finding
            limit = limits.explain(error)
            why = limit or " ".join(str(error).split()) or type(error).__name__
            fix = "raise that limit" if limit else "report this to us"
            found[name] = Finding(name, Status.PROBLEM, f"could not be checked: {why}", fix)

    until = time.monotonic() + deadline_s
    threads = [
        threading.Thread(target=run, args=item, name=f"doctor {item[0]}", daemon=True)
        for item in checks
    ]
    for thread, item in zip(threads, checks, strict=True):
        try:
            thread.start()
        except RuntimeError:  # no thread can be started: one after the other, then
            run(*item)
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, until - time.monotonic()))
    late = f"no answer within {deadline_s:g} s"
    for name, _ in checks:
        found.setdefault(
            name, Finding(name, Status.WARNING, late, "a program, a driver or a disk it uses hangs")
        )
    return [finding for name, _ in checks if (finding := found[name]) is not None]
