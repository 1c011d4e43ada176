from __future__ import annotations

import os

import numpy as np
import pytest

from supervisor.ipc.progress_table import ROW, ProgressTable

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_a_row_is_two_cache_lines() -> None:
    assert ROW.itemsize == 128


def test_a_new_table_is_empty() -> None:
    table = ProgressTable.create(3)
    assert table.done() == table.failed() == 0
    assert table.best() is None
    assert list(table.rows["pid"]) == [0, 0, 0]


def test_what_one_process_writes_another_reads() -> None:
    table = ProgressTable.create(2)
    other = ProgressTable(os.dup(table.fileno()), 2)
    other.rows[1]["done"] = 7
    other.rows[1]["best_index"] = 3
    other.rows[1]["best_value"] = 1.5
    table.rows[0]["done"] = 5
    other.rows[1]["failed"] = 4
    assert table.done() == 12
    assert table.failed() == 4
    assert table.best() == (3, 1.5)


def test_the_best_of_all_workers_counts_however_bad() -> None:
    table = ProgressTable.create(3)
    table.rows[0]["best_index"], table.rows[0]["best_value"] = 9, -4.0
    assert table.best() == (9, -4.0)
    table.rows[2]["best_index"], table.rows[2]["best_value"] = 0, -1.0
    assert table.best() == (0, -1.0)


@pytest.mark.parametrize(("index", "value"), [(5, 2.5), (0, 0.0)])
def test_vacating_clears_what_was_in_hand_and_keeps_what_was_kept(index: int, value: float) -> None:
    table = ProgressTable.create(1)
    row = table.rows[0]
    in_hand = ("pid", "chunk_start", "chunk_stop", "kept_until")
    for name in (*in_hand, "done"):
        row[name] = 42
    row["kept"] = row["failed"] = 30
    row["best_index"], row["best_value"] = index, value
    table.vacate(0)
    table.vacate(0)  # its successor died before it said its pid
    assert [int(row[name]) for name in in_hand] == [0] * len(in_hand)
    assert table.done() == table.failed() == 30
    assert table.best() == (index, value)


def test_closing_leaves_the_views_alone() -> None:
    table = ProgressTable.create(1)
    rows = table.rows
    table.close()
    table.close()
    rows[0]["kept"] = 1
    assert table.fileno() == -1
    assert int(np.sum(rows["kept"])) == 1
