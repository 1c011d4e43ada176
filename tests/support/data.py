"""Small market data and journals for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from supervisor.rows.journal import JournalWriter, journal_path
from supervisor.rows.space import Space

METRICS = ("total_return", "sharpe", "max_drawdown", "trades")

CSV = """\
time,open,high,low,close,volume
2024-01-01 00:00:00,1.10,1.20,1.00,1.15,10
2024-01-01 01:00:00,1.15,1.25,1.05,1.20,20
2024-01-01 02:00:00,1.20,1.30,1.10,1.25,30
2024-01-01 03:00:00,1.25,1.35,1.15,1.30,40
"""


def write_csv(path: Path, text: str = CSV) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def csv_with(line: int, column: int, cell: str) -> str:
    """Give the sample CSV with one cell replaced; lines count from 1, header included."""
    lines = CSV.splitlines()
    cells = lines[line - 1].split(",")
    cells[column] = cell
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines) + "\n"


def metrics_of(start: int, stop: int) -> NDArray[np.float64]:
    """Make rows that tell which combination they belong to; ``trades`` is its index."""
    index = np.arange(start, stop, dtype=np.float64)
    return np.column_stack((index / 7 - 1, np.sqrt(index), -index / (index + 1), index))


def write_journal(
    directory: Path,
    serial: int,
    chunks: list[tuple[int, int]],
    failed: tuple[int, ...] = (),
    space: Space | None = None,
) -> Path:
    """Write a journal: a row for each combination of the chunks, or each that is accepted."""
    directory.mkdir(exist_ok=True)
    path = journal_path(directory, serial)
    with JournalWriter(path, "test-run", serial) as writer:
        for start, stop in chunks:
            indices = np.arange(start, stop) if space is None else space.accepted(start, stop)
            rows = metrics_of(start, stop)[indices - start]
            writer.append(start, METRICS, rows, stop=stop, indices=indices)
        for index in failed:
            writer.append_failed(index, f"ValueError: combination {index}")
    return path
