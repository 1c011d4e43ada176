"""The process that keeps what a resume needs, and syncs a run's journals, while it runs.

``python -P -m supervisor.lifecycle.keep RUN_DIR [NAME=FD …]``: writes each descriptor's content
to that name, unless ``inputs.json`` is there already, then syncs the journals every few seconds
until its standard input is readable, or its front dead. A process of its own, for which nothing
waits without bound: a thread that waits for a disk that does not answer would keep the front
from ending. What went wrong it says in one line.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import UntrustedError
from supervisor.records import rundir
from supervisor.system import durable

_SYNC_EVERY_S = 5.0
_PIECE_BYTES = 2**20


def keep(run_dir: Path, files: dict[str, int]) -> None:
    """Write files durably, in this order; the last one says that the others are whole.

    Parameters
    ----------
    run_dir : Path
        The run's directory.
    files : dict of int
        By name, descriptors of their contents, which begin at offset 0.

    Raises
    ------
    OSError
        If one could not be written.
    """
    if not (run_dir / rundir.INPUTS_FILE).exists():
        for name, fd in files.items():
            durable.write_bytes(run_dir / name, _contents(name, fd))
    rundir.sync_names(run_dir)


def _contents(name: str, fd: int) -> Iterator[bytes]:
    if name == rundir.BARS_FILE:
        from supervisor.market.bars import file_blocks

        return file_blocks(fd)
    return _pieces(fd)


def _pieces(fd: int) -> Iterator[bytes]:
    at = 0
    while piece := os.pread(fd, _PIECE_BYTES, at):
        at += len(piece)
        yield piece


def _why(error: OSError | UntrustedError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def main() -> None:
    """Entry point of the process."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with its front
    front, run_dir = os.getppid(), Path(sys.argv[1])
    named = (word.rpartition("=") for word in sys.argv[2:])
    try:
        keep(run_dir, {name: int(fd) for name, _, fd in named})
    except (OSError, UntrustedError) as error:
        print(f"what resuming needs could not be kept: {_why(error)}", flush=True)
    journals = durable.FolderSync(run_dir / rundir.JOURNAL_DIR, ".bin")
    while not select.select([0], [], [], _SYNC_EVERY_S)[0] and os.getppid() == front:
        try:
            journals.sync()
        except (OSError, UntrustedError) as error:
            print(f"journals could not be synced to the disk: {_why(error)}", flush=True)
            break
    os._exit(0)


if __name__ == "__main__":
    main()
