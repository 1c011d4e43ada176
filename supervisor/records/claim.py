"""The exclusive right to write a run's results and report."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import ClassVar, Self

from supervisor.errors import RunBusyError
from supervisor.records.rundir import LOCK_FILE
from supervisor.system import private

_CLAIM_AGAIN_S = 0.02


class Claim:
    """The exclusive right to write a run's report and results.

    A process that runs, finishes or cleans up a run claims its directory first. The claim
    is a file lock, so the kernel releases it when its holder dies. Every wait for it is
    bounded, and workers never take it.

    Raises
    ------
    RunBusyError
        If another process, or another part of this one, holds it.
    """

    _held: ClassVar[set[int]] = set()
    """Descriptors of this process's claims: a forked child must not keep them alive."""

    def __init__(self, run_dir: Path) -> None:
        fd = private.open_regular(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise RunBusyError(f"{run_dir} is in use by another process") from None
        except OSError:
            pass  # a file system without locks: only the registry shows which process is at work
        self._fd = fd
        self._held.add(fd)

    def release(self) -> None:
        """Release the claim; harmless when repeated."""
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
        """In a forked child: close the descriptors of the parent's claims."""
        while cls._held:
            os.close(cls._held.pop())


os.register_at_fork(after_in_child=Claim.drop_all)


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
