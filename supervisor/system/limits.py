"""Which limit of the machine or the shell an error comes from, and how to raise it.

It imports no compiled module: where memory is short, none could be loaded any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re

_NO_MEMORY_TO_LOAD = ("failed to map segment", "cannot allocate memory")
_THREAD = "can't start new thread"
_UNLIMITED = "any number of"


def explain(error: BaseException) -> str | None:
    """Return one line that names the limit which an error hit, and the fix; None: none did.

    Parameters
    ----------
    error : BaseException
        What the interpreter or the kernel raised.
    """
    limit = of_shell(error)
    if limit is None and isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return f"{_where(error)}no space left on the disk: free some"
        if error.errno == errno.EDQUOT:
            return f"{_where(error)}your disk quota is used up: free some space"
    return limit


def of_shell(error: BaseException) -> str | None:
    """Do the same for limits of processes only, which ``ulimit`` sets, and not for disks."""
    if isinstance(error, MemoryError):
        return _memory()
    if isinstance(error, ImportError):
        return _not_loaded(str(error))
    if isinstance(error, RuntimeError):
        return _processes() if _THREAD in str(error) else None
    match error.errno if isinstance(error, OSError) else None:
        case errno.EMFILE:
            # not from /proc: no file can be opened
            return (
                f"too many open files: this shell allows {os.sysconf('SC_OPEN_MAX')} for each "
                "process: raise it with ulimit -n 1024"
            )
        case errno.ENFILE:
            return "too many open files on this machine (fs.file-max)"
        case errno.EAGAIN:
            return _processes()
        case errno.ENOMEM:
            return _memory()
        case errno.EFBIG:
            return (
                f"file too large: this shell allows {_soft('Max file size')} bytes for each "
                "file: raise it with ulimit -f unlimited"
            )
    return None


def _where(error: OSError) -> str:
    return f"{error.filename}: " if error.filename else ""


def _not_loaded(said: str) -> str | None:
    """Tell why a library could not be mapped: the loader says the same of two causes."""
    found = re.search(r"(/[^\n]*): failed to map segment", said)
    if found:
        with contextlib.suppress(OSError):
            if os.statvfs(found[1]).f_flag & os.ST_NOEXEC:
                return (
                    f"{found[1]} lies on a file system that is mounted noexec: "
                    "install allstop on another one"
                )
    return _memory() if any(sign in said.lower() for sign in _NO_MEMORY_TO_LOAD) else None


def _memory() -> str:
    for name, option in (("Max address space", "-v"), ("Max data size", "-d")):
        size = _soft(name)
        if size.isdecimal():
            return (
                f"not enough memory: this shell allows {int(size) / 2**20:,.0f} MB for each "
                f"process: raise it with ulimit {option} unlimited"
            )
    return "not enough memory: close other programs, or give fewer --workers"


def _processes() -> str:
    return (
        f"no more processes or threads can be started: this user may have "
        f"{_soft('Max processes')}: end some, or raise the limit with ulimit -u"
    )


def _soft(name: str) -> str:
    """Return a soft limit as /proc shows it, in bytes or pieces."""
    try:
        with open("/proc/self/limits", encoding="ascii") as file:  # noqa: PTH123 - not loaded yet
            for line in file:
                if line.startswith(name):
                    size = line[len(name) :].split()[0]
                    return _UNLIMITED if size == "unlimited" else size
    except (OSError, ValueError, IndexError):
        pass
    return "too few"
