"""The checksum of a results file: over all of it, kept in its own footer.

Parquet can have a checksum for each page, but none for headers and footer, where a flipped bit
renames a column or moves a page. So the file has one more, as a key of its metadata: it is
written as a placeholder, and put in when the file is complete. Readers that know nothing of it
see a key and a value.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from supervisor.errors import ConfigError, UntrustedError
from supervisor.system import private

METADATA = {"allstop.crc32": "-" * 8}
"""What a writer adds to the file's metadata."""

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # the footer's length, and the magic
_MOST_FOOTER_BYTES = 2**28
_VALUE_BYTES = 8
_MARK = b"allstop.crc32\x18" + bytes([_VALUE_BYTES])
"""How the footer spells the key: Thrift's compact protocol has a byte for the next field's type
and one for its length before the value."""
_BLOCK_BYTES = 2**20


def seal(file: BinaryIO) -> None:
    """Put the checksum into a complete file that has :data:`METADATA`; open for both ways."""
    file.flush()
    fd = file.fileno()
    at = _place(fd)
    if at is not None:
        os.pwrite(fd, _crc(fd, at), at)


def is_damaged(path: Path | str) -> bool:
    """Whether a file does not match its checksum; False where it has none, or cannot be read."""
    try:
        fd = private.open_regular(path)
    except (OSError, UntrustedError):
        return False  # its reader says what is wrong with it
    try:
        at = _place(fd)
        return at is not None and os.pread(fd, _VALUE_BYTES, at) != _crc(fd, at)
    except OSError:
        return False  # a directory, or a disk that fails: its reader says so
    finally:
        os.close(fd)


def check(path: Path | str) -> None:
    """Raise :class:`ConfigError` if a file does not match its checksum."""
    if is_damaged(path):
        raise ConfigError(
            f"{path} does not match its checksum, so it is damaged: remove it, then allstop report "
            f"{Path(path).parent} writes it again from the journals",
            key="results",
        )


def _place(fd: int) -> int | None:
    """Where the checksum's value is; None: the file has none, or is no Parquet file."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > min(size - _TAIL_BYTES, _MOST_FOOTER_BYTES):
        return None
    start = size - _TAIL_BYTES - length
    found = os.pread(fd, length, start).rfind(_MARK)
    return None if found < 0 else start + found + len(_MARK)


def _crc(fd: int, without: int) -> bytes:
    """CRC of a file without the value at an offset."""
    crc = 0
    for block in _blocks(fd, 0, without):
        crc = zlib.crc32(block, crc)
    for block in _blocks(fd, without + _VALUE_BYTES, os.fstat(fd).st_size):
        crc = zlib.crc32(block, crc)
    return b"%08x" % crc


def _blocks(fd: int, at: int, end: int) -> Iterator[bytes]:
    while at < end and (block := os.pread(fd, min(_BLOCK_BYTES, end - at), at)):
        yield block
        at += len(block)
