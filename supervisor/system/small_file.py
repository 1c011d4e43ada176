"""Reading small files that a user names: configuration, code, keys, never market data.

A name may lead to anything: a device without end, a pipe that nobody writes, a directory, a
disk image. So the kind is looked at before the file is opened, the size before it is read, and
no read waits for ever. A pipe is fine: ``allstop run <(generate-spec)``.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time

MAX_TEXT_BYTES = 4 * 2**20
"""Of a file that a person has written."""

PIPE_S = 30.0
"""How long a pipe's writer may take."""

_BLOCK_BYTES = 2**16
_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "a directory"),
    (stat.S_ISCHR, errno.EINVAL, "a device"),
    (stat.S_ISBLK, errno.EINVAL, "a device"),
    (stat.S_ISSOCK, errno.EINVAL, "a socket"),
)
_NULL = os.makedev(1, 3)
"""``/dev/null``: an empty file, as people use it."""


def read_small(
    path: str | os.PathLike[str], max_bytes: int = MAX_TEXT_BYTES, *, pipe: bool = True
) -> bytes:
    """Read a file or a pipe whole, if it is small.

    Parameters
    ----------
    path : str or path
        The file.
    max_bytes : int
        More is refused, and not read.
    pipe : bool
        Whether it may be a pipe, which can be read only once.

    Raises
    ------
    OSError
        If it cannot be read; ``strerror`` says why in words for a user. So it does where the
        kernel would not refuse: what is no file (``EINVAL``, ``EISDIR``), what is too large
        (``EOVERFLOW``), or a pipe that nothing comes out of (``ETIMEDOUT``).
    """
    check_small(path, max_bytes, pipe=pipe)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        # again: the name may lead elsewhere by now
        is_pipe = _check(path, os.fstat(fd), max_bytes, pipe=pipe)
        content = _read(fd, path, max_bytes)
    finally:
        os.close(fd)
    if is_pipe and not content:
        raise OSError(errno.EINVAL, "is a pipe, and nothing was written to it", os.fspath(path))
    return content


def read_small_text(
    path: str | os.PathLike[str], max_bytes: int = MAX_TEXT_BYTES, *, pipe: bool = True
) -> str:
    """Read a small file as text in UTF-8; as :func:`read_small`.

    Raises
    ------
    OSError
        As there.
    ValueError
        If it is not UTF-8.
    """
    text = read_small(path, max_bytes, pipe=pipe).decode("utf-8-sig")
    return text.replace("\r\n", "\n")


def check_small(
    path: str | os.PathLike[str], max_bytes: int = MAX_TEXT_BYTES, *, pipe: bool = False
) -> None:
    """Raise what :func:`read_small` would raise for a file's kind or size; nothing is opened.

    For a file that another program, or another library, reads.
    """
    _check(path, os.stat(path), max_bytes, pipe=pipe)  # noqa: PTH116 - pathlib is not loaded yet


def _check(
    path: str | os.PathLike[str], facts: os.stat_result, max_bytes: int, *, pipe: bool
) -> bool:
    """Raise what is wrong with a file by its facts; return whether it is a pipe."""
    if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == _NULL:
        return False
    for is_kind, number, name in _KINDS:
        if is_kind(facts.st_mode):
            raise OSError(number, f"is {name}, not a file", os.fspath(path))
    if stat.S_ISFIFO(facts.st_mode):
        if not pipe:
            raise OSError(errno.EINVAL, "is a pipe, not a file", os.fspath(path))
        return True
    if facts.st_size > max_bytes:
        raise _too_large(path, f" ({facts.st_size:,} bytes)", max_bytes)
    return False


def _read(fd: int, path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read to the end, which a size of 0 (``/proc``) or a growing file may hide."""
    until = time.monotonic() + PIPE_S
    content = bytearray()
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    while True:
        try:
            block = os.read(fd, _BLOCK_BYTES)
        except BlockingIOError:
            left_s = until - time.monotonic()
            if left_s <= 0 or not ready.poll(1000 * left_s):
                why = f"is a pipe whose writer took longer than {PIPE_S:g} s"
                raise OSError(errno.ETIMEDOUT, why, os.fspath(path)) from None
            continue
        if not block:
            return bytes(content)
        content += block
        if len(content) > max_bytes:
            raise _too_large(path, "", max_bytes)


def _too_large(path: str | os.PathLike[str], size: str, max_bytes: int) -> OSError:
    why = f"is too large{size}: at most {max_bytes:,} bytes"
    return OSError(errno.EOVERFLOW, why, os.fspath(path))
