"""Directories that we trust: no other user can have written what is read from them.

Machine code, bars and pickles that were kept are believed, so they are kept only where no other
user can put anything. This is decided on what was *opened*: a directory or a file is ours (or
root's), and its group and others may not write. On the way to it no other user may put another
directory in its place.

A directory of ours that others can write is not made private and used: what is in it may have
been put there. It is left alone, the run goes on without, and ``doctor`` names it.

For what a user names, a run directory first of all, see :mod:`supervisor.system.private`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import UntrustedError

MODE = 0o700
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_LINKS = 40


class UntrustedPlaceError(UntrustedError):
    """A directory or file that another user may have written.

    Parameters
    ----------
    path : Path
        What it is.
    why : str
        What is wrong with it.
    fix : str
        What to do about it.
    """

    def __init__(self, path: Path, why: str, fix: str) -> None:
        super().__init__(f"{path} {why}: {fix}", path=str(path))
        self.why = why
        self.fix = fix


# -- where -----------------------------------------------------------------------


def home() -> Path:
    """Return the user's home directory; raises RuntimeError where there is none."""
    usual = Path.home()
    if usual.is_absolute():
        return usual
    with contextlib.suppress(KeyError):
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    raise RuntimeError("no home directory")


def named(variable: str) -> Path | None:
    """Return the directory that an environment variable names; None: none, or a relative one.

    References
    ----------
    XDG Base Directory Specification: "If an implementation encounters a relative path […] it
    should consider the path invalid and ignore it."
    """
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else None  # noqa: PTH117 - no Path of nothing


def cache_home() -> Path:
    """``~/.cache/allstop``; ``XDG_CACHE_HOME`` is honoured."""
    return (named("XDG_CACHE_HOME") or home() / ".cache") / "allstop"


def state_home() -> Path:
    """``~/.local/state/allstop``; ``XDG_STATE_HOME`` is honoured."""
    return (named("XDG_STATE_HOME") or home() / ".local" / "state") / "allstop"


# -- making ------------------------------------------------------------------------


def make_all(path: Path) -> None:
    """Make a directory and those above it that are missing, private whatever the umask is.

    Raises
    ------
    OSError
        If one cannot be made.
    """
    if not path.parent.is_dir() and path.parent != path:
        make_all(path.parent)
    try:
        path.mkdir(MODE)
    except FileExistsError:
        return
    if stat.S_IMODE(path.lstat().st_mode) != MODE:  # a umask that takes rights from the owner
        path.chmod(MODE)


def make(path: Path) -> Path:
    """Make a directory, or check that one that exists can be trusted.

    Raises
    ------
    UntrustedPlaceError
        If it cannot.
    OSError
        If it cannot be made.
    """
    with contextlib.suppress(FileNotFoundError):  # what is there is checked before it is added to
        _see_way(path)
    make_all(path)
    os.close(open_dir(path))
    return path


# -- checking ----------------------------------------------------------------------


def open_dir(path: Path) -> int:
    """Open a directory that only this user can write.

    Returns
    -------
    int
        Descriptor, which the caller closes.

    Raises
    ------
    UntrustedPlaceError
        If another user can, or can put another directory in its place.
    OSError
        If it is not there, or cannot be opened.
    """
    try:
        fd = os.open(_see_way(path), _DIRECTORY)
    except NotADirectoryError:
        raise UntrustedPlaceError(path, "is no directory, or a link", "remove it") from None
    try:
        _check(path, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def opened(directory: Path, name: str) -> Iterator[int]:
    """Open a file for reading, in a directory and with content that only this user can write.

    Raises
    ------
    UntrustedPlaceError
        If another user can.
    OSError
        If it is not there, or cannot be opened.
    """
    folder = open_dir(directory)
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _check(directory / name, os.fstat(fd), directory=False)
        yield fd
    finally:
        os.close(fd)


def read(directory: Path, name: str) -> bytes:
    """Read a file as :func:`opened` opens it."""
    with opened(directory, name) as fd, open(fd, "rb", closefd=False) as file:
        return file.read()


def is_ours(facts: os.stat_result) -> bool:
    """Whether a file is this user's, and no other user can write it."""
    return facts.st_uid == os.geteuid() and not facts.st_mode & _OTHERS_WRITE


def why_not(path: Path) -> UntrustedPlaceError | None:
    """Return why a directory cannot be trusted; None: it can, or it is not there."""
    with contextlib.suppress(OSError):
        try:
            os.close(open_dir(path))
        except UntrustedPlaceError as error:
            return error
    return None


def _check(path: Path, facts: os.stat_result, *, directory: bool = True) -> None:
    """Check what was opened; root can write everything anyway."""
    if not directory and not stat.S_ISREG(facts.st_mode):
        raise UntrustedPlaceError(path, "is no regular file", "remove it")
    if facts.st_uid not in (os.geteuid(), 0):
        raise UntrustedPlaceError(
            path, "belongs to another user", "remove it, or name another place"
        )
    if facts.st_mode & _OTHERS_WRITE:
        raise UntrustedPlaceError(
            path,
            "can be written by other users, who may have put there what it holds",
            f"remove what is in it, then chmod {'700' if directory else '600'} {path}",
        )


def _see_way(path: Path) -> Path:
    """Check that no other user can replace this directory; return its path.

    Each directory above it is ours or root's, and others cannot write it; if they can, as in
    ``/tmp``, it is sticky: then they cannot rename what is not theirs. Links on the way are
    followed where they are ours or root's, so the path that is returned has none but its last.
    """
    where = Path(os.path.abspath(path))  # noqa: PTH100 - links are followed below, one by one
    trusted = {os.geteuid(), 0, *_unmapped_owner()}
    rest, at = list(reversed(where.parts[1:-1])), Path("/")
    links = 0
    _check_component(at, at.lstat(), trusted)
    while rest:
        step = at / rest.pop()
        facts = step.lstat()
        if stat.S_ISLNK(facts.st_mode):
            links += 1
            if facts.st_uid not in trusted or links > _MOST_LINKS:
                raise UntrustedPlaceError(step, "is a link of another user", "remove it")
            target = Path(os.path.abspath(at / os.readlink(step)))  # noqa: PTH100, PTH115
            rest += reversed(target.parts[1:])
            at = Path("/")
            continue
        at = step
        _check_component(at, facts, trusted)
    return at / where.name


def _check_component(path: Path, facts: os.stat_result, trusted: set[int]) -> None:
    if facts.st_uid not in trusted:
        raise UntrustedPlaceError(path, "belongs to another user", "name another place")
    if facts.st_mode & _OTHERS_WRITE and not facts.st_mode & stat.S_ISVTX:
        raise UntrustedPlaceError(
            path,
            "can be written by other users, who can put anything below it",
            f"chmod go-w {path}",
        )


def _unmapped_owner() -> set[int]:
    """How root shows in a user namespace that knows this user alone, as a run's own does."""
    with contextlib.suppress(OSError, ValueError):
        entries = Path("/proc/self/uid_map").read_text().splitlines()
        if not any(line.split()[0] == "0" for line in entries):
            return {int(Path("/proc/sys/kernel/overflowuid").read_text())}
    return set()
