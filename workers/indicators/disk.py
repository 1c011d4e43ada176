"""Indicator rows on disk, for repeated sweeps of the same bars.

Off by default: on a fast machine computing a row takes as long as reading it.
A file is written whole under another name and then renamed, so none is ever
seen half-written; a damaged file is ignored and replaced.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from supervisor.system import private_dir

VERSION = 1
"""Part of every key: raise it whenever an indicator's bytes change."""

MAX_AGE_S = 30 * 86_400.0

_SUFFIX = ".row"


class Priced(Protocol):
    """Bars as far as indicators depend on them."""

    @property
    def high(self) -> NDArray[np.float64]: ...
    @property
    def low(self) -> NDArray[np.float64]: ...
    @property
    def close(self) -> NDArray[np.float64]: ...


def default_directory() -> Path:
    """``~/.cache/allstop/indicators``; ``XDG_CACHE_HOME`` is honoured."""
    return private_dir.cache_home() / "indicators"


def digest_of(bars: Priced) -> str:
    """Name for these prices: equal for equal bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for column in (bars.high, bars.low, bars.close):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


class DiskCache:
    """Rows of one set of bars in a directory that many runs may share.

    Parameters
    ----------
    directory : Path
        Created on first use, private to the user; not used where others can write it.
    digest : str
        Which bars the rows belong to, see :func:`digest_of`.
    """

    def __init__(self, directory: Path, digest: str) -> None:
        self._directory = directory
        self._digest = digest

    def load(self, name: str, row: NDArray[Any]) -> bool:
        """Read a row if there is a sound one; never raises for what is on the disk."""
        try:
            data = private_dir.read(self._directory, self._path(name).name)
        except (OSError, private_dir.UntrustedPlaceError):
            return False
        body, crc = data[:-4], data[-4:]
        if len(body) != row.nbytes or zlib.crc32(body).to_bytes(4, "little") != crc:
            return False
        row[:] = np.frombuffer(body, row.dtype)
        return True

    def store(self, name: str, row: NDArray[Any]) -> None:
        """Write a row; a disk that is full, or others can write, only means that it is not kept."""
        body = row.tobytes()
        with suppress(OSError, private_dir.UntrustedPlaceError):
            private_dir.make(self._directory)
            import tempfile

            fd, temporary = tempfile.mkstemp(dir=self._directory, suffix=".part")
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(body + zlib.crc32(body).to_bytes(4, "little"))
                Path(temporary).replace(self._path(name))
            except OSError:
                Path(temporary).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{self._digest}-v{VERSION}-{name}{_SUFFIX}"


def clear(directory: Path) -> int:
    """Delete every row; returns the bytes freed."""
    return _delete(directory, written_before=float("inf"))


def cleanup_expired(directory: Path, max_age_s: float = MAX_AGE_S) -> int:
    """Delete rows written more than `max_age_s` ago; returns the bytes freed."""
    return _delete(directory, written_before=time.time() - max_age_s)


def _delete(directory: Path, written_before: float) -> int:
    """Delete our own files only; another process deleting them at the same time is no error."""
    freed = 0
    if private_dir.why_not(directory):
        return 0
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.suffix not in (_SUFFIX, ".part"):
                continue
            with suppress(FileNotFoundError):
                status = path.stat()
                if status.st_mtime < written_before:
                    path.unlink()
                    freed += status.st_size
    return freed
