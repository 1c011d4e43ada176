"""Durable writes: small files that are written whole and synced to disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from supervisor.errors import ConfigError
from supervisor.system import private, sealed
from supervisor.system.shape import ShapeError, read_as
from supervisor.system.small_file import read_small

T = TypeVar("T")

MOST_BYTES = 2**29
"""Longest JSON file that is read: twice what the values of the longest axis of a grid take."""


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on disk, where a power loss keeps them."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FolderSync:
    """Syncs the files of a directory that have grown since the last call.

    Parameters
    ----------
    folder : Path
        The directory; it may be missing.
    suffix : str
        How the names of the files end that matter.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self._folder = folder
        self._suffix = suffix
        self._synced: dict[str, int] = {}

    def sync(self) -> None:
        """Wait until everything that was appended before the call is on the disk.

        Raises
        ------
        OSError
            If the disk does not take it.
        UntrustedError
            If the directory or a file in it is a link, or not ours.
        """
        names = [name for name in private.names_in(self._folder) if name.endswith(self._suffix)]
        new = set(names) - self._synced.keys()
        for name in names:
            fd = private.open_regular(self._folder / name)
            try:
                size = os.fstat(fd).st_size
                if self._synced.get(name) != size:
                    os.fdatasync(fd)
                    self._synced[name] = size
            finally:
                os.close(fd)
        if new:
            sync_directory(self._folder)


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
    fd, temporary = private.create_temporary(path)
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
    """Return a value as the text of a JSON file; an object carries its checksum."""
    return sealed.to_file(value)


def read_json(path: Path, *, shared: bool = False) -> dict[str, Any]:
    """Read a JSON object, without the checksum that it may have.

    Parameters
    ----------
    path : Path
        The file.
    shared : bool
        Other users may write it; nothing in it decides what is executed or removed.

    Raises
    ------
    ConfigError
        If the file is missing, does not match its checksum or is not a JSON object; as
        :class:`UntrustedError`, if it is not ``shared``, and another user owns or may write it,
        or its directory.
    """
    try:
        if shared:
            raw = read_small(path, MOST_BYTES, pipe=False)
        else:
            raw = private.read_bytes(path, limit=MOST_BYTES)
        value = loads(sealed.check_file(raw).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except sealed.DamagedError:
        raise ConfigError(
            f"{path}: does not match its checksum: it is damaged, or was edited; put a copy of it "
            f'back, or remove the line "{sealed.KEY}" if it was edited on purpose'
        ) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not a JSON file") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    value.pop(sealed.KEY, None)
    return value


def read_record(path: Path, kind: type[T], what: str = "as allstop writes it") -> T:
    """Read a JSON object as a record, see :func:`supervisor.system.shape.read_as`.

    ``what`` describes the record, for the message.

    Raises
    ------
    ConfigError
        If the file is missing, or does not hold such a record; names the file and the field.
    """
    try:
        return read_as(kind, read_json(path))
    except ShapeError as error:
        raise ConfigError(f"{path}: not {what}: {error}") from None


def loads(text: str | bytes) -> Any:
    """Parse JSON as the standard has it, where Python also takes NaN and reads 1e400 as infinite.

    Raises
    ------
    ValueError
        If it is not JSON, or has a number that no float holds.
    RecursionError
        If it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is too large")
    return value
