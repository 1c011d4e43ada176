"""The exclusive right to write a run's results and report."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import ClassVar, Self

from supervisor.errors import ConfigError, RunBusyError
from supervisor.records.rundir import LOCK_FILE
from supervisor.system import durable, private
from supervisor.system.process import Identity

_CLAIM_AGAIN_S = 0.02


class Claim:
    """The exclusive right to write a run's report and results.

    A process that runs, finishes or cleans up a run claims its directory first. The claim
    is a file lock, so the kernel releases it when its holder dies; on a file system without
    locks it is a file that names its holder, and one of a dead process does not count. Every
    wait for it is bounded, and workers never take it.

    Raises
    ------
    RunBusyError
        If another process, or another part of this one, holds it.
    """

    _held: ClassVar[set[int]] = set()
    """Descriptors of this process's claims: a forked child must not keep them alive."""

    def __init__(self, run_dir: Path) -> None:
        self._mark: Path | None = None
        fd = private.open_regular(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise RunBusyError(f"{run_dir} is in use by another process") from None
        except OSError:  # a file system without locks, as Lustre where it is mounted without them
            try:
                self._mark = _leave_mark(run_dir)
            except BaseException:
                os.close(fd)
                raise
        self._fd = fd
        self._held.add(fd)

    def release(self, *, silently: bool = False) -> None:
        """Release the claim; harmless when repeated.

        ``silently``: nothing is written, since the disk does not answer. Where there are no
        locks the claim then ends with this process.
        """
        fd, self._fd = self._fd, -1
        if fd in self._held:
            self._held.remove(fd)
            os.close(fd)
            if self._mark is not None and not silently:
                self._mark.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @classmethod
    def drop_all(cls) -> None:
        """In a forked child: close the descriptors of the parent's claims."""
        while cls._held:
            os.close(cls._held.pop())


os.register_at_fork(after_in_child=Claim.drop_all)


def _leave_mark(run_dir: Path) -> Path:
    """Claim a directory by a file that names this process, where the kernel keeps no locks.

    First the mark is left, then the others are looked at: of two processes that do so at once
    at least one sees the other's, and takes its own back. Marks of dead processes are removed.

    Raises
    ------
    RunBusyError
        If a process that lives, or may live on another host, has left one.
    """
    ours = run_dir / f"{LOCK_FILE}.{os.urandom(8).hex()}"
    me = Identity.of(os.getpid()) or Identity(os.getpid(), 0)
    durable.write_json(ours, me._asdict(), named=False)
    try:
        marks = [mark for mark in run_dir.glob(f"{LOCK_FILE}.*") if mark != ours]
        others = [mark for mark in marks if not _is_stale(mark)]
    except BaseException:
        ours.unlink(missing_ok=True)
        raise
    if others:
        ours.unlink(missing_ok=True)
        raise RunBusyError(
            f"{run_dir} is in use by another process, as {others[0].name} in it says: if that "
            "process is dead, remove the file"
        )
    return ours


def _is_stale(mark: Path) -> bool:
    """Whether the process that left a mark is dead; the mark is removed then."""
    try:
        owner = Identity(**durable.read_json(mark))
        dead = owner.dead
    except (ConfigError, TypeError):
        return not mark.exists()  # taken back meanwhile; one that cannot be read may be alive
    if dead:
        mark.unlink(missing_ok=True)
    return dead


def claim_directory(run_dir: Path, patience_s: float = 0.0) -> Claim:
    """Claim a run directory; wait at most ``patience_s`` for another process to finish it.

    Raises
    ------
    RunBusyError
        If it is still claimed after that.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return Claim(run_dir)
        except RunBusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_CLAIM_AGAIN_S)
