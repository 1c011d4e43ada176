"""Python and what is installed for it; nothing heavy is imported to find out."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib import metadata

from supervisor.doctor.finding import Finding, Status

_OLDEST = (3, 11)

_EXTRAS = {
    "plotly": ("plots", "HTML reports"),
    "streamlit": ("dashboard", "the dashboard"),
    "cupy": ("cuda12", "CuPy strategies (or cuda13)"),
    "torch": ("torch", "PyTorch strategies"),
}


def python() -> Finding:
    """The interpreter."""
    here = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.version_info < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return Finding(
            "python", Status.PROBLEM, here, f"allstop needs Python {oldest}: make a venv with it"
        )
    return Finding("python", Status.OK, here)


def extras() -> Finding:
    """Optional packages: which are there, and how to get the others."""
    there, missing = [], []
    for module, (extra, purpose) in _EXTRAS.items():
        if importlib.util.find_spec(module) is not None:
            there.append(f"{module} {version_of(module)}".strip())
        else:
            missing.append(f"{purpose}: pip install 'allstop[{extra}]'")
    absent = [name for name in _EXTRAS if not any(t.split()[0] == name for t in there)]
    facts = [
        f"installed: {', '.join(there)}" if there else "",
        f"not installed: {', '.join(absent)}" if absent else "",
    ]
    return Finding("extras", Status.INFO, "; ".join(filter(None, facts)), "; ".join(missing))


def version_of(module: str) -> str:
    """Version of the distribution that brings a module; empty if there is none."""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(module, [])
        return metadata.version(names[0]) if names else ""
