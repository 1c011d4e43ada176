from __future__ import annotations

import os

import numpy as np
import pytest

from supervisor.ipc.board import ROW, Board

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_a_row_is_two_cache_lines() -> None:
    assert ROW.itemsize == 128


def test_a_new_board_knows_nothing() -> None:
    board = Board.create(3)
    assert board.done() == board.failed() == 0
    assert board.best() is None
    assert list(board.rows["pid"]) == [0, 0, 0]


def test_what_one_process_writes_another_reads() -> None:
    board = Board.create(2)
    other = Board(os.dup(board.fileno()), 2)
    other.rows[1]["done"] = 7
    other.rows[1]["best_index"] = 3
    other.rows[1]["best_value"] = 1.5
    board.rows[0]["done"] = 5
    other.rows[1]["failed"] = 4
    assert board.done() == 12
    assert board.failed() == 4
    assert board.best() == (3, 1.5)


def test_the_best_of_all_workers_counts_however_bad() -> None:
    board = Board.create(3)
    board.rows[0]["best_index"], board.rows[0]["best_value"] = 9, -4.0
    assert board.best() == (9, -4.0)
    board.rows[2]["best_index"], board.rows[2]["best_value"] = 0, -1.0
    assert board.best() == (0, -1.0)


@pytest.mark.parametrize(("index", "value"), [(5, 2.5), (0, 0.0)])
def test_vacating_clears_what_was_in_hand_and_keeps_what_was_kept(index: int, value: float) -> None:
    board = Board.create(1)
    row = board.rows[0]
    in_hand = ("pid", "chunk_start", "chunk_stop", "kept_until")
    for name in (*in_hand, "done"):
        row[name] = 42
    row["kept"] = row["failed"] = 30
    row["best_index"], row["best_value"] = index, value
    board.vacate(0)
    board.vacate(0)  # its successor died before it said its pid
    assert [int(row[name]) for name in in_hand] == [0] * len(in_hand)
    assert board.done() == board.failed() == 30
    assert board.best() == (index, value)


def test_closing_leaves_the_views_alone() -> None:
    board = Board.create(1)
    rows = board.rows
    board.close()
    board.close()
    rows[0]["kept"] = 1
    assert board.fileno() == -1
    assert int(np.sum(rows["kept"])) == 1
