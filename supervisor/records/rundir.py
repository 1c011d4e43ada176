"""The run directory: names of its files, its creation and its removal."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from supervisor.errors import ConfigError, UntrustedError, brief
from supervisor.system import durable, limits, private, silent_disk
from supervisor.system.shape import Matching

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

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

RunId = Annotated[str, Matching(_RUN_ID)]
"""An id names files, a socket and a cgroup, and is in jobs' names and in the environment."""

_SHARD = re.compile(r"[0-9]{1,9}")


def check_run_id(run_id: object) -> str:
    """Return a run's id that was read or typed, if it is one.

    Raises
    ------
    ConfigError
        If it is not.
    """
    if isinstance(run_id, str) and _RUN_ID.fullmatch(run_id):
        return run_id
    raise ConfigError(
        f"run id {brief(run_id)} is not 1 to 64 of the characters a-z, A-Z, 0-9, '-' and '_'",
        key="run_id",
    )


def read_run_file(run_dir: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run directory of ours.

    Raises
    ------
    ConfigError
        If there is none, or it is not that of a run; as :class:`UntrustedError`, if another
        user owns or may write it, or the directory.
    """
    path = run_dir / RUN_FILE
    asked = durable.read_json(path)
    if "run_id" not in asked:
        raise ConfigError(f"{path}: not the plan of a run: run_id is missing", key="run_id")
    try:
        check_run_id(asked["run_id"])
    except ConfigError as error:
        raise ConfigError(f"{path}: not the plan of a run: {error}", key=error.key) from None
    return asked


def resolve(run_dir: Path) -> Path:
    """Return the absolute path of a directory that was named, without links.

    Raises
    ------
    UntrustedError
        If a link of another user leads there: it may lead to somewhere else at any time.
    """
    private.check_links(run_dir)
    return run_dir.resolve()


def check_own(run_dir: Path, *, with_shards: bool = True) -> None:
    """Raise unless a run directory, and what directories of a run it has, are ours.

    Those of its shards are left out without ``with_shards``: each shard checks its own.

    Code that opens files in it afterwards relies on this: only this user can have put them
    there, and what takes the place of the directory itself is refused file by file.

    Raises
    ------
    ConfigError
        If one cannot be read; as :class:`UntrustedError`, if another user owns or may write it,
        or it is a link.
    """
    try:
        _check_tree(run_dir, with_shards=with_shards)
    except UntrustedError as error:
        if error.owner is None:
            raise
        raise UntrustedError(
            f"{error}; or only look at it: allstop report --untrusted {shlex.quote(str(run_dir))}",
            path=error.path,
            owner=error.owner,
        ) from None
    except OSError as error:
        raise ConfigError(f"{error.filename or run_dir} cannot be read: {error.strerror}") from None


def _check_tree(run_dir: Path, *, with_shards: bool) -> None:
    private.check_directory(run_dir)
    for name in (JOURNAL_DIR, LOG_DIR, CHECKPOINT_DIR, BIN_DIR, SHARD_DIR):
        with contextlib.suppress(FileNotFoundError):
            private.check_directory(run_dir / name)
    for name in private.names_in(run_dir / SHARD_DIR) if with_shards else ():
        if _SHARD.fullmatch(name):
            _check_tree(run_dir / SHARD_DIR / name, with_shards=False)


def new_run_id() -> str:
    """Return a new unique id; ids sort by time."""
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(3).hex()


def create(run_dir: Path, below: tuple[str, ...] = (JOURNAL_DIR, LOG_DIR)) -> Path:
    """Create an empty run directory, private to the user, as are those above it that are made.

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
        run_dir = resolve(run_dir)
        silent_disk.wait_until_it_answers(run_dir)  # a frozen one would keep us from Ctrl+C
        if not run_dir.parent.exists():
            private.make_directories(run_dir.parent)
        _make_private(run_dir)
        check_empty(run_dir)
        for name in below:
            private.make_directory(run_dir / name)
        fd, probe = private.create_temporary(run_dir / "probe")
        os.close(fd)
        probe.unlink()
    except UntrustedError as error:
        raise UntrustedError(
            f"{error}; or name another directory with --run-dir",
            path=error.path,
            owner=error.owner,
        ) from None
    except OSError as error:
        raise ConfigError(
            limits.of_shell(error)
            or f"run directory {run_dir} cannot be written ({error.strerror}): "
            "name another one with --run-dir",
            key="run_dir",
        ) from None
    return run_dir


def _make_private(run_dir: Path) -> None:
    """Create the directory, or take the write permission of others from one of ours."""
    if run_dir.is_dir() and not (run_dir / RUN_FILE).exists():
        fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(fd)
            if private.is_mine(facts.st_uid) and facts.st_mode & 0o022:
                os.fchmod(fd, facts.st_mode & 0o7755)  # made under an umask of 002
        finally:
            os.close(fd)
    private.make_directory(run_dir)


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
    return list(journals(run_dir, ()))


def journals(run_dir: Path, run_ids: Collection[str]) -> dict[Path, tuple[str, ...]]:
    """Return the directories of a run's journals, each with the ids that its journals may have.

    Parameters
    ----------
    run_dir : Path
        The run's directory.
    run_ids : collection of str
        Its id, and those of the runs that it is a copy of.
    """
    found = {run_dir / JOURNAL_DIR: tuple(run_ids)}
    shards = run_dir / SHARD_DIR
    for name in private.names_in(shards, beside=True):
        folder = shards / name / JOURNAL_DIR
        if _SHARD.fullmatch(name) and folder.is_dir():
            found[folder] = tuple(shard_id(run_id, int(name)) for run_id in run_ids)
    return found


def shard_id(run_id: str, index: int) -> str:
    """Return the id of a shard, which is a run of its own."""
    return f"{run_id}-{index}"


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
    for mark in run_dir.glob(f"{LOCK_FILE}.*"):
        mark.unlink(missing_ok=True)
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
