"""Words in shared memory in which workers show a measurement their progress.

A line of eight words per worker, in a mapped file; the workers inherit its path in the
environment, through the front and the warden.
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
"""The writer's pid; a count that the kernel raises; when it saw the stop; whose turn it is."""

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
        """Create the file, filled with zeros."""
        path.write_bytes(bytes(LINES * _LINE * 8))
        return cls(path)

    @classmethod
    def inherited(cls) -> Self:
        """Map the words of the measurement that started this process."""
        return cls(Path(os.environ[PATH_VARIABLE]))

    def clear(self) -> None:
        """Set every word to zero."""
        self.lines[:] = 0
