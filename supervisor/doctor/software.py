"""The machine, Python, and the packages that are installed; no heavy package is imported."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from importlib import metadata

from supervisor.doctor.finding import Finding, Status
from supervisor.system.install import DISTRIBUTION, HOME, advice

_OLDEST = (3, 11)
_GIB = 2**30
_SCARCE_BYTES = 2**29
"""One worker with NumPy and Numba needs about a quarter of this."""

_EXTRAS = {
    "plotly": ("plots", "HTML reports"),
    "streamlit": ("dashboard", "Streamlit pages"),
    "cupy": ("cuda12", "CuPy strategies (or cuda13)"),
    "torch": ("torch", "PyTorch strategies"),
}


def machine() -> Finding:
    """Check the cores and the memory that runs can use."""
    import psutil

    ram, swap = psutil.virtual_memory(), psutil.swap_memory()
    usable, physical = len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False)
    return _machine(usable, physical, ram.total, ram.available, swap.total)


def python() -> Finding:
    """Check the version of the interpreter."""
    here = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.version_info < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return Finding(
            "python",
            Status.PROBLEM,
            here,
            f"create a virtual environment with Python {oldest} or later",
        )
    return Finding("python", Status.OK, here)


def packages() -> Finding:
    """Check that all required packages are installed."""
    ours = next(iter(metadata.distributions(name=DISTRIBUTION)), None)
    if ours is None:
        return Finding("packages", Status.INFO, f"runs from {HOME}, not installed")
    required = [name for line in ours.requires or () if (name := _required(line))]
    missing = [name for name in required if not _installed(name)]
    if missing:
        what = f"not installed: {', '.join(missing)}"
        return Finding("packages", Status.PROBLEM, what, advice())
    return Finding("packages", Status.OK, f"all {len(required)} required packages are installed")


def extras() -> Finding:
    """Name the optional packages that are installed, and how to install the others."""
    present = [name for name in _EXTRAS if importlib.util.find_spec(name) is not None]
    absent = [name for name in _EXTRAS if name not in present]
    versions = [f"{name} {version_of(name)}".strip() for name in present]
    facts = [
        f"installed: {', '.join(versions)}" if versions else "",
        f"not installed: {', '.join(absent)}" if absent else "",
    ]
    return Finding("extras", Status.INFO, "; ".join(filter(None, facts)), _extras_fix(absent))


def version_of(module: str) -> str:
    """Return the version of the distribution that has a module; empty if there is none."""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(module, [])
        return metadata.version(names[0]) if names else ""


def _machine(
    usable: int, physical: int | None, ram_bytes: int, available_bytes: int, swap_bytes: int
) -> Finding:
    cores = f"{usable} usable core{'s' * (usable != 1)}"
    if physical:
        cores += f" ({physical} physical)"
    swap = f"{swap_bytes / _GIB:.1f} GiB swap" if swap_bytes else "no swap"
    what = (
        f"{cores}, {ram_bytes / _GIB:.1f} GiB RAM, {available_bytes / _GIB:.1f} GiB of it "
        f"available, {swap}"
    )
    if available_bytes < _SCARCE_BYTES:
        fix = "end other programs, or use fewer --workers: the kernel may kill workers"
        return Finding("machine", Status.WARNING, what, fix)
    return Finding("machine", Status.OK, what)


def _extras_fix(absent: list[str]) -> str:
    """Return one whole command, and for the others what to put into its brackets."""
    if not absent:
        return ""
    (first, purpose), *others = [_EXTRAS[name] for name in absent]
    more = ", ".join(f"[{extra}] for {purpose}" for extra, purpose in others)
    command = f"for {purpose}: {advice(first)}"
    return f"{command}; instead of [{first}], {more}" if more else command


def _required(requirement: str) -> str:
    """Return the name in a line of ``Requires-Dist``; empty if it belongs to an extra."""
    name = re.match(r"[\w.-]+", requirement)
    return name[0] if name and "extra ==" not in requirement else ""


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
