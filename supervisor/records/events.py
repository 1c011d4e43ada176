"""Facts as they happen: one JSON object per line in ``events.jsonl``.

A fact has a name ``room.thing_happened`` and fields, never formatted text; logs, progress
bars and plots are renderings of it. Front and warden append to the same file: each line is
one ``write`` in append mode, which the kernel keeps whole, so neither needs the other. While a
run lives its scribe does that for both of them (:mod:`supervisor.records.scribe_line`): they
must not wait for a disk.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.errors import UntrustedError
from supervisor.records.rundir import EVENTS_FILE
from supervisor.records.scribe_line import ScribeLine
from supervisor.system import durable, private, sealed
from supervisor.system.shape import Instant, read_as

_LONGEST_LINE = 2**22
"""Of any fact: a sweep of a thousand workers names a process each."""

_SAMPLED = "_sampled"


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

    A disk that is full or does not answer must not stop a stop: a fact that cannot be written
    is dropped and counted in :attr:`dropped`. As long as the disk answers, a fact is written
    when :meth:`emit` returns.

    Parameters
    ----------
    run_dir : Path
        Directory of the run.
    room : str
        First part of the facts' names: ``front`` or ``warden``.
    create : bool
        Whether to create the file where there is none.
    scribe : ScribeLine, optional
        Writes for this process, which then never waits for the disk. Without it, or if it was
        killed, this process writes.

    Attributes
    ----------
    hurried : bool
        A stop is under way: :meth:`emit` has facts written, but waits for none of them.

    Raises
    ------
    FileNotFoundError
        If there is no such directory or, with ``create=False``, no such file; not with a scribe.
    UntrustedError
        If the file or its directory is a link, or not ours; not with a scribe.
    """

    def __init__(
        self, run_dir: Path, room: str, *, create: bool = True, scribe: ScribeLine | None = None
    ) -> None:
        self._path = run_dir / EVENTS_FILE
        self._room = room
        self._fd = -1
        self._create = create
        self._scribe = scribe
        self._dropped = 0
        self._torn = False
        self.hurried = False
        self._failed_before = scribe.failed if scribe else 0
        if scribe is None or not scribe.open(self._path, create=create):
            self._open()

    @property
    def dropped(self) -> int:
        """Facts that could not be written."""
        return self._dropped + (self._scribe.failed - self._failed_before if self._scribe else 0)

    @property
    def late(self) -> bool:
        """Whether the disk does not answer, as far as was seen."""
        return self._scribe is not None and self._scribe.late

    @property
    def silent_s(self) -> float:
        """How long the disk has not answered what it was sent, in s."""
        return self._scribe.silent_s if self._scribe else 0.0

    def answers(self, patience_s: float) -> bool:
        """Whether all facts are written and the disk answers, within a time in s.

        Without a scribe that is not known before it is tried: True.
        """
        return self._scribe is None or self._scribe.answers(patience_s)

    def emit(self, happened: str, **fields: Any) -> None:
        """Append the fact that ``happened``."""
        if self.late and happened.endswith(_SAMPLED):
            self._dropped += 1  # what waits for the disk is bounded: room for what matters
            return
        line = sealed.line(
            {"event": f"{self._room}.{happened}", "at": round(time.time(), 6), **fields}
        )
        data = line.encode() + b"\n"
        scribe = self._scribe
        if scribe is None:
            self._write([data])
        elif scribe.lost and not scribe.late:
            self._write([*scribe.unwritten(), data])
        elif not scribe.write(data, wait=not self.hurried):
            if scribe.lost and not scribe.late:
                self._write(scribe.unwritten())
            else:
                self._dropped += 1

    def _write(self, lines: list[bytes]) -> None:
        for data in lines:
            try:
                if self._fd < 0:
                    self._open()
                whole = b"\n" * self._torn + data
                # a disk that is full takes half a line: the next one must not join it
                self._torn = os.write(self._fd, whole) < len(whole)
                self._dropped += self._torn
            except (OSError, UntrustedError):
                self._dropped += 1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if self._create else 0)
        self._fd = private.open_regular(self._path, flags)
        self._end_line()

    def _end_line(self) -> None:
        """Begin a new line, should a power loss have torn the last one."""
        try:
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")
        except OSError:
            self._dropped += 1

    def close(self) -> None:
        """Close the file; the scribe's line is not this object's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def latest(run_dir: Path, *names: str) -> str:
    """Return which of these facts happened last; empty: none of them has.

    Other facts are not parsed: a run of days has a hundred thousand of them.
    """
    begins = {f'{{"event": "{name}",'.encode(): name for name in names}
    found = ""
    with contextlib.suppress(UntrustedError):  # a stop goes on without them
        for line in _lines(run_dir):
            begin = line[: line.find(b",") + 1]
            if begin in begins and _parse(line) is not None:  # torn
                found = begins[begin]
    return found


def read_events(run_dir: Path) -> Iterator[Fact]:
    """Yield a run's facts in the order they were written.

    Lines that are torn, damaged or longer than any of ours are left out.
    """
    sealed_from_here = False
    for line in _lines(run_dir):
        fact = _parse(line, must_be_sealed=sealed_from_here)
        if fact is not None:
            yield fact
            # an earlier version wrote lines without a checksum, and never after ours
            sealed_from_here = sealed_from_here or sealed.is_line(_text(line))


def _lines(run_dir: Path) -> Iterator[bytes]:
    """Yield the lines, holding one at a time; none if there is no file."""
    try:
        fd = private.open_beside(run_dir / EVENTS_FILE)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "rb") as file:
        whole = True
        while line := file.readline(_LONGEST_LINE):
            begins, whole = whole, line.endswith(b"\n")
            if begins and (whole or len(line) < _LONGEST_LINE):
                yield line


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\n")


def _parse(line: bytes, *, must_be_sealed: bool = False) -> Fact | None:
    text = _text(line)
    if must_be_sealed and not sealed.is_line(text):
        return None
    try:
        fields = durable.loads(sealed.check_line(text))
        fields.pop(sealed.KEY, None)
        name, at = fields.pop("event"), fields.pop("at")
        return Fact(read_as(str, name), read_as(Instant, at), fields)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
