"""Words in shared memory by which workers tell a measurement where they are.

A line of eight per worker, in a mapped file: its path travels in the
environment, through the front and the warden, to whoever computes.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

PATH_VARIABLE = "ALLSTOP_BENCH_WORDS"
HOLD_VARIABLE = "ALLSTOP_BENCH_HOLD_BYTES"

LINES = 64
PID, BEAT, SEEN_NS, TURN = range(4)
"""Who writes the line; a count that a kernel keeps raising; when it saw the stop; its turn."""

_LINE = 8


class Words:
    """Lines of eight int64 words.

    Attributes
    ----------
    lines : ndarray of int64, shape (LINES, 8)
        A view of the shared memory.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), LINES * _LINE * 8)
        self.lines: NDArray[np.int64] = np.frombuffer(memory, np.int64).reshape(LINES, _LINE)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the file, all zeros."""
        path.write_bytes(bytes(LINES * _LINE * 8))
        return cls(path)

    @classmethod
    def inherited(cls) -> Self:
        """Map the words of the measurement that started this process."""
        return cls(Path(os.environ[PATH_VARIABLE]))

    def clear(self) -> None:
        """Set every word to zero."""
        self.lines[:] = 0
