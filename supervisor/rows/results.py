"""Reading a run's results file: whole, or its best rows."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import ConfigError
from supervisor.market.arrow import nulls, parquet_file, to_numpy
from supervisor.rows import checksum
from supervisor.rows.grid import Grid
from supervisor.rows.names import ERROR_COLUMN
from supervisor.rows.ranking import TRADES, Ranking
from supervisor.system import private


def read(path: Path | str) -> Any:
    """Read a results file whole.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    ConfigError
        If it does not match its checksum.
    """
    checksum.check(path)
    with opened(path) as file:
        return file.read().replace_schema_metadata()  # the checksum is the file's alone


def best(
    path: Path | str,
    metric: str = "total_return",
    k: int = 10,
    ranking: Ranking | None = None,
    *,
    largest: bool = True,
) -> list[dict[str, Any]]:
    """Find the ``k`` rows with the best value of a metric, holding one row group at a time.

    Ties go to the earlier combination; rows without the metric, or with a value that is not
    finite, are left out, and those with fewer trades than the ranking asks for. Raises
    :class:`ConfigError` if the file does not match its checksum.
    """
    checksum.check(path)
    ranking = ranking or Ranking(ascending=not largest)
    columns = [metric, TRADES] if ranking.min_trades else [metric]
    kept: list[tuple[float, int, dict[str, Any]]] = []
    with opened(path) as file:
        seen = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(dict.fromkeys(columns)))
            trades = numbers(table.column(TRADES)) if ranking.min_trades else None
            scores = ranking.scores(numbers(table.column(metric)), trades)
            top = np.argsort(-scores, kind="stable")[:k]
            top = top[scores[top] > -np.inf]
            if len(top) and (len(kept) < k or scores[top[0]] > kept[-1][0]):
                table = file.read_row_group(group)
                rows = [table.slice(at, 1).to_pylist()[0] for at in top.tolist()]
                found = zip(scores[top].tolist(), (seen + top).tolist(), rows, strict=True)
                kept = heapq.nsmallest(k, [*kept, *found], key=lambda row: (-row[0], row[1]))
            seen += len(scores)
    return [row for _, _, row in kept]


@contextmanager
def opened(path: Path | str) -> Iterator[Any]:
    """Open a results file of ours as a ``pyarrow.parquet.ParquetFile``; nothing is verified.

    Raises
    ------
    ConfigError
        If Arrow cannot make sense of it.
    OSError, UntrustedError
        As :func:`supervisor.system.private.path_of`.
    """
    import pyarrow as pa

    try:
        with private.path_of(path) as there, parquet_file(there) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if getattr(error, "errno", None):
            raise  # the disk's, not the file's
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"{path} cannot be read: {why}; if it is damaged, remove it: allstop report writes "
            "it again from the journals",
            key="results",
        ) from None


def metrics_of(path: Path | str, grid: Grid) -> list[str]:
    """Return the columns of a results file that combinations can be ranked by."""
    with opened(path) as file:
        schema = file.schema_arrow
    return [
        field.name
        for field in schema
        if field.name not in (*grid.names, ERROR_COLUMN) and str(field.type) in _RANKED_TYPES
    ]


_RANKED_TYPES = ("double", "int64")


def numbers(column: Any) -> NDArray[np.float64]:
    """Give a column as numbers, NaN where it has none.

    Our own columns are read by their buffers: Arrow's compute functions take 50 ms to load,
    just when a user who has pressed Ctrl+C waits for the prompt.
    """
    if str(column.type) not in ("double", "int64"):
        column = column.cast("float64")
    found = to_numpy(column).astype(np.float64)
    found[nulls(column)] = np.nan
    return found
