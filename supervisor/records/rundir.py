"""The run directory: names of its files, its creation and its removal."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from supervisor.errors import ConfigError
from supervisor.system import durable, limits

RUN_FILE = "run.json"
REPORT_FILE = "report.json"
RESULTS_FILE = "results.parquet"
EVENTS_FILE = "events.jsonl"
INPUTS_FILE = "inputs.json"
FUNCTION_FILE = "function.dill"
BARS_FILE = "bars.bin"
LOCK_FILE = ".lock"
LEDGER_FILE = "ledger"
JOURNAL_DIR = "journal"
SHARD_DIR = "shards"
"""Parts of a sweep that were computed elsewhere; each is a run directory of its own."""
LOG_DIR = "logs"
CHECKPOINT_DIR = "checkpoints"
BIN_DIR = "bin"
DEFAULT_ROOT = Path("runs")


def new_run_id() -> str:
    """Return a new unique id; ids sort by time."""
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(3).hex()


def create(run_dir: Path, below: tuple[str, ...] = (JOURNAL_DIR, LOG_DIR)) -> Path:
    """Create an empty run directory, private to the user.

    Parameters
    ----------
    run_dir : Path
        The directory.
    below : tuple of str
        Directories to create in it.

    Returns
    -------
    Path
        Its absolute path.

    Raises
    ------
    ConfigError
        If it cannot be created or written, or already holds a run.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        run_dir = run_dir.resolve()
        check_empty(run_dir)
        for name in below:
            (run_dir / name).mkdir(mode=0o700, exist_ok=True)
        (run_dir / ".probe").touch()
        (run_dir / ".probe").unlink()
    except OSError as error:
        raise ConfigError(
            limits.of_shell(error)
            or f"run directory {run_dir} cannot be written ({error.strerror}): "
            "name another one with --run-dir",
            key="run_dir",
        ) from None
    return run_dir


def check_empty(run_dir: Path) -> None:
    """Raise :class:`ConfigError` if a directory holds a run."""
    if (run_dir / RUN_FILE).exists():
        raise ConfigError(
            f"run directory {run_dir} already holds a run: resume it with --resume, name "
            "another directory, or omit --run-dir",
            key="run_dir",
        )


def journal_dirs(run_dir: Path) -> list[Path]:
    """Return the directories of a run's journals: its own, then those of its shards."""
    shards = sorted((run_dir / SHARD_DIR).glob(f"[0-9]*/{JOURNAL_DIR}"))
    return [run_dir / JOURNAL_DIR, *shards]


def discard(run_dir: Path) -> None:
    """Remove a run that never started, and the directory if nothing else is in it.

    Only files that this package writes are removed: the user may have others there.
    """
    import shutil

    for name in (JOURNAL_DIR, LOG_DIR, CHECKPOINT_DIR, BIN_DIR, SHARD_DIR):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    for name in (
        RUN_FILE, REPORT_FILE, RESULTS_FILE, EVENTS_FILE, INPUTS_FILE, FUNCTION_FILE, BARS_FILE,
        LOCK_FILE, LEDGER_FILE,
    ):  # fmt: skip
        (run_dir / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        run_dir.rmdir()
        if run_dir.parent == DEFAULT_ROOT.resolve():
            run_dir.parent.rmdir()  # unless it holds other runs


def sync_names(run_dir: Path) -> None:
    """Wait until a run's directory entry and all names in it are on disk.

    Raises
    ------
    OSError
        If they could not be written.
    """
    for directory in (run_dir, *run_dir.parents[:2]):  # it and DEFAULT_ROOT may be new
        with contextlib.suppress(PermissionError):  # another user's directory: it existed before
            durable.sync_directory(directory)
