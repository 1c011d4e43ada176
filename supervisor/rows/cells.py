"""Cells of a row that are no number: nothing, or a text or a time that lies in the journal.

Rows are float64. There are 2**52 bit patterns that mean "not a number", of which arithmetic
gives two; a few of the others stand for what is not a number indeed:

::

    0x7FFA 0000 0000 0000    nothing: a metric that is None, NaT or NA
    0x7FFB <48 bits>         a reference: the VALUE frame at this offset of the same journal

So whoever knows nothing of them (a ranking, a chart) sees NaN.
"""

from __future__ import annotations

import datetime
import struct
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import JournalError
from supervisor.rows.frames import Frame, read_value

_NULL_TAG, _REFERENCE_TAG = 0x7FFA, 0x7FFB
_SHIFT = 48
_OFFSET = (1 << _SHIFT) - 1
_EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)


class CellKind(StrEnum):
    """What a metric is that is no number; times and durations are kept in whole µs."""

    TEXT = "text"
    TIME = "time"
    """A date and time without a time zone."""
    UTC = "utc"
    """A date and time of a known zone."""
    DURATION = "duration"


def _float(bits: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return value


NULL = _float(_NULL_TAG << _SHIFT)


def reference(offset: int) -> float:
    """Return the number that stands for the VALUE frame at an offset, in bytes."""
    return _float(_REFERENCE_TAG << _SHIFT | offset)


def special(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where cells are no numbers; NaN is one.

    Returns
    -------
    ndarray of bool, of the shape of ``rows``
    """
    # the two tags differ in their last bit: one comparison for both
    tags = np.ascontiguousarray(rows).view(np.uint64) >> np.uint64(_SHIFT + 1)
    found: NDArray[np.bool_] = tags == _NULL_TAG >> 1
    return found


class Values:
    """Looks up what cells refer to, each value once."""

    _MOST = 100_000

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Any] = {}

    def of(self, frame: Frame, cell: float) -> Any:
        """Return the text, time or duration that a cell of a frame stands for; None: nothing."""
        bits: int = struct.unpack("<Q", struct.pack("<d", cell))[0]
        if bits >> _SHIFT != _REFERENCE_TAG:
            return None
        key = (str(frame.path), bits & _OFFSET)
        if key not in self._known:
            if len(self._known) >= self._MOST:
                self._known.clear()
            self._known[key] = _read(*key)
        return self._known[key]

    def columns(self, frame: Frame, rows: NDArray[np.float64]) -> list[list[Any]]:
        """Return rows as a list per column, each cell as what it stands for."""
        columns: list[list[Any]] = rows.T.tolist()
        for row, column in np.argwhere(special(rows)).tolist():
            columns[column][row] = self.of(frame, rows[row, column])
        return columns


def _read(path: str, offset: int) -> Any:
    found = read_value(path, offset)
    if found is None:
        raise JournalError(f"has no value at {offset}", path=path)
    _, kind, value = found
    if isinstance(value, str):
        return value
    if kind == CellKind.DURATION:
        return value * _MICROSECOND
    time = _EPOCH + value * _MICROSECOND
    return time.replace(tzinfo=datetime.UTC) if kind == CellKind.UTC else time


def as_text(value: Any) -> str | None:
    """Return a text, time or duration as text, for a column that has several kinds."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return None if value is None else str(value)
