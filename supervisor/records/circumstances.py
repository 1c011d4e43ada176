"""When, where and with what a run was asked for, and how that is written down."""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

import supervisor
from supervisor.errors import ConfigError
from supervisor.records import rundir
from supervisor.records.claim import Claim, claim_directory
from supervisor.system import durable


def write_plan(run_dir: Path, plain: dict[str, Any]) -> Claim:
    """Claim a run's empty directory and write its ``run.json``.

    Raises
    ------
    ConfigError
        If it cannot be written, or somebody else has begun a run there; nothing is left.
    """
    claim = claim_directory(run_dir)
    try:
        rundir.check_empty(run_dir)  # once more, now that nobody else can begin a run there
        durable.write_json(run_dir / rundir.RUN_FILE, plain, named=False)
    except OSError as error:
        rundir.discard(run_dir)
        claim.release()
        raise ConfigError(
            f"run directory {run_dir} cannot be written ({error.strerror}): "
            "name another one with --run-dir",
            key="run_dir",
        ) from None
    except BaseException:
        claim.release()
        raise
    return claim


def circumstances() -> dict[str, Any]:
    """When, where and with what a run was asked for."""
    return {
        "asked_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cwd": str(Path.cwd()),
        "versions": {
            "allstop": supervisor.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "numba", "pyarrow")},
        },
        "machine": {
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
    }


def _version(package: str) -> str:
    """Version of an installed package, from the name of its metadata's directory.

    ``importlib.metadata`` takes 20 ms to import and to parse what we do not need.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return "not installed"
    found = Path(spec.origin).parent.parent.glob(f"{package}-*.dist-info")
    return next((path.stem.partition("-")[2] for path in found), "unknown")
