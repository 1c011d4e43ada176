"""Which directory a run lives in, by which a copy of it is recognised.

``cp -a`` copies the run's id too. Two directories of one id would share a registry entry, a
control socket, cookies by which processes are found, and tokens of cluster jobs: resumed at once,
one would end the other's. So ``run.json`` says where its directory was when it was written. In a
copy this is not true, and what is resumed there is a run of its own, which has the rows of the
first one.

A directory that was moved on its file system is no copy, nor is one that another host sees under
the same path. One that was moved to another file system cannot be told from a copy.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

HOME_KEY = "home"
"""The key of ``run.json``."""


class Home(NamedTuple):
    """A directory.

    Attributes
    ----------
    path : str
        Its absolute path.
    device, inode : int
        Its file system, a number that is the same on this host until it is booted, and its
        number there.
    """

    path: str
    device: int
    inode: int


def home_of(run_dir: Path) -> dict[str, Any]:
    """Return what ``run.json`` says of the directory that it is in."""
    facts = run_dir.stat()
    return {HOME_KEY: Home(str(run_dir.resolve()), facts.st_dev, facts.st_ino)._asdict()}


def original_of(run_dir: Path, asked: dict[str, Any]) -> str:
    """Return the path of the directory that this one is a copy of; empty: it is none.

    Parameters
    ----------
    run_dir : Path
        The directory.
    asked : dict
        Its ``run.json``. One of before directories were written down is taken for no copy.
    """
    with contextlib.suppress(KeyError, TypeError, OSError):
        then, now = Home(**asked[HOME_KEY]), Home(**home_of(run_dir)[HOME_KEY])
        same = then.inode == now.inode and (then.device == now.device or then.path == now.path)
        return "" if same else str(then.path)
    return ""
