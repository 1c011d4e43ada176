"""``run.json``: what a run was asked to do, and a snapshot of the environment it was asked in.

The snapshot has the time, the working directory, the versions of the libraries and the
machine. ``resume`` compares the versions: the last bits of a row depend on them.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError
from supervisor.records import rundir
from supervisor.records.claim import Claim, claim_directory
from supervisor.records.home import home_of
from supervisor.system import durable, limits
from supervisor.system.environment import working_directory
from supervisor.version import __version__

_MISSING = "not installed"


def write_run_file(run_dir: Path, asked: dict[str, Any]) -> Claim:
    """Claim a run's empty directory and write its ``run.json``.

    Parameters
    ----------
    run_dir : Path
        The directory; it exists and is empty.
    asked : dict
        The plan as plain values; the snapshot is added to it.

    Raises
    ------
    ConfigError
        If the file cannot be written, or another process has begun a run there; nothing is left.
    """
    claim = claim_directory(run_dir)
    try:
        rundir.check_empty(run_dir)  # again: now no other process can begin a run there
        plain = asked | take_snapshot() | home_of(run_dir)
        durable.write_json(run_dir / rundir.RUN_FILE, plain, named=False)
    except OSError as error:
        rundir.discard(run_dir)
        claim.release()
        raise ConfigError(
            limits.of_shell(error)
            or f"run directory {run_dir} cannot be written ({error.strerror}): "
            "name another one with --run-dir",
            key="run_dir",
        ) from None
    except BaseException:
        claim.release()
        raise
    return claim


def take_snapshot() -> dict[str, Any]:
    """Return the time, the working directory, the library versions and the machine."""
    return {
        "asked_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cwd": working_directory(),
        "versions": library_versions(),
        "machine": {
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
    }


def library_versions() -> dict[str, str]:
    """Return the versions of allstop, Python and the libraries that rows depend on.

    Those that a run need not have are left out where they are not installed.
    """
    found = {name: _version(name) for name in ("numpy", "numba", "pyarrow", "cupy", "torch")}
    return {
        "allstop": __version__,
        "python": platform.python_version(),
        **{
            name: version
            for name, version in found.items()
            if version != _MISSING or name not in ("cupy", "torch")
        },
    }


def _version(package: str) -> str:
    """Version of an installed package, read from the name of its metadata directory.

    ``importlib.metadata`` takes 20 ms to import and to parse fields that are not needed here.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return _MISSING
    found = Path(spec.origin).parent.parent.glob(f"{package}*.dist-info")
    names = (path.stem.partition("-") for path in found)
    # CuPy's distributions are named after the CUDA that they are built for: cupy_cuda13x
    return next(
        (version for name, _, version in names if name == package or name[:9] == "cupy_cuda"),
        "unknown",
    )
