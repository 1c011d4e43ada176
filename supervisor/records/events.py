"""Facts as they happen: one JSON object per line in ``events.jsonl``.

A fact has a name ``room.thing_happened`` and fields, never formatted text; logs, progress
bars and plots are renderings of it. Front and warden append to the same file: each line is
one ``write`` in append mode, which the kernel keeps whole, so neither needs the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.errors import UntrustedError
from supervisor.records.rundir import EVENTS_FILE
from supervisor.system import private


class Fact(NamedTuple):
    """Something that happened.

    Attributes
    ----------
    name : str
        ``room.thing_happened``.
    at : float
        Unix time, in s.
    fields : dict
        Details.
    """

    name: str
    at: float
    fields: dict[str, Any]


class EventLog:
    """Appends facts to a run's ``events.jsonl``.

    A full disk must not stop a stop: a fact that cannot be written is dropped
    and counted in :attr:`dropped`.

    Parameters
    ----------
    run_dir : Path
        Directory of the run.
    room : str
        First part of the facts' names: ``front`` or ``warden``.
    create : bool
        Whether to create the file where there is none.

    Raises
    ------
    FileNotFoundError
        If there is no such directory or, with ``create=False``, no such file.
    """

    def __init__(self, run_dir: Path, room: str, *, create: bool = True) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._fd = private.open_regular(run_dir / EVENTS_FILE, flags)
        self._room = room
        self.dropped = 0
        self._end_line()

    def emit(self, happened: str, **fields: Any) -> None:
        """Append the fact that ``happened``."""
        line = json.dumps(
            {"event": f"{self._room}.{happened}", "at": round(time.time(), 6), **fields},
            default=str,
        )
        try:
            os.write(self._fd, line.encode() + b"\n")
        except OSError:
            self.dropped += 1

    def _end_line(self) -> None:
        """Begin a new line, should a power loss have torn the last one."""
        try:
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")
        except OSError:
            self.dropped += 1

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def latest(run_dir: Path, *names: str) -> str:
    """Return which of these facts happened last; empty: none of them has.

    Other facts are not parsed: a run of days has a hundred thousand of them.
    """
    try:
        lines = _read(run_dir).splitlines()
    except (FileNotFoundError, UntrustedError):  # a stop goes on without them
        return ""
    begins = tuple(f'{{"event": "{name}",'.encode() for name in names)
    for line in reversed(lines):
        if line.startswith(begins):
            with contextlib.suppress(ValueError):  # torn
                return str(json.loads(line)["event"])
    return ""


def read_events(run_dir: Path) -> Iterator[Fact]:
    """Yield a run's facts in the order they were written; a torn last line is skipped."""
    try:
        text = _read(run_dir).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            fields = json.loads(line)
            yield Fact(fields.pop("event"), float(fields.pop("at")), fields)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            continue


def _read(run_dir: Path) -> bytes:
    with os.fdopen(private.open_beside(run_dir / EVENTS_FILE), "rb") as file:
        return file.read()
