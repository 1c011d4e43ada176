"""Waiting for a disk in a way that a signal can end: the write itself is another process's.

Who writes to a frozen file system cannot be ended, by SIGKILL neither.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

TOUCH = "import os, sys; os.utime(sys.argv[1])"
"""The program of the process that writes."""


def wait_until_it_answers(directory: Path) -> None:
    """Return when the disk of a directory takes writes, or refuses them.

    As long as it does neither, Ctrl+C ends the caller as at any other time. The process that
    writes holds nothing of the caller's, and ends when the disk answers.

    Parameters
    ----------
    directory : Path
        The directory; where it does not exist, the nearest one above it counts.
    """
    while not directory.is_dir() and directory != directory.parent:
        directory = directory.parent
    with contextlib.suppress(OSError):  # no process to be had: what follows says so
        touching = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", TOUCH, directory],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        touching.wait()
