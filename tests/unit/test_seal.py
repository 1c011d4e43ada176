"""The checksum in a results file: any flipped bit is seen, and no other reader minds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from supervisor.errors import ConfigError
from supervisor.rows import seal
from supervisor.rows.grid import Grid
from supervisor.rows.journal import JournalWriter, journal_path
from supervisor.rows.results import compact, read
from supervisor.rows.space import Space


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    with JournalWriter(journal_path(tmp_path / "journal", 0), "run", 0) as journal:
        journal.append(0, ["sharpe"], np.arange(12.0).reshape(12, 1))
    path = tmp_path / "results.parquet"
    compact(tmp_path / "journal", path, Space(Grid.of({"a": range(3), "b": range(4)})))
    return path


def test_each_flipped_bit_is_seen(results: Path) -> None:
    whole = results.read_bytes()
    seal.check(results)
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        results.write_bytes(damaged)
        with pytest.raises(ConfigError, match="damaged"):
            seal.check(results)


@pytest.mark.parametrize("cut", [0, 4, 11, 12, 200])
def test_a_file_that_is_cut_short_is_seen(results: Path, cut: int) -> None:
    results.write_bytes(results.read_bytes()[:cut])
    with pytest.raises(ConfigError, match="remove it"):
        read(results)


def test_other_readers_take_the_file_as_any_other(results: Path) -> None:
    assert pq.read_table(results).column("sharpe").to_pylist() == list(map(float, range(12)))
    with pq.ParquetFile(results, pre_buffer=True) as file:
        assert file.metadata.num_rows == 12


def test_a_file_of_before_there_was_a_checksum_is_taken_as_it_is(results: Path) -> None:
    table = read(results)
    pq.write_table(table.replace_schema_metadata(None), results)
    assert read(results).equals(table)
