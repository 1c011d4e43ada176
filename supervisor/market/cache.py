"""Checked bars of data files, kept between runs.

Reading, parsing and checking half a million bars takes longer than computing a
thousand backtests on them, and the same file is swept many times. A kept copy
is found by everything the kernel knows of the file. This includes its change time, which
no program can set: a file that was touched in any way is read again. A file that was
written a moment ago is not kept at all, for it may be written again within the same
tick of the kernel's clock. A copy that does not match its checksum is no copy: the file is read.
Nor is one that another user may have written.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from supervisor.errors import ProtocolError
from supervisor.market.asked import Asked
from supervisor.market.bars import Bars, file_blocks, load_bars
from supervisor.system import durable, private_dir

MAX_BYTES = 2 * 2**30
MAX_AGE_S = 30 * 86_400.0

_AS_NAMED = Asked()
_VERSION = 4
"""Part of every name: raise it whenever the same file would be read as other bars."""
_SETTLED_S = 2.0
_UNUSABLE = (OSError, RuntimeError, private_dir.UntrustedPlaceError)
_SUFFIX = ".bars"


class Stamp(str):
    """Identifies one state of a file; the name of its cached copy."""

    __slots__ = ()

    @classmethod
    def of(cls, path: Path, asked: Asked) -> Stamp | None:
        """Stamp of a file as it is now, read as asked; None where there is no such file."""
        try:
            facts = path.stat()
        except OSError:
            return None
        known = (
            _VERSION, str(path), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns,
            facts.st_ctime_ns, asked.columns, asked.symbol,
        )  # fmt: skip
        return cls(hashlib.blake2b(repr(known).encode(), digest_size=20).hexdigest())


def directory() -> Path:
    """``~/.cache/allstop/bars``; ``XDG_CACHE_HOME`` is honoured. Raises RuntimeError: no home."""
    return private_dir.cache_home() / "bars"


_read_from: WeakKeyDictionary[Bars, tuple[Path, Stamp, Asked]] = WeakKeyDictionary()


def load(source: Any, asked: Asked = _AS_NAMED) -> Bars:
    """Return checked bars: of a file that is as it was when they were kept, the kept ones.

    For everything else see :func:`supervisor.market.bars.load_bars`.
    """
    if not isinstance(source, str | os.PathLike):
        return load_bars(source, columns=asked.columns, symbol=asked.symbol)
    path = Path(source).expanduser().resolve()
    stamp = Stamp.of(path, asked)
    bars = _recall(stamp, os.fspath(source))
    if bars is None:
        bars = load_bars(source, columns=asked.columns, symbol=asked.symbol)
        if stamp is not None:
            _read_from[bars] = (path, stamp, asked)
    return bars


def keep(bars: Bars) -> None:
    """Keep bars that were read from a file, unless that may have changed since.

    Never raises for what is on the disk: a full one, or a directory that others can write, only
    means that they are not kept.
    """
    with suppress(*_UNUSABLE, KeyError):
        path, stamp, asked = _read_from[bars]
        settled = path.stat().st_mtime < time.time() - _SETTLED_S
        if settled and Stamp.of(path, asked) == stamp:
            private_dir.make(directory())
            durable.write_bytes(_copy_of(stamp), file_blocks(bars.memfd))
            cleanup(directory())


def _recall(stamp: Stamp | None, source: str) -> Bars | None:
    if stamp is None:
        return None
    try:
        with private_dir.opened(directory(), _copy_of(stamp).name) as fd:
            bars = Bars.from_file(fd)
            os.utime(fd)  # recently used files are kept
    except (*_UNUSABLE, ProtocolError):
        return None
    object.__setattr__(bars, "source", source)
    return bars


def _copy_of(stamp: Stamp) -> Path:
    return directory() / f"{stamp}{_SUFFIX}"


def clear(folder: Path | None = None) -> int:
    """Delete every copy; return the bytes freed."""
    with suppress(RuntimeError):
        return cleanup(folder or directory(), max_bytes=0)
    return 0


def cleanup(folder: Path, max_bytes: int = MAX_BYTES, max_age_s: float = MAX_AGE_S) -> int:
    """Delete what was not used for long, then what was used least lately beyond a size.

    Returns the bytes freed.
    """
    freed = kept = 0
    if private_dir.why_not(folder):
        return 0  # it is not where we keep anything, and may be anything
    oldest = time.time() - max_age_s
    found = []
    with suppress(FileNotFoundError):
        for path in folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    for used, size, path in sorted(found, reverse=True):
        kept += size
        if kept > max_bytes or used < oldest:
            path.unlink(missing_ok=True)
            freed += size
    return freed
