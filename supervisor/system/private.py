"""Files and directories that no other user may have written: opened without following links.

What lies in a run directory, a state directory or a cache is read back and acted upon, up to
executing it. So it is used only if it is ours: owned by this user, and not writable by the
group or by others. This is checked on the open descriptor, which cannot be exchanged. A path
given by another user may lead anywhere: a link is never followed, a FIFO or a device is never
waited for.

Where the user explicitly asks for it (:func:`reading_untrusted`), files of other users are
read as well, for showing them; nothing in them may be executed, and nothing is written there.

This is for a path that the user has named, and whose owner a message names. Caches and the
user's own state lie where nobody has looked: there the whole way is checked, and what cannot be
trusted is done without (:mod:`supervisor.system.private_dir`).

References
----------
openat(2), path_resolution(7); git-config(1), ``safe.directory``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from supervisor.errors import ConfigError, UntrustedError
from supervisor.system.ownership import check as check
from supervisor.system.ownership import check_links as check_links
from supervisor.system.ownership import is_mine as is_mine
from supervisor.system.ownership import is_reading_untrusted as is_reading_untrusted
from supervisor.system.ownership import reading_untrusted as reading_untrusted
from supervisor.system.ownership import refusal as refusal

_BLOCK_BYTES = 2**20
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def open_regular(
    path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o600, *, dir_fd: int | None = None
) -> int:
    """Open a regular file of ours; return its descriptor, which the caller closes.

    Neither the file nor the directory that it is in may be a link. The descriptor is in
    non-blocking mode, which means nothing for a regular file.

    Parameters
    ----------
    path : Path or str
        The file.
    flags : int
        As for ``os.open``; with ``O_CREAT`` the file is created if there is none.
    mode : int
        Permissions of a file that is created; the umask takes away from them.
    dir_fd : int, optional
        A directory that is already open and checked, to which ``path`` is relative.

    Raises
    ------
    OSError
        If there is no such file, or it may not be opened.
    UntrustedError
        If it is a link, no regular file, or not ours.
    """
    path = Path(path)
    if dir_fd is None:
        parent = open_directory(path.parent, to_read=_only_reads(flags))
        try:
            return _open_in(parent, path.name, path, flags, mode)
        finally:
            os.close(parent)
    return _open_in(dir_fd, str(path), path, flags, mode)


def open_directory(path: Path | str, *, dir_fd: int | None = None, to_read: bool = True) -> int:
    """Open a directory of ours; return its descriptor, which the caller closes.

    Parameters
    ----------
    path : Path or str
        The directory.
    dir_fd : int, optional
        As for :func:`open_regular`.
    to_read : bool
        Whether nothing is created in it, see :func:`check`.

    Raises
    ------
    OSError
        If there is no such directory, or it may not be opened.
    UntrustedError
        If it is a link or not ours.
    """
    return _checked(_open_unchecked(path, dir_fd), path, to_read=to_read)


def read_bytes(path: Path | str, *, limit: int | None = None, dir_fd: int | None = None) -> bytes:
    """Return the contents of a regular file of ours; see :func:`open_regular`.

    Parameters
    ----------
    path : Path or str
        The file.
    limit : int, optional
        Size, in bytes, beyond which it is refused.
    dir_fd : int, optional
        As for :func:`open_regular`.

    Raises
    ------
    OSError, UntrustedError
        As :func:`open_regular`.
    ConfigError
        If it is larger than ``limit``.
    """
    with opened(path, dir_fd=dir_fd) as file:
        if limit is None:
            return file.read()
        data = bytearray()
        # block by block: to read at most so much takes the memory for so much at once
        while os.fstat(file.fileno()).st_size <= limit and len(data) <= limit:
            block = file.read(_BLOCK_BYTES)
            if not block:
                return bytes(data)
            data += block
    raise ConfigError(f"{path}: larger than {limit:,} bytes, and not read")


def opened(path: Path | str, *, dir_fd: int | None = None) -> BinaryIO:
    """Open a regular file of ours for reading, as a binary file object.

    Raises
    ------
    OSError, UntrustedError
        As :func:`open_regular`.
    """
    return os.fdopen(open_regular(path, dir_fd=dir_fd), "rb")


@contextlib.contextmanager
def path_of(path: Path | str) -> Iterator[str]:
    """Open a regular file of ours, and lend a path by which a library can read what is open.

    Raises
    ------
    OSError, UntrustedError
        As :func:`open_regular`.
    """
    fd = open_regular(path)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def names_in(path: Path | str, *, beside: bool = False) -> list[str]:
    """Return the names in a directory of ours, sorted; none if there is no such directory.

    ``beside``: its owner was checked, see :func:`open_beside`.

    Raises
    ------
    OSError, UntrustedError
        As :func:`open_directory`, except that the directory may be missing.
    """
    try:
        fd = _open_unchecked(path) if beside else open_directory(path)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(fd))  # noqa: PTH208 - of what is open
    finally:
        os.close(fd)


def check_directory(path: Path | str) -> None:
    """Raise unless a directory is ours, and no link; see :func:`open_directory`."""
    os.close(open_directory(path))


def open_beside(path: Path | str) -> int:
    """Open a regular file for reading in a directory whose owner the caller has checked.

    Unlike :func:`open_regular`, it may belong to the directory's owner: for
    what is only looked at, in a directory that was found to be trusted, or that need not be.

    Raises
    ------
    OSError, UntrustedError
        As :func:`open_regular`.
    """
    path = Path(path)
    parent = _open_unchecked(path.parent)
    try:
        also = os.fstat(parent).st_uid
        return _open_in(parent, path.name, path, os.O_RDONLY, 0, also)
    finally:
        os.close(parent)


def make_directory(path: Path | str) -> None:
    """Create a directory that only this user can enter, whatever the umask; or check one.

    Raises
    ------
    OSError
        If it cannot be created.
    UntrustedError
        If it exists, and is a link or not ours.
    """
    made = True
    try:
        Path(path).mkdir(mode=0o700)
    except FileExistsError:
        made = False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFELY) if made else open_directory(path)
    try:
        facts = os.fstat(fd)
        if made and stat.S_IMODE(facts.st_mode) != 0o700 and is_mine(facts.st_uid):
            os.fchmod(fd, 0o700)  # an inherited ACL, a set-group-id bit, or an odd umask
            facts = os.fstat(fd)
        check(facts, path, to_read=False)
    finally:
        os.close(fd)


def make_directories(path: Path) -> None:
    """Create a directory and those above it that are missing, as :func:`make_directory` does."""
    if not path.parent.exists():
        make_directories(path.parent)
    make_directory(path)


def create_temporary(path: Path) -> tuple[int, Path]:
    """Create a file beside another one, under a name that cannot be foreseen.

    Returns
    -------
    tuple of int and Path
        Its descriptor, open for both, and its name: hidden, and with our pid as the last
        but one of its parts, by which a later process tells whether it was left behind.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.{os.getpid()}.tmp")
    return os.open(temporary, flags, 0o600), temporary


def _only_reads(flags: int) -> bool:
    return not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def _open_unchecked(path: Path | str, dir_fd: int | None = None) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFELY, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(path, dir_fd):
            raise _link(path) from None
        raise


def _open_in(parent: int, name: str, path: Path, flags: int, mode: int, also: int = -1) -> int:
    try:
        fd = os.open(name, flags | _SAFELY, mode, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(path) from None
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a FIFO without a reader, a directory
            raise refusal(path, "is not a regular file") from None
        raise
    return _checked(fd, path, to_read=_only_reads(flags), regular=True, also=also)


def _checked(
    fd: int, path: Path | str, *, to_read: bool, regular: bool = False, also: int = -1
) -> int:
    try:
        facts = os.fstat(fd)
        if regular:
            _check_regular(facts, path)
        check(facts, path, to_read=to_read, also=also)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_regular(facts: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise refusal(path, "is not a regular file")


def _is_link(path: Path | str, dir_fd: int | None) -> bool:
    return stat.S_ISLNK(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode)


def _link(path: Path | str) -> UntrustedError:
    return refusal(path, "is a link, and is not followed")
