"""The bytes of a data file, unpacked, in bounded memory and time.

A file may be a pipe or a device that never ends, and a few kilobytes may unpack to more
than there is: nothing is read that memory does not allow.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from supervisor.errors import DataError
from supervisor.market.columns import shown
from supervisor.system.memory import available_bytes

TEXT = (".csv", ".txt", ".tsv")
PARQUET = (".parquet", ".pq")
FEATHER = (".feather", ".arrow", ".ipc")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
SUFFIXES = ".csv, .csv.gz, .parquet, .feather, .txt, .tsv (text also as .bz2, .xz, .zst, .zip)"

_PIECE_BYTES = 2**20
_SHARE = 6
"""A sixth of memory: columns, their copies and the bars take several times a short line's bytes."""
_XZ_BYTES = 2**28
"""Memory that an .xz file may ask for to be unpacked."""


def check_file(path: Path) -> str:
    """Make sure that this is a file of a known kind; return its suffix without that of packing.

    Raises
    ------
    DataError
        If it is not.
    """
    source = str(path)
    if path.is_dir():
        raise DataError(f"is a directory: name a file ({SUFFIXES}) in it", path=source)
    if not path.exists():
        raise DataError("no such file", path=source)
    if not path.is_file():
        raise DataError(
            "is not a regular file but a pipe or a device: save it as a file", path=source
        )
    kind = suffix(path.name)
    if not kind:
        raise DataError(
            f"the suffix {shown(path.suffix)} says nothing of its format: use one of {SUFFIXES}",
            path=source,
        )
    if path.stat().st_size == 0:
        raise DataError("is empty", path=source)
    return kind


def suffix(name: str) -> str:
    """Return a known suffix of a data file, without that of packing; empty for another one."""
    kind = PurePosixPath(name.lower()).suffix
    if kind in PACKED:
        inner = PurePosixPath(name.lower()).stem
        if kind == ".zip":
            return ".zip"
        return suffix(inner) if PurePosixPath(inner).suffix in (*TEXT, *PARQUET) else ".csv"
    return kind if kind in (*TEXT, *PARQUET, *FEATHER) else ""


def byte_limit() -> int:
    """Bytes of a file's content that memory allows."""
    return max(available_bytes() // _SHARE, 2**24)


def read_file(path: Path) -> tuple[bytes, str]:
    """Read a file whole, unpacked if need be; return its bytes and its suffix.

    Raises
    ------
    DataError
        If it is damaged, or larger than memory allows.
    OSError
        If it cannot be read.
    """
    source = str(path)
    limit = byte_limit()
    with _opened(path) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise DataError("is not a regular file", path=source)
        packing = PurePosixPath(path.name.lower()).suffix
        if packing == ".zip":
            return _unzip(file, source, limit)
        if packing not in _UNPACK:
            if facts.st_size > limit:
                raise _too_large(source, limit, "holds")
            return file.read(facts.st_size), suffix(path.name)
        what, opened = _UNPACK[packing]
        try:
            return _bounded(opened(file), source, limit, "unpacks to"), suffix(path.name)
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            raise DataError(f"is not a whole {what} file: fetch it again", path=source) from None


def _opened(path: Path) -> IO[bytes]:
    # a pipe may have taken the file's place since it was looked at: opening must not wait
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return open(fd, "rb")  # noqa: PTH123


def _open_zst(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


def _open_xz(file: IO[bytes]) -> Any:
    return _Xz(file)


_UNPACK: dict[str, tuple[str, Callable[[IO[bytes]], Any]]] = {
    ".gz": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    ".bz2": ("bzip2", bz2.BZ2File),
    ".xz": ("xz", _open_xz),
    ".zst": ("zstd", _open_zst),
}


class _Xz:
    """Unpacks xz without giving it more memory than :data:`_XZ_BYTES`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._made: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        if self._made is not None and self._made.eof:  # files may follow one another
            rest = self._made.unused_data or self._file.read(_PIECE_BYTES)
            if not rest.strip(b"\0"):
                return b""
            self._made = lzma.LZMADecompressor(memlimit=_XZ_BYTES)
            return self._made.decompress(rest, size) or self.read(size)
        if self._made is None:
            self._made = lzma.LZMADecompressor(memlimit=_XZ_BYTES)
        while not self._made.eof:
            more = self._file.read(_PIECE_BYTES) if self._made.needs_input else b""
            if self._made.needs_input and not more:
                raise EOFError
            if found := self._made.decompress(more, size):
                return found
        return self.read(size)


def _bounded(file: Any, source: str, limit: int, holds: str) -> bytes:
    """Read until the end, or until it is more than memory allows."""
    pieces = io.BytesIO()
    while piece := file.read(_PIECE_BYTES):
        pieces.write(piece)
        if pieces.tell() > limit:
            raise _too_large(source, limit, holds)
    return pieces.getvalue()


def _too_large(source: str, limit: int, holds: str) -> DataError:
    return DataError(
        f"{holds} more than {limit >> 20:,} MiB, a sixth of the memory that is free: give a part "
        "of it, or only the columns that are needed, as Parquet",
        path=source,
    )


def _unzip(file: IO[bytes], source: str, limit: int) -> tuple[bytes, str]:
    try:
        with zipfile.ZipFile(file) as archive:
            name = _only_file(archive.namelist(), source)
            with archive.open(name) as member:
                return _bounded(member, source, limit, "unpacks to"), suffix(name)
    except RuntimeError as error:  # encrypted
        raise DataError(f"cannot be unpacked: {error}", path=source) from None
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, lzma.LZMAError):
        raise DataError("is not a whole zip file: fetch it again", path=source) from None


def _only_file(names: list[str], source: str) -> str:
    """Return the one data file in an archive; a text beside a .csv only describes it."""
    found = [
        name for name in names
        if suffix(name) not in ("", ".zip") and not name.startswith("__MACOSX/")
        and not PurePosixPath(name).name.startswith(".")
    ]  # fmt: skip
    spread = [name for name in found if suffix(name) != ".txt"] or found
    if len(spread) == 1:
        return spread[0]
    if not spread:
        listed = ", ".join(shown(name) for name in names[:5]) or "nothing"
        raise DataError(f"holds no data file, but {listed}", path=source)
    listed = ", ".join(shown(name) for name in spread[:5]) + (", …" if len(spread) > 5 else "")
    raise DataError(
        f"holds {len(spread)} data files, {listed}: unpack it and name one of them", path=source
    )
