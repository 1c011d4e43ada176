from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.errors import JournalError, RunFailedError
from supervisor.rows import compaction
from supervisor.rows.compaction import Compaction, compact
from supervisor.rows.grid import Grid
from supervisor.rows.index import covered, gaps, outstanding
from supervisor.rows.journal import JournalWriter, journal_path
from supervisor.rows.results import best, read
from supervisor.rows.space import Space
from tests.support.data import METRICS, metrics_of, write_journal

GRID = Grid.of({"fast": range(10), "slow": range(20)})  # 200 combinations
ALL = Space(GRID)
ORDERED = Space(GRID, ("fast", "slow"))


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROW_GROUP", 16)


def compacted(
    directory: Path, chunks: list[list[tuple[int, int]]], space: Space = ALL
) -> tuple[bytes, Compaction]:
    """Write journals, a list of chunks each, and compact them."""
    directory.mkdir()
    for serial, each in enumerate(chunks):
        write_journal(directory / "journal", serial, each, space=space)
    out = directory / "results.parquet"
    done = compact(directory / "journal", out, space)
    assert {path.name for path in directory.iterdir()} == {"journal", "results.parquet"}
    return out.read_bytes(), done


def table_of(raw: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(raw))


def test_rows_are_in_the_grids_order_with_their_parameters(tmp_path: Path) -> None:
    raw, done = compacted(tmp_path / "a", [[(150, 200), (0, 30)], [(30, 150)]])
    assert done == Compaction(rows=200, failed=0, missing=())
    table = table_of(raw)
    assert table.column_names == ["fast", "slow", *METRICS]
    assert [str(t) for t in table.schema.types] == ["int64"] * 2 + ["double"] * 3 + ["int64"]
    assert table["trades"].to_pylist() == list(range(200))
    assert table["fast"].to_pylist() == [i // 20 for i in range(200)]
    assert table["slow"].to_pylist() == [i % 20 for i in range(200)]
    expected = metrics_of(0, 200)
    for at, name in enumerate(METRICS):
        assert np.array_equal(table[name].to_numpy(), expected[:, at])
    assert read(tmp_path / "a" / "results.parquet").equals(table)


def test_parameters_keep_their_kinds(tmp_path: Path) -> None:
    grid = Grid.of({"s": ["é", "b"], "x": [0.5, 1.5], "on": [True, False], "n": [3]})
    raw, _ = compacted(tmp_path / "a", [[(0, 8)]], Space(grid))
    table = table_of(raw)
    assert [str(t) for t in table.schema.types[:4]] == ["string", "double", "bool", "int64"]
    for index, row in enumerate(table.to_pylist()):
        assert {name: row[name] for name in grid.names} == grid.params(index)


def test_missing_ranges_are_told(tmp_path: Path) -> None:
    raw, done = compacted(tmp_path / "a", [[(10, 20), (50, 60)], [(15, 30), (60, 61)]])
    assert done == Compaction(rows=31, failed=0, missing=((0, 10), (30, 50), (61, 200)))
    assert table_of(raw)["trades"].to_pylist() == [*range(10, 30), *range(50, 61)]
    assert covered(tmp_path / "a" / "journal", ALL) == [(10, 30), (50, 61)]


def test_nothing_computed_is_an_empty_table(tmp_path: Path) -> None:
    raw, done = compacted(tmp_path / "a", [[]])
    assert done == Compaction(rows=0, failed=0, missing=((0, 200),))
    assert table_of(raw).num_rows == 0
    assert table_of(raw).column_names == ["fast", "slow"]
    assert covered(tmp_path / "nowhere", ALL) == []


def test_gaps() -> None:
    assert gaps([], range(5)) == [(0, 5)]
    assert gaps([(0, 5)], range(5)) == []
    assert gaps([(1, 2), (3, 4)], range(5)) == [(0, 1), (2, 3), (4, 5)]


@pytest.mark.usefixtures("small_groups")
def test_only_accepted_combinations_have_rows(tmp_path: Path) -> None:
    chunks = [[(0, 7), (7, 21), (21, 22), (100, 200)], [(15, 100)]]
    raw, done = compacted(tmp_path / "a", chunks, ORDERED)
    table = table_of(raw)
    accepted = [i for i in range(200) if i // 20 < i % 20]
    assert done == Compaction(rows=len(accepted), failed=0, missing=())
    assert table["trades"].to_pylist() == accepted
    assert [row["fast"] * 20 + row["slow"] for row in table.to_pylist()] == accepted


def test_a_range_without_an_accepted_combination_is_covered_by_no_rows(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 0, [(40, 43), (60, 62)], space=ORDERED)
    assert covered(tmp_path / "journal", ORDERED) == [(40, 43), (60, 62)]
    assert compact(tmp_path / "journal", tmp_path / "r.parquet", ORDERED).rows == 0


def test_only_ranges_with_an_accepted_combination_are_outstanding() -> None:
    # of 60 to 79 the combinations from 64 on are accepted
    assert outstanding([(0, 60), (70, 180)], ORDERED, range(200)) == [(60, 70), (180, 200)]
    assert outstanding([(0, 60), (64, 200)], ORDERED, range(200)) == []
    assert outstanding([(0, 60), (63, 64)], ORDERED, range(50, 80)) == [(64, 80)]


@pytest.mark.parametrize("rows", [0, 5, 7])
def test_a_frame_with_other_rows_than_accepted_is_damage(tmp_path: Path, rows: int) -> None:
    """Combinations 60 to 69 have six that are accepted."""
    journal = tmp_path / "journal"
    write_journal(journal, 0, [(0, 20)], space=ORDERED)
    with JournalWriter(journal_path(journal, 1), "r", 1) as writer:
        writer.append(0, METRICS, metrics_of(0, 1)[:0], stop=1, indices=np.arange(0))
        indices = np.arange(60, 60 + rows)
        writer.append(60, METRICS, metrics_of(60, 60 + rows), stop=70, indices=indices)
        writer.append(180, METRICS, metrics_of(190, 200), stop=200, indices=np.arange(190, 200))
    done = compact(journal, tmp_path / "r.parquet", ORDERED)
    assert done.rows == 19
    assert done.missing == ((20, 200),)
    (damage,) = done.damaged
    assert damage == (
        f"{journal / 'worker-0001.bin'}: has {rows} rows for combinations 60 to 69, "
        "of which the strategy accepts 6"
    )
    assert covered(journal, ORDERED) == [(0, 20)]


def test_a_failure_of_a_combination_that_is_not_accepted_is_damage(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 0, [(0, 20)], failed=(21,), space=ORDERED)
    assert covered(tmp_path / "journal", ORDERED) == [(0, 20)]
    (damage,) = compact(tmp_path / "journal", tmp_path / "r.parquet", ORDERED).damaged
    assert "has 1 rows for combinations 21 to 21, of which the strategy accepts 0" in damage


@pytest.mark.usefixtures("small_groups")
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), space=st.sampled_from([ALL, ORDERED]))
def test_the_bytes_do_not_depend_on_how_it_was_computed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, space: Space
) -> None:
    tmp_path = tmp_path_factory.mktemp("bytes")
    whole, _ = compacted(tmp_path / "whole", [[(0, 200)]], space)
    cuts = sorted({0, 200, *data.draw(st.lists(st.integers(1, 199), max_size=12))})
    chunks = list(itertools.pairwise(cuts))
    extra = data.draw(  # retried chunks, which overlap
        st.lists(st.tuples(st.integers(0, 198), st.integers(1, 60)), max_size=4)
    )
    chunks += [(start, min(start + size, 200)) for start, size in extra]
    order = data.draw(st.permutations(chunks))
    n_workers = data.draw(st.integers(1, 4))
    shares = [list(order[i::n_workers]) for i in range(n_workers)]
    raw, done = compacted(tmp_path / "cut", shares, space)
    assert done == Compaction(space.total, 0, ())
    assert raw == whole


@pytest.mark.usefixtures("small_groups")
def test_a_torn_journal_and_a_resumed_run_equal_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = compacted(tmp_path / "whole", [[(0, 90), (90, 200)]])
    journal = tmp_path / "resumed" / "journal"
    journal.mkdir(parents=True)
    torn = write_journal(journal, 0, [(0, 40), (40, 80), (80, 120)])
    os.truncate(torn, torn.stat().st_size - 1)
    assert covered(journal, ALL) == [(0, 80)]
    for start, stop in gaps(covered(journal, ALL), range(GRID.size)):
        write_journal(journal, 1, [(start, stop)])
    out = tmp_path / "resumed" / "results.parquet"
    compact(journal, out, ALL)
    assert out.read_bytes() == whole


@pytest.mark.usefixtures("small_groups")
def test_failures_have_no_metrics_but_a_reason(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    write_journal(journal, 0, [(0, 50), (51, 199)], failed=(50, 199))
    done = compact(journal, tmp_path / "r.parquet", ALL)
    assert done == Compaction(rows=200, failed=2, missing=())
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    for index, row in enumerate(rows):
        if index in (50, 199):
            assert row["error"] == f"ValueError: combination {index}"
            assert all(row[name] is None for name in METRICS)
        else:
            assert row["error"] is None
            assert row["trades"] == index
    assert covered(journal, ALL) == [(0, 200)]


def test_a_row_counts_more_than_a_failure(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    write_journal(journal, 0, [], failed=(0, 7, 7, 9))
    write_journal(journal, 1, [(0, 8)])
    done = compact(journal, tmp_path / "r.parquet", ALL)
    assert done == Compaction(rows=9, failed=1, missing=((8, 9), (10, 200)))
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["trades"] for row in rows] == [*range(8), None]


def test_all_failed(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 0, [], failed=(3, 1))
    done = compact(tmp_path / "journal", tmp_path / "r.parquet", ALL)
    assert (done.rows, done.failed) == (2, 2)
    table = pq.read_table(tmp_path / "r.parquet")
    assert table.column_names == ["fast", "slow", "error"]
    assert table["slow"].to_pylist() == [1, 3]


def test_metrics_may_differ_from_row_to_row(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with JournalWriter(journal_path(tmp_path / "journal", 0), "r", 0) as writer:
        writer.append(2, ("b", "a"), np.array([[1.0, np.nan]]))
        writer.append(0, ("a", "slow", "error"), np.array([[5.0, 6.0, 7.0]]))
    compact(tmp_path / "journal", tmp_path / "r.parquet", ALL)
    table = pq.read_table(tmp_path / "r.parquet")
    assert table.column_names == ["fast", "slow", "a", "result_slow", "result_error", "b"]
    first, second = table.to_pylist()
    assert (first["a"], first["result_slow"], first["b"]) == (5.0, 6.0, None)
    assert (second["result_slow"], second["b"]) == (None, 1.0)
    assert np.isnan(second["a"])  # NaN is a value, absence is not


def test_trades_that_are_no_counts_stay_fractions(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with JournalWriter(journal_path(tmp_path / "journal", 0), "r", 0) as writer:
        writer.append(0, ("trades",), np.array([[1.0], [2.5]]))
    compact(tmp_path / "journal", tmp_path / "r.parquet", ALL)
    assert pq.read_table(tmp_path / "r.parquet")["trades"].to_pylist() == [1.0, 2.5]


def test_a_journal_of_another_grid_is_refused(tmp_path: Path) -> None:
    path = write_journal(tmp_path / "journal", 0, [(190, 201)])
    with pytest.raises(JournalError, match=r"combination 200 lies beyond the grid's 200") as caught:
        compact(tmp_path / "journal", tmp_path / "r.parquet", ALL)
    assert caught.value.path == str(path)
    assert not (tmp_path / "r.parquet").exists()


def test_an_old_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_journal(tmp_path / "journal", 0, [(0, 200)])
    out = tmp_path / "r.parquet"
    out.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFailedError, match=r"r\.parquet: cannot be written: No space left"):
            compact(tmp_path / "journal", out, ALL)
    assert out.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"journal", "r.parquet"}
    (tmp_path / ".r.parquet.1.partial").write_bytes(b"left by one that was killed")
    compact(tmp_path / "journal", out, ALL)
    assert pq.read_table(out).num_rows == 200
    assert {p.name for p in tmp_path.iterdir()} == {"journal", "r.parquet"}


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 0, [(0, 200)])
    with pytest.raises(RunFailedError, match="cannot be written: No such file or directory"):
        compact(tmp_path / "journal", tmp_path / "gone" / "r.parquet", ALL)


@pytest.mark.usefixtures("small_groups")
def test_the_best_rows(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    sharpe = np.arange(200.0) * 37 % 101
    sharpe[[5, 50]] = np.nan
    with JournalWriter(journal_path(tmp_path / "journal", 0), "r", 0) as writer:
        writer.append(0, ("sharpe",), sharpe[:, None])
    out = tmp_path / "r.parquet"
    compact(tmp_path / "journal", out, ALL)
    for largest in (True, False):
        key = np.where(np.isnan(sharpe), np.inf, -sharpe if largest else sharpe)
        expected = np.argsort(key, kind="stable")[:7]
        found = best(out, "sharpe", 7, largest=largest)
        assert [GRID.index({"fast": r["fast"], "slow": r["slow"]}) for r in found] == list(expected)
        assert [r["sharpe"] for r in found] == sharpe[expected].tolist()
    assert len(best(out, "sharpe", 1000)) == 198


def apart(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which has loaded nothing before."""
    return subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )


FLATNESS = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from supervisor.rows.grid import Grid
from supervisor.rows.journal import JournalWriter, journal_path
from supervisor.rows.compaction import compact
from supervisor.rows.space import Space
from tests.support.data import METRICS, metrics_of
directory = Path(sys.argv[1])
n, chunk = 1_000_000, 1000
for serial in range(4):
    with JournalWriter(journal_path(directory, serial), "r", serial) as writer:
        for start in reversed(range(serial * chunk, n, 4 * chunk)):
            writer.append(start, METRICS, metrics_of(start, start + chunk))
space = Space(Grid.of({"a": range(1000), "b": range(1000)}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = compact(directory, directory / "r.parquet", space)
assert (done.rows, done.failed, done.missing) == (n, 0, ()), done
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_million_rows_are_compacted_in_little_memory(tmp_path: Path) -> None:
    done = apart(FLATNESS, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120 * 1024
    trades = pq.read_table(tmp_path / "r.parquet", columns=["trades"])["trades"].to_numpy()
    assert np.array_equal(trades, np.arange(1_000_000))


WITHOUT_PANDAS = """
import sys
from pathlib import Path
from supervisor.market.bars import load_bars
from supervisor.rows.grid import Grid
from supervisor.rows.compaction import compact
from supervisor.rows.results import best, read
from supervisor.rows.space import Space
from tests.support.data import CSV, write_csv, write_journal
directory = Path(sys.argv[1])
for number, text in enumerate((CSV, CSV.replace("2024-01-01", "01.01.2024"))):
    load_bars(write_csv(directory / f"{number}.csv", text))
load_bars(directory / "bars.parquet")
write_journal(directory / "journal", 0, [(0, 3)], failed=(3,))
space = Space(Grid.of({"s": ["a", "b"], "on": [True, False]}))
compact(directory / "journal", directory / "r.parquet", space)
best(directory / "r.parquet", "sharpe")
read(directory / "r.parquet")
print("pandas" in sys.modules)
"""


def test_pandas_is_not_imported_behind_the_users_back(tmp_path: Path) -> None:
    columns = {"time": pa.array([10**18, 10**18 + 10**9], pa.timestamp("ns")), "close": [1.0, 2.0]}
    pq.write_table(pa.table(columns), tmp_path / "bars.parquet")
    done = apart(WITHOUT_PANDAS, tmp_path)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


AT_THE_END = """
import sys
from pathlib import Path
from supervisor.rows.grid import Grid
from supervisor.rows.compaction import compact
from supervisor.rows.results import best
from supervisor.rows.space import Space
from tests.support.data import METRICS, write_journal
directory = Path(sys.argv[1])
write_journal(directory / "journal", 0, [(0, 3)], failed=(3,))
space = Space(Grid.of({"s": [1, 2], "on": [True, False]}))
compact(directory / "journal", directory / "r.parquet", space)
print([len(best(directory / "r.parquet", metric)) for metric in (*METRICS, "s")])
print("pyarrow.compute" in sys.modules)
print([row["on"] for row in best(directory / "r.parquet", "on", largest=False)])
"""


def test_what_arrow_computes_with_is_not_loaded_while_a_user_waits_for_the_prompt(
    tmp_path: Path,
) -> None:
    done = apart(AT_THE_END, tmp_path)
    counts = [3] * len(METRICS) + [4]  # the failed one has no metrics, but has parameters
    expected = f"{counts}\nFalse\n[False, False, True, True]\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_where_results_cannot_be_written_the_journals_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are all there is then."""
    for serial in (0, 1):
        write_journal(tmp_path / "journal", serial, [(10 * serial, 10 * serial + 3)])
    synced: list[int] = []
    usual = os.fdatasync

    def slowly(fd: int) -> None:
        time.sleep(0.1)  # a disk that takes its time, and a writer that fails at once
        usual(fd)
        synced.append(fd)

    monkeypatch.setattr(os, "fdatasync", slowly)
    with pytest.raises(RunFailedError, match="cannot be written"):
        compact(tmp_path / "journal", tmp_path / "nowhere" / "r.parquet", ALL)
    assert len(synced) == 2


def test_of_two_failures_the_later_one_is_told(tmp_path: Path) -> None:
    for serial, error in enumerate(("ValueError: before", "KeyError: after")):
        (tmp_path / "journal").mkdir(exist_ok=True)
        with JournalWriter(journal_path(tmp_path / "journal", serial), "run", serial) as writer:
            writer.append_failed(0, error)
            writer.append(1 + serial, METRICS, metrics_of(1 + serial, 2 + serial))
    out = tmp_path / "r.parquet"
    compact(tmp_path / "journal", out, ALL)
    assert [row["error"] for row in read(out).to_pylist()] == ["KeyError: after", None, None]


def test_failed_combinations_can_be_left_out_of_what_is_covered(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", 0, [(0, 5), (6, 8)], failed=(5, 9))
    assert covered(tmp_path / "journal", ALL) == [(0, 8), (9, 10)]
    assert covered(tmp_path / "journal", ALL, failed=False) == [(0, 5), (6, 8)]
