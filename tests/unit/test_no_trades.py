"""Whether any combination has traded, as the footer of the results tells it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supervisor.lifecycle.no_trades import _largest


@pytest.mark.parametrize(
    ("trades", "right"),
    [
        ([0, 3, None], 3),
        ([0.0, 2.5], 2.5),
        ([None, None], None),
        (["many", "few"], None),
        ([dt.datetime(2024, 1, 1), None], None),
        ([dt.timedelta(days=1)], None),
    ],
)
def test_only_numbers_are_counted(
    tmp_path: Path, trades: list[object], right: float | None
) -> None:
    pq.write_table(pa.table({"x": range(len(trades)), "trades": trades}), tmp_path / "r.parquet")
    with pq.ParquetFile(tmp_path / "r.parquet") as file:
        assert _largest(file.metadata, file.schema_arrow) == right
