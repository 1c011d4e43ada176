"""A results file is replaced whole: written beside the old one, sealed, then renamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from supervisor.errors import UntrustedError
from supervisor.rows import checksum
from supervisor.system import private
from supervisor.system.durable import sync_directory


@contextmanager
def replacing(path: Path, before: Callable[[], None]) -> Iterator[BinaryIO]:
    """Write beside a file and put the new one in its place when it is on the disk."""
    _remove_partial(path)
    fd, unfinished = private.create_temporary(path)
    try:
        with os.fdopen(fd, "w+b") as file:
            # the lock says that its writer is alive; the kernel releases it when the writer dies
            with suppress(OSError):  # without locks only the claim on the directory says so
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            checksum.seal(file)
            os.fsync(file.fileno())
            before()
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    sync_directory(path.parent)


def _remove_partial(path: Path) -> None:
    """Remove what a killed compaction left behind, and nothing that is being written."""
    names = (f".{path.name}.*.tmp", f".{path.name}.*.partial")  # the latter of earlier versions
    for left in [left for name in names for left in path.parent.glob(name)]:
        with suppress(OSError, UntrustedError), private.opened(left) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:
                pass  # without locks: whoever compacts has claimed the directory
            left.unlink()
