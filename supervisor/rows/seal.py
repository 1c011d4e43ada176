"""The checksum of a results file, where no reader of Parquet looks: between rows and footer.

A page that was compressed has no checksum that its readers check, and the footer has none at
all: one flipped bit may be another number, or another column. So the CRC of all other bytes is
put before the footer, which is found from the end of the file. The file stays an ordinary one
for every other program.

::

    PAR1, row groups, magic, CRC, footer, footer's length, PAR1
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from supervisor.errors import ConfigError

_SEAL = struct.Struct("<12sI")
_MAGIC = b"allstop-crc\0"
MARK = b"allstop.sealed"
"""Key in the footer's metadata of a file that has a checksum."""

_TAIL = struct.Struct("<I4s")
_PARQUET = b"PAR1"
_READ_BYTES = 2**20


def seal(file: BinaryIO) -> None:
    """Add the checksum to a Parquet file that was just written, and is open for both."""
    size = file.seek(0, os.SEEK_END)
    start = _footer_at(file, size)
    if start is None:
        return
    file.seek(start)
    footer = file.read()
    crc = zlib.crc32(footer, _crc(file, start))
    file.seek(start)
    file.write(_SEAL.pack(_MAGIC, crc) + footer)


def check(path: Path | str) -> None:
    """Check a results file against its checksum; one of before there was any is taken as it is.

    Raises
    ------
    ConfigError
        If it is damaged, or cannot be read; names what to do.
    """
    try:
        with Path(path).open("rb") as file:
            sound = _is_sound(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if not sound:
        raise ConfigError(
            f"{path} cannot be read: it is damaged and does not match its checksum; remove it, "
            "and allstop report writes it again from the journals"
        )


def _is_sound(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    start = _footer_at(file, size)
    if start is None:
        return False
    at = start - _SEAL.size
    if at < 0:
        return True
    file.seek(at)
    magic, crc = _SEAL.unpack(file.read(_SEAL.size))
    footer = file.read()
    if magic != _MAGIC:
        return MARK not in footer
    return bool(zlib.crc32(footer, _crc(file, at)) == crc)


def _footer_at(file: BinaryIO, size: int) -> int | None:
    """Where the footer begins; None: it is no Parquet file."""
    if size < _TAIL.size + len(_PARQUET):
        return None
    file.seek(size - _TAIL.size)
    length, magic = _TAIL.unpack(file.read(_TAIL.size))
    start = size - _TAIL.size - length
    return int(start) if magic == _PARQUET and start >= len(_PARQUET) else None


def _crc(file: BinaryIO, size: int) -> int:
    """The CRC of the first bytes of a file."""
    file.seek(0)
    crc, left = 0, size
    while left and (part := file.read(min(left, _READ_BYTES))):
        crc = zlib.crc32(part, crc)
        left -= len(part)
    return crc
