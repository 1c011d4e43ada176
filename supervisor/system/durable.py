"""Durable writes: small files that are written whole and synced to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError
from supervisor.system.small_file import read_small_text

_MAX_JSON_BYTES = 512 * 2**20
"""The values of a large grid are in ``run.json``."""


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on disk, where a power loss keeps them."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, parts: Iterable[bytes], *, named: bool = True) -> None:
    """Write a file whole or not at all; the bytes are on disk before the name is.

    Parameters
    ----------
    path : Path
        The file.
    parts : iterable of bytes
        Its contents.
    named : bool
        Wait until the name is on disk too. If not, a power loss may leave the old file: for
        files that a process waits for, whose directory is synced later by its caller.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        if named:
            sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, named: bool = True) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half of it.

    The bytes are on disk before the name is: after a power loss the name never
    leads to an empty file. ``named``: see :func:`write_bytes`.
    """
    write_bytes(path, [as_json(value)], named=named)


def as_json(value: Any) -> bytes:
    """Return a value as the text of a JSON file."""
    return json.dumps(value, indent=2, default=str).encode() + b"\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ConfigError
        If the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(read_small_text(path, _MAX_JSON_BYTES, pipe=False))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not a JSON file") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value
