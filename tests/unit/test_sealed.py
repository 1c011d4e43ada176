"""A flipped bit in what is read back is noticed, whichever bit it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supervisor.errors import ConfigError, ProtocolError
from supervisor.lifecycle import inputs
from supervisor.market import cache
from supervisor.market.bars import Bars, file_blocks, load_bars
from supervisor.records import rundir
from supervisor.records.events import EventLog, latest, read_events
from supervisor.records.ledger import Ledger, read_ledger
from supervisor.records.plan import Plan, Provenance, Source
from supervisor.rows import checksum
from supervisor.rows.compaction import compact
from supervisor.rows.grid import Grid
from supervisor.rows.index import covered
from supervisor.rows.journal import JournalTail, JournalWriter, journal_path
from supervisor.rows.results import best, read
from supervisor.rows.space import Space
from supervisor.system import durable, sealed
from tests.support.data import write_csv

PLAN: dict[str, Any] = {"run_id": "r", "fee": 0.0005, "grid": {"a": [1, 2, 14]}, "who": "Zoë"}
GRID = Grid.of({"a": range(40)})


def flips(path: Path, step: int = 1) -> list[int]:
    """Each bit of a file, or one in so many."""
    return list(range(0, 8 * path.stat().st_size, step))


def flip(path: Path, bit: int) -> bytes:
    """Flip a bit; return the content as it was."""
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    return whole


def each_flip_shows(path: Path, right: Callable[[], Any], step: int = 1) -> None:
    """Each flip is an error that names the file, or what is read is what was written."""
    expected = right()
    noticed = 0
    for bit in flips(path, step):
        whole = flip(path, bit)
        try:
            assert right() == expected, f"bit {bit} was believed"
        except ConfigError as error:
            noticed += 1
            assert str(path) in str(error), str(error)
            assert "\n" not in str(error), str(error)
        path.write_bytes(whole)
    assert noticed > len(flips(path, step)) / 2


def test_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    durable.write_json(path, PLAN)
    assert durable.read_json(path) == PLAN
    each_flip_shows(path, lambda: {key: durable.read_json(path)[key] for key in PLAN})


def test_a_json_file_that_was_edited_says_how_it_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    durable.write_json(path, PLAN)
    path.write_text(path.read_text().replace("0.0005", "0.0006"))
    with pytest.raises(ConfigError, match='remove the line "crc32"'):
        durable.read_json(path)
    *body, _, _ = path.read_text().splitlines()
    path.write_text("\n".join(body).rstrip(",") + "\n}\n")
    assert durable.read_json(path)["fee"] == 0.0006


def test_json_of_another_program_and_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    durable.write_json(path, PLAN)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fee": 1}))
    assert durable.read_json(path) == PLAN | {"fee": 1}
    path.write_text(json.dumps(PLAN, indent=2) + "\n")
    assert durable.read_json(path) == PLAN


def test_in_a_fact(tmp_path: Path) -> None:
    log = EventLog(tmp_path, "front")
    log.emit("memory_seen", bytes=1000, why="Zoë")
    log.close()
    (fact,) = read_events(tmp_path)
    assert fact.fields == {"bytes": 1000, "why": "Zoë"}
    path = tmp_path / rundir.EVENTS_FILE
    for bit in flips(path)[: -8 * len(', "crc32": "00000000"}\n')]:
        whole = flip(path, bit)
        assert [one for one in read_events(tmp_path) if one != fact] == [], bit
        assert latest(tmp_path, "front.memory_seen") in ("", "front.memory_seen")
        path.write_bytes(whole)


def test_in_a_ledger_its_version_included(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger(path) as ledger:
        ledger.append("submitted", number=1, job_id="12")
    records = read_ledger(path)
    for bit in flips(path):
        whole = flip(path, bit)
        assert read_ledger(path) in ([], records), bit
        path.write_bytes(whole)


def plan_of(bars: Bars, strategy: Source) -> Plan:
    found: Provenance = inputs.provenance(bars, "f", strategy)
    return Plan(
        run_id="r", strategy="f", source=strategy, grid=GRID, combos_total=40, data="data",
        n_bars=len(bars), workers=1, provenance=found,
    )  # fmt: skip


@pytest.mark.parametrize("digest", ["known", "not written"])
def test_in_the_bars_of_a_run(tmp_path: Path, digest: str) -> None:
    bars = load_bars(write_csv(tmp_path / "bars.csv"))
    plan = plan_of(bars, Source.CALLABLE)
    inputs.keep(tmp_path, plan, bars, b"function")
    if digest == "not written":
        (tmp_path / rundir.INPUTS_FILE).unlink()
    each_flip_shows(
        tmp_path / rundir.BARS_FILE,
        lambda: inputs.bars_again(tmp_path, plan, lambda _: None).digest(),
        step=37,
    )


def test_bars_of_before_there_were_checksums_are_held_to_their_digest(tmp_path: Path) -> None:
    bars = load_bars(write_csv(tmp_path / "bars.csv"))
    plan = plan_of(bars, Source.CALLABLE)
    inputs.keep(tmp_path, plan, bars, b"function")
    path = tmp_path / rundir.BARS_FILE
    path.write_bytes(path.read_bytes()[:-12])
    assert inputs.bars_again(tmp_path, plan, lambda _: None).digest() == bars.digest()
    whole = flip(path, 8 * 4096)
    with pytest.raises(ConfigError, match=r"bars\.bin"):
        inputs.bars_again(tmp_path, plan, lambda _: None)
    path.write_bytes(whole)
    (tmp_path / rundir.INPUTS_FILE).unlink()
    with pytest.raises(ConfigError, match="no checksum"):
        inputs.bars_again(tmp_path, plan, lambda _: None)


def test_in_a_dilled_function(tmp_path: Path) -> None:
    bars = load_bars(write_csv(tmp_path / "bars.csv"))
    plan = plan_of(bars, Source.CALLABLE)
    inputs.keep(tmp_path, plan, bars, b"\x80function")

    def again() -> bytes | None:
        return inputs.function_again(tmp_path, plan, changed_code=False)

    each_flip_shows(tmp_path / rundir.FUNCTION_FILE, again)
    (tmp_path / rundir.FUNCTION_FILE).write_bytes(b"\x80of an older version")
    assert again() == b"\x80of an older version"


def test_in_cached_bars_which_are_read_from_the_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    csv = write_csv(tmp_path / "bars.csv")
    os.utime(csv, (1e9, 1e9))  # one written just now is not kept
    right = cache.load(csv)
    cache.keep(right)
    (copy,) = cache.directory().iterdir()
    whole = copy.read_bytes()
    # in each column, not in the header, which has no price in it
    for at in range(4096, len(whole), 48):
        flip(copy, 8 * at + 5)
        assert cache.load(csv).digest() == right.digest(), at
        copy.write_bytes(whole)


@pytest.mark.parametrize("n_bars", [0, 2**32, 2**62, 2**64 - 1])
def test_a_damaged_count_of_bars_is_an_error_like_any_other(tmp_path: Path, n_bars: int) -> None:
    bars = load_bars(write_csv(tmp_path / "bars.csv"))
    path = tmp_path / "bars.bin"
    whole = b"".join(file_blocks(bars.memfd))
    path.write_bytes(whole[:16] + n_bars.to_bytes(8, "little") + whole[24:])
    with path.open("rb") as file, pytest.raises(ProtocolError, match="cut short"):
        Bars.from_file(file.fileno(), unchecked=True)


def results_of(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    with JournalWriter(journal_path(tmp_path / "journal", 0), "r", 0) as journal:
        rows = np.arange(80, dtype=float).reshape(40, 2)
        journal.append(0, ["sharpe", "trades"], rows)
    compact(tmp_path / "journal", tmp_path / rundir.RESULTS_FILE, Space(GRID))
    return tmp_path / rundir.RESULTS_FILE


def test_in_results(tmp_path: Path) -> None:
    path = results_of(tmp_path)
    assert not checksum.is_damaged(path)

    def right() -> Any:
        try:
            return read(path).to_pylist(), best(path, "sharpe", 3)
        except (OSError, ValueError, KeyError) as error:  # Parquet has noticed it itself
            raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None

    each_flip_shows(path, right, step=5)


def test_results_of_before_there_were_checksums_are_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = read(results_of(tmp_path))
    pq.write_table(table, tmp_path / "old.parquet")
    assert read(tmp_path / "old.parquet").equals(table)
    assert not checksum.is_damaged(tmp_path / "old.parquet")
    assert not checksum.is_damaged(tmp_path / "none.parquet")


def test_a_journal_of_another_run_is_left_out_and_named(tmp_path: Path) -> None:
    own, other = journal_path(tmp_path / "journal", 0), journal_path(tmp_path / "journal", 1)
    own.parent.mkdir()
    for path, run_id, start in ((own, "mine", 0), (other, "theirs", 10)):
        with JournalWriter(path, run_id, 0) as journal:
            journal.append(start, ["sharpe"], np.ones((10, 1)))
    journals = rundir.journals(tmp_path, ["mine"])
    assert covered(journals, Space(GRID)) == [(0, 10)]
    (line,) = compact(journals, tmp_path / "r.parquet", Space(GRID)).damaged
    assert line == f"{other}: is a journal of run theirs, not of mine: left out"
    assert covered(rundir.journals(tmp_path, ["mine", "theirs"]), Space(GRID)) == [(0, 20)]
    tail = JournalTail(tmp_path / "journal", ["mine"])
    assert [frame.start for frame in tail.poll()] == [0]
    assert tail.poll() == []


def test_journals_of_shards_have_the_shards_ids(tmp_path: Path) -> None:
    for index, run_id in ((0, "run-0"), (3, "run-3"), (4, "run-3"), (5, "other-5")):
        folder = tmp_path / rundir.SHARD_DIR / f"{index:05d}" / rundir.JOURNAL_DIR
        folder.mkdir(parents=True)
        with JournalWriter(journal_path(folder, 0), run_id, 0) as journal:
            journal.append(index, ["sharpe"], np.ones((1, 1)))
    assert covered(rundir.journals(tmp_path, ["run"]), Space(GRID)) == [(0, 1), (3, 4)]


def test_packed_bytes_come_back_or_are_an_error() -> None:
    assert sealed.unpack(sealed.pack(b"")) == b""
    for damaged in (b"", b"fs-seal1", sealed.pack(b"one")[:-1], b"one"):
        with pytest.raises(sealed.DamagedError):
            sealed.unpack(damaged)
