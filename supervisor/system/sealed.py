"""Checksums in what is read back, so that a flipped bit is noticed and never believed.

A JSON file and a line of JSON carry theirs as the last key; other files as a header. What an
earlier version wrote has none, nor has what a person or a program has written anew in another
form: both are read as they are.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from typing import Any

KEY = "crc32"

_OF_FILE = re.compile(rb',\n  "crc32": "([0-9a-f]{8})"\n\}\n\Z')
_NEARLY_OF_FILE = re.compile(rb',\n  "[^"\n]{5}": "[0-9a-f]{8}"\n\}\n\Z')
_NEARLY_OF_LINE = re.compile(r', "[^"]{5}": "[0-9a-f]{8}"\}\Z')
"""A checksum under a key that is as long as ours: the key is damaged, too."""

_OURS = b'{\n  "'
_OF_LINE = re.compile(r', "crc32": "([0-9a-f]{8})"\}\Z')
_HEAD = struct.Struct("<8sI")
_HEAD_MAGIC = b"fs-seal1"


class DamagedError(ValueError):
    """Bytes do not match their checksum."""


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the checksum that its file has, as the last key."""
    plain = {key: value[key] for key in value if key != KEY}
    return plain | {KEY: _crc(_body(plain))} if plain else plain


def to_file(value: Any) -> bytes:
    """Return a value as the text of a JSON file; an object has a checksum."""
    if isinstance(value, dict):
        value = with_checksum(value)
    return _text(value) + b"\n"


def check_file(raw: bytes) -> bytes:
    """Return the text of a JSON file if it is as it was written.

    Raises
    ------
    DamagedError
        If it does not match its checksum.
    """
    found = _OF_FILE.search(raw)
    if found is None:
        # a file of ours whose last line is not as we write it: that line is damaged
        ours = raw.startswith(_OURS) and b'"crc32"' in raw[-64:]
        if ours or _NEARLY_OF_FILE.search(raw):
            raise DamagedError
    elif _crc(raw[: found.start()]) != found[1].decode():
        raise DamagedError
    return raw


def line(value: dict[str, Any]) -> str:
    """Return an object as a line of JSON with a checksum, without its end."""
    body = json.dumps(value, default=str)[:-1]
    return f'{body}, "{KEY}": "{_crc(body.encode())}"}}'


def is_line(text: str) -> bool:
    """Whether a line of JSON has a checksum, right or wrong."""
    return _OF_LINE.search(text) is not None


def check_line(text: str) -> str:
    """Return a line of JSON if it is as it was written.

    Raises
    ------
    DamagedError
        If it does not match its checksum.
    """
    found = _OF_LINE.search(text)
    if found is None:
        if _NEARLY_OF_LINE.search(text):
            raise DamagedError
    elif _crc(text[: found.start()].encode()) != found[1]:
        raise DamagedError
    return text


def pack(data: bytes) -> bytes:
    """Return the content of a file that keeps bytes: a checksum, then the bytes."""
    return _HEAD.pack(_HEAD_MAGIC, zlib.crc32(data)) + data


def unpack(content: bytes) -> bytes:
    """Return the bytes of a file that :func:`pack` made.

    Raises
    ------
    DamagedError
        If they do not match their checksum, or there is none.
    """
    data = content[_HEAD.size :]
    if len(content) < _HEAD.size or _HEAD.unpack_from(content) != (_HEAD_MAGIC, zlib.crc32(data)):
        raise DamagedError
    return data


def _text(value: Any) -> bytes:
    return json.dumps(value, indent=2, default=str).encode()


def _body(plain: dict[str, Any]) -> bytes:
    return _text(plain)[: -len("\n}")]


def _crc(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"
