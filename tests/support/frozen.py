"""A real file system that can be frozen: every write to it waits, and nothing ends who waits."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_TOOLS = ("mkfs.ext4", "mount", "umount", "fsfreeze")


class FrozenDisk:
    """An ext4 file system of its own on a loop device.

    Parameters
    ----------
    mount : Path
        Where it is mounted.
    """

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self._frozen = False

    def freeze(self) -> None:
        """Have every write wait from now on."""
        subprocess.run(["fsfreeze", "--freeze", self.mount], check=True)
        self._frozen = True

    def thaw(self) -> None:
        """Let the writes go on; harmless when repeated."""
        if self._frozen:
            subprocess.run(["fsfreeze", "--unfreeze", self.mount], check=True)
            self._frozen = False


@contextmanager
def frozen_disk(mount: Path, image: Path) -> Iterator[FrozenDisk]:
    """Mount a new file system; always thawed and unmounted at the end."""
    if os.getuid() != 0 or any(shutil.which(tool) is None for tool in _TOOLS):
        pytest.skip("freezing a file system needs root, mkfs.ext4 and fsfreeze")
    image.touch()
    os.truncate(image, 64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    disk = FrozenDisk(mount)
    try:
        yield disk
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            disk.thaw()
        # lazily: it goes when the last process that uses it does
        subprocess.run(["umount", "--lazy", mount], check=True)
        image.unlink()
