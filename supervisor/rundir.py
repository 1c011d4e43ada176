"""The run directory: what lies where, and how small files are written whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from supervisor.errors import ConfigError, RunBusyError

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
"""Parts of a sweep that were computed elsewhere: each a run directory of its own."""
LOG_DIR = "logs"
CHECKPOINT_DIR = "checkpoints"
BIN_DIR = "bin"
DEFAULT_ROOT = Path("runs")

_CLAIM_AGAIN_S = 0.02


def new_run_id() -> str:
    """Make an id that sorts by time and that no two runs share."""
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(3).hex()


def create(run_dir: Path, below: tuple[str, ...] = (JOURNAL_DIR, LOG_DIR)) -> Path:
    """Make an empty run directory, private to the user.

    Parameters
    ----------
    run_dir : Path
        The directory.
    below : tuple of str
        Directories to make in it.

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
        check_empty(run_dir)
        for name in below:
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


def check_empty(run_dir: Path) -> None:
    """Raise :class:`ConfigError` if a directory holds a run."""
    if (run_dir / RUN_FILE).exists():
        raise ConfigError(
            f"run directory {run_dir} holds a run already: carry it on with --resume, name "
            "another one, or leave --run-dir out",
            key="run_dir",
        )


def journal_dirs(run_dir: Path) -> list[Path]:
    """Directories that hold a run's journals: its own, then those of its shards."""
    shards = sorted((run_dir / SHARD_DIR).glob(f"[0-9]*/{JOURNAL_DIR}"))
    return [run_dir / JOURNAL_DIR, *shards]


def discard(run_dir: Path) -> None:
    """Remove a run that never began, and the directory if nothing else is in it.

    Only what this package writes is removed: the directory may be the user's.
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


class Claim:
    """The right to write a run's report and results: one process at a time has it.

    Whoever carries a run out, finishes or clears away a dead one claims its
    directory first. It is a file lock, so the kernel takes the claim back when
    its holder dies; nobody ever waits for it without a limit, and no worker
    knows of it.

    Raises
    ------
    RunBusyError
        If another process (or another part of this one) has it.
    """

    _held: ClassVar[set[int]] = set()
    """Descriptors of this process's claims: a forked copy must not keep them alive."""

    def __init__(self, run_dir: Path) -> None:
        fd = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise RunBusyError(f"{run_dir} is in use by another process") from None
        except OSError:
            pass  # a file system without locks: the registry alone tells who is at work
        self._fd = fd
        self._held.add(fd)

    def release(self) -> None:
        """Give the claim up; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd in self._held:
            self._held.remove(fd)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @classmethod
    def drop_all(cls) -> None:
        """In a forked copy of the holder: the claims are the original's."""
        while cls._held:
            os.close(cls._held.pop())


os.register_at_fork(after_in_child=Claim.drop_all)


def claim(run_dir: Path, patience_s: float = 0.0) -> Claim:
    """Claim a run directory; wait at most ``patience_s`` for whoever is finishing it.

    Raises
    ------
    RunBusyError
        If it is still claimed then.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return Claim(run_dir)
        except RunBusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_CLAIM_AGAIN_S)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk: a power loss keeps them then."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_names(run_dir: Path) -> None:
    """Wait until a run's directory, all names in it and its own are on the disk.

    Raises
    ------
    OSError
        If they could not be written.
    """
    for directory in (run_dir, *run_dir.parents[:2]):  # it and DEFAULT_ROOT may be new
        with contextlib.suppress(PermissionError):  # somebody else's: it was there before
            sync_directory(directory)


def write_bytes(path: Path, parts: Iterable[bytes], *, named: bool = True) -> None:
    """Write a file whole or not at all; the bytes are on disk before the name is.

    Parameters
    ----------
    path : Path
        The file.
    parts : iterable of bytes
        What is in it.
    named : bool
        Wait until the name is on disk too. Without, a power loss may leave the old file:
        for what somebody waits for, and whose directory is synced by somebody else.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        if named:
            sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, named: bool = True) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half of it.

    The bytes are on disk before the name is: after a power loss the name never
    leads to an empty file. ``named``: see :func:`write_bytes`.
    """
    write_bytes(path, [as_json(value)], named=named)


def as_json(value: Any) -> bytes:
    """Return a value as the text of a JSON file."""
    return json.dumps(value, indent=2, default=str).encode() + b"\n"


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
