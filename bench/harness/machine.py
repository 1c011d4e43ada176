"""The machine of a measurement, as far as it affects the figures."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("allstop", "numpy", "numba", "llvmlite", "pyarrow", "vectorbt")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, kernel, memory, huge pages, versions and load; None where unknown."""
    return {
        "cpu": _first(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$"),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "ram_bytes": psutil.virtual_memory().total,
        "transparent_hugepage": _first(_THP, r"\[(\w+)\]"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in _PACKAGES},
    }


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def available_bytes() -> int:
    """Return what the kernel could give to new processes without swapping, in bytes."""
    return int(psutil.virtual_memory().available)


def peak_rss_bytes(pid: int) -> int:
    """Return the largest resident set a process has had so far, in bytes; 0 when it is gone."""
    return 1024 * int(_first(Path(f"/proc/{pid}/status"), r"^VmHWM:\s*(\d+)") or 0)


def _first(path: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None
