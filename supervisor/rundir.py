"""The run directory: what lies where, and how small files are written whole."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError

RUN_FILE = "run.json"
REPORT_FILE = "report.json"
RESULTS_FILE = "results.parquet"
EVENTS_FILE = "events.jsonl"
JOURNAL_DIR = "journal"
LOG_DIR = "logs"
DEFAULT_ROOT = Path("runs")


def new_run_id() -> str:
    """Make an id that sorts by time and that no two runs share."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)


def create(run_dir: Path) -> Path:
    """Make an empty run directory, private to the user.

    Returns
    -------
    Path
        Its absolute path.

    Raises
    ------
    ConfigError
        If it cannot be made or written, or holds a run already.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        run_dir = run_dir.resolve()
        if (run_dir / RUN_FILE).exists():
            raise ConfigError(
                f"run directory {run_dir} holds a run already: name another one, "
                "or leave --run-dir out",
                key="run_dir",
            )
        for name in (JOURNAL_DIR, LOG_DIR):
            (run_dir / name).mkdir(mode=0o700, exist_ok=True)
        (run_dir / ".probe").touch()
        (run_dir / ".probe").unlink()
    except OSError as error:
        raise ConfigError(
            f"run directory {run_dir} cannot be written ({error.strerror}): "
            "name another one with --run-dir",
            key="run_dir",
        ) from None
    return run_dir


def discard(run_dir: Path) -> None:
    """Remove a run that never began, and the directory if nothing else is in it.

    Only what this package writes is removed: the directory may be the user's.
    """
    for name in (JOURNAL_DIR, LOG_DIR):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    for name in (RUN_FILE, REPORT_FILE, RESULTS_FILE, EVENTS_FILE):
        (run_dir / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        run_dir.rmdir()
        if run_dir.parent == DEFAULT_ROOT.resolve():
            run_dir.parent.rmdir()  # unless it holds other runs


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half of it.

    The bytes are on disk before the name is: after a power loss the name never
    leads to an empty file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ConfigError
        If the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path}: not a JSON file") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value
