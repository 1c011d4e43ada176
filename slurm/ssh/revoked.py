"""Reads a file of ``RevokedHostKeys`` as OpenSSH does: a list of keys, or a revocation list.

References
----------
ssh_config(5), RevokedHostKeys; ssh-keygen(1), KEY REVOCATION LISTS; OpenSSH's PROTOCOL.krl.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path

_MAGIC = b"SSHKRL\n\0"
_HEAD = struct.Struct(">8sIQQQ")
_LENGTH = struct.Struct(">I")
_LARGEST_BYTES = 2**26


class _Section(IntEnum):
    CERTIFICATES = 1
    KEY = 2
    SHA1 = 3
    SIGNATURE = 4
    SHA256 = 5
    EXTENSION = 255


_DIGEST: dict[_Section, Callable[[bytes], bytes]] = {
    _Section.KEY: bytes,
    _Section.SHA1: lambda blob: hashlib.sha1(blob, usedforsecurity=False).digest(),
    _Section.SHA256: lambda blob: hashlib.sha256(blob).digest(),
}


def is_revoked(file: Path, blob: bytes) -> bool:
    """Whether a file revokes a host key.

    Parameters
    ----------
    file : Path
        Public keys, one a line, or a revocation list of ``ssh-keygen -k``.
    blob : bytes
        The public key.

    Raises
    ------
    OSError
        If it cannot be read: OpenSSH trusts no key then.
    ValueError
        If it is neither, or has what is not understood: the same holds.
    """
    if not file.is_file():  # a FIFO would be waited for
        file.stat()
        raise ValueError("is not a file")
    with file.open("rb") as opened:
        data = opened.read(_LARGEST_BYTES + 1)
    if len(data) > _LARGEST_BYTES:
        raise ValueError("is too large")
    if data.startswith(_MAGIC):
        return any(_DIGEST[kind](blob) == entry for kind, entry in _entries(data))
    return any(key == blob for key in _keys(data))


def _keys(data: bytes) -> Iterator[bytes]:
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            yield base64.b64decode(words[1], validate=True)
        except (IndexError, binascii.Error):
            raise ValueError(f"line {number} is not a public key") from None


def _entries(data: bytes) -> Iterator[tuple[_Section, bytes]]:
    """Yield the keys, or digests of keys, of a revocation list."""
    try:
        version = _HEAD.unpack_from(data)[1]
    except struct.error:
        raise ValueError("is cut short") from None
    if version != 1:
        raise ValueError(f"is a revocation list of version {version}, which is not known")
    rest = data[_HEAD.size :]
    for _ in ("reserved", "comment"):
        _, rest = _string(rest)
    while rest:
        kind, (content, rest) = rest[0], _string(rest[1:])
        if kind == _Section.SIGNATURE:  # OpenSSH does not check them any more
            _, rest = _string(rest)
        elif kind in (_Section.CERTIFICATES, _Section.EXTENSION):
            _check_extension(kind, content)  # certificates of hosts are not accepted anyway
        elif kind in _DIGEST:
            while content:
                entry, content = _string(content)
                yield _Section(kind), entry
        else:
            raise ValueError(f"has a section {kind}, which is not known")


def _check_extension(kind: int, content: bytes) -> None:
    if kind == _Section.EXTENSION:
        _, rest = _string(content)
        if rest[:1] != b"\0":
            raise ValueError("has a critical extension, which is not known")


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Split off a string with its length before it."""
    if len(data) < _LENGTH.size:
        raise ValueError("is cut short")
    end = _LENGTH.size + int(_LENGTH.unpack_from(data)[0])
    if len(data) < end:
        raise ValueError("is cut short")
    return data[_LENGTH.size : end], data[end:]
