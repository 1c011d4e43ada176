"""Whose a file or directory is, and whether another user may write it.

References
----------
git-config(1), ``safe.directory``; ssh_config(5), which takes no file that others may write.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import UntrustedError

_OTHERS_MAY_WRITE = 0o022

_untrusted: list[bool] = []
"""The user's wishes to read what is not ours, one for each :func:`reading_untrusted` entered."""


@contextlib.contextmanager
def reading_untrusted(asked: bool = True) -> Iterator[None]:
    """Let this process read, and only read, what other users own or may write.

    Parameters
    ----------
    asked : bool
        Whether the user has asked for it; otherwise this does nothing.
    """
    _untrusted.append(asked)
    try:
        yield
    finally:
        _untrusted.pop()


def is_reading_untrusted() -> bool:
    """Whether :func:`reading_untrusted` is in force: then nothing may be executed or written."""
    return any(_untrusted)


def is_mine(uid: int) -> bool:
    """Whether a user id is ours: this user's or, for root, that of the user who called sudo."""
    me = os.geteuid()
    return uid == me or (me == 0 and str(uid) == os.environ.get("SUDO_UID"))


def check(facts: os.stat_result, path: Path | str, *, to_read: bool = True, also: int = -1) -> None:
    """Raise :class:`UntrustedError` if another user owns a file or directory, or may write it.

    Parameters
    ----------
    facts : os.stat_result
        What ``fstat`` says of it.
    path : Path or str
        Its name, for the message.
    to_read : bool
        Whether it will only be read: then :func:`reading_untrusted` allows it, unless it is a
        file with a second name, which may be that of a private file of ours.
    also : int
        The id of another user who may own it.
    """
    if to_read and is_reading_untrusted():
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
            raise refusal(path, "has several names (hard links), and is not read")
        return
    if not (is_mine(facts.st_uid) or facts.st_uid == also):
        raise refusal(
            path,
            f"belongs to {_name_of(facts.st_uid)}, not to you ({_name_of(os.geteuid())})",
            fix="let its owner do this",
            owner=facts.st_uid,
        )
    if stat.S_IMODE(facts.st_mode) & _OTHERS_MAY_WRITE:
        raise refusal(
            path,
            f"may be written by other users (mode {stat.S_IMODE(facts.st_mode):04o})",
            fix="if no other user has changed it: chmod -R go-w on it",
            owner=facts.st_uid,
        )


def refusal(
    path: Path | str,
    what: str,
    *,
    fix: str = "remove it if you did not put it there",
    owner: int | None = None,
) -> UntrustedError:
    """Return the error that says what is wrong with a file or directory, and how to fix it."""
    return UntrustedError(f"{path} {what}: {fix}", path=str(path), owner=owner)


def check_links(path: Path) -> None:
    """Raise :class:`UntrustedError` if a link of another user leads to a path that was named."""
    path = path.absolute()
    for step in (path, *path.parents):
        with contextlib.suppress(OSError):
            facts = step.lstat()
            if stat.S_ISLNK(facts.st_mode) and facts.st_uid != 0 and not is_mine(facts.st_uid):
                raise refusal(
                    step,
                    f"is a link that belongs to {_name_of(facts.st_uid)}",
                    fix="name the directory that you mean",
                    owner=facts.st_uid,
                )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
