r"""The ledger: what a run holds outside this machine, recorded before it is requested.

One append-only file per run. Each record is on disk (``fsync``) before the call
that it announces is made: whichever process dies in between, another one knows what
to look for. Records are lines, each with a checksum of its own::

    \nallstop-ledger-1 1c291ca3 {"kind": "submit_intended", "at": 1709164800.5, …}\n

A line that was only half written (power loss, full disk) is skipped: the next record
begins a line of its own. Several processes may append to one
ledger; each record is one ``write`` in append mode, so none needs a lock.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple, Self

from supervisor.errors import AllstopError
from supervisor.records.scribe_line import ScribeLine
from supervisor.system import durable

_NAME = b"allstop-ledger-"
_VERSION = b"1"


class LedgerError(AllstopError):
    """A ledger was written by a later version than this one."""


class LedgerWriteError(AllstopError):
    """A ledger cannot be written: the call that it was to announce must not be made.

    Parameters
    ----------
    path : Path
        The ledger.
    error : OSError
        Why.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path} cannot be written ({error.strerror}): free disk space, or set "
            "XDG_STATE_HOME to a directory that you own"
        )
        self.path = str(path)
        self.errno = error.errno


class Record(NamedTuple):
    """One line of a ledger.

    Attributes
    ----------
    kind : str
        What happened, or is about to happen.
    at : float
        Unix time, in s.
    fields : dict
        Details.
    """

    kind: str
    at: float
    fields: dict[str, Any]


_PATIENCE_S = 1.0


class Ledger:
    """Appends records to a ledger; creates the file if it does not exist.

    Parameters
    ----------
    path : Path
        The file.

    scribe : ScribeLine, optional
        Writes what :meth:`note` is given, so that it does not wait for a disk that is silent.

    Raises
    ------
    LedgerWriteError
        If it cannot be opened or written: then the announced call must not be made.
    """

    def __init__(self, path: Path, scribe: ScribeLine | None = None) -> None:
        self.path = path
        self._scribe = scribe
        try:
            # not blocking: a pipe in its place would wait for a reader
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(path, flags, 0o600)
            durable.sync_directory(path.parent)
        except OSError as error:
            raise LedgerWriteError(path, error) from None

    def append(self, kind: str, **fields: Any) -> float:
        """Write a record; it is on disk when this returns. Returns its time, in s."""
        at, line = _line(kind, fields)
        try:
            written = os.write(self._fd, line)
            os.fsync(self._fd)
        except OSError as error:
            raise LedgerWriteError(self.path, error) from None
        if written != len(line):  # the disk is full: readers skip half a line
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise LedgerWriteError(self.path, full)
        return at

    def note(self, kind: str, **fields: Any) -> float:
        """Write a record as :meth:`append` does, but wait for the disk for a bounded time only.

        For what a cancel notes: the cancel must not wait.
        """
        scribe = self._scribe
        if scribe is None or (scribe.lost and not scribe.late):
            return self.append(kind, **fields)
        at, line = _line(kind, fields)
        if not scribe.append_durably(self.path.absolute(), line, _PATIENCE_S):
            raise LedgerWriteError(self.path, OSError(errno.EIO, "the disk does not answer"))
        return at

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _line(kind: str, fields: dict[str, Any]) -> tuple[float, bytes]:
    """Return a record's time, in s, and its line."""
    at = round(time.time(), 6)
    payload = json.dumps({"kind": kind, "at": at, **fields}).encode()
    return at, b"\n%s%s %08x %s\n" % (_NAME, _VERSION, zlib.crc32(payload), payload)


def read_ledger(path: Path) -> list[Record]:
    """Read the records of a ledger, in order; none if there is no such file.

    Lines that are damaged are left out.

    Raises
    ------
    LedgerError
        If a line is whole but of a later format: jobs may be outstanding that this
        version does not understand.
    """
    try:
        lines = durable.read_file(path).split(b"\n")
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := _parse(path, line)) is not None]


def _parse(path: Path, line: bytes) -> Record | None:
    head, _, rest = line.partition(b" ")
    checksum, _, payload = rest.partition(b" ")
    try:
        # eight digits: a checksum cut short could otherwise match an empty payload
        whole = len(checksum) == 8 and payload and int(checksum, 16) == zlib.crc32(payload)
    except ValueError:
        return None
    if not (whole and head.startswith(_NAME)):
        return None
    if head != _NAME + _VERSION:
        raise LedgerError(f"{path} was written by a later version: use that one")
    fields = json.loads(payload)
    return Record(fields.pop("kind"), fields.pop("at"), fields)
