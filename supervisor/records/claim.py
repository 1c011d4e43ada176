"""The right to write what a run leaves: one process at a time has it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import ClassVar, Self

from supervisor.errors import RunBusyError
from supervisor.records.rundir import LOCK_FILE

_CLAIM_AGAIN_S = 0.02


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


def claim_directory(run_dir: Path, patience_s: float = 0.0) -> Claim:
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
