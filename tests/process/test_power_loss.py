"""What is on the disk when, and a real run resumed after a power loss."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import supervisor
from supervisor.lifecycle import keep
from supervisor.rows.journal import journal_paths
from supervisor.system.durable import FolderSync
from tests.support.cli import POLITE, Place, rows_of
from tests.support.processes import is_helper

UNTIL_KEPT = """
def f(bars, params, stop):
    '''A run that is over before its inputs are kept does not keep them.'''
    while not (HERE / "run" / "inputs.json").exists():
        time.sleep(0.001)
    return row(params)
"""


class Call(NamedTuple):
    """What was asked of the disk: ``sync`` of a path, or the ``name`` that a path was given."""

    kind: str
    path: Path
    thread: str


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Everything that this process asks of the disk, in order."""
    noted: list[Call] = []

    def note(kind: str, path: object) -> None:
        noted.append(Call(kind, Path(str(path)), threading.current_thread().name))

    def syncing(call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: object) -> None:
            number = fd if isinstance(fd, int) else fd.fileno()  # type: ignore[attr-defined]
            path = Path(f"/proc/self/fd/{number}").readlink()
            call(number)
            note("sync", path)

        return sync

    monkeypatch.setattr(os, "fsync", syncing(os.fsync))
    monkeypatch.setattr(os, "fdatasync", syncing(os.fdatasync))
    replace = os.replace

    def renaming(old: object, new: object) -> None:
        replace(old, new)  # type: ignore[arg-type]
        note("name", new)

    monkeypatch.setattr(os, "replace", renaming)
    return noted


def at(calls: list[Call], kind: str, path: Path) -> int:
    """When a call was made last."""
    return max(i for i, call in enumerate(calls) if (call.kind, call.path) == (kind, path))


def test_names_come_after_bytes_and_results_after_what_they_are_made_of(
    inside: Place, calls: list[Call]
) -> None:
    run_dir = inside.root / "run"
    with supervisor.sweep(
        inside.strategy(UNTIL_KEPT), {"a": range(200)}, inside.data, workers=2,
        run_dir=run_dir,
    ) as run:  # fmt: skip
        report = run.wait()
    assert report.status == "completed"
    for name in ("run.json", "results.parquet", "report.json"):
        assert_durable(calls, run_dir / name)
    results = at(calls, "name", run_dir / "results.parquet")
    journals = journal_paths(run_dir / "journal")
    assert len(journals) == 2
    for journal in journals:
        assert at(calls, "sync", journal) < results
    assert at(calls, "sync", run_dir / "journal") < results
    assert results < at(calls, "name", run_dir / "report.json")
    assert at(calls, "sync", run_dir.parent) > results
    # who waits for the first row waits for two small files, and for no directory
    synced = [call for call in calls if call.kind == "sync"]
    of_the_end = ["journal" in str(c.path) or ".results." in c.path.name for c in synced]
    waited = synced[: of_the_end.index(True)]
    assert len(waited) == 2
    assert all(call.path.name.endswith(".tmp") for call in waited)


def assert_durable(calls: list[Call], path: Path) -> None:
    """Its bytes were synced before it had its name, and the name afterwards."""
    named = at(calls, "name", path)
    earlier, after = calls[:named], calls[named + 1 :]
    before = [call for call in earlier if call.thread == calls[named].thread][-1]
    assert before.kind == "sync", path
    assert before.path.name.startswith(f".{path.name}."), path
    assert path.parent in [call.path for call in after if call.kind == "sync"], path


def test_what_a_resume_needs_is_whole_before_inputs_json_is_there(
    tmp_path: Path, calls: list[Call]
) -> None:
    files = {}
    for name in ("function.dill", "bars.bin", "inputs.json"):
        files[name] = os.memfd_create(name)
        os.write(files[name], name.encode())
    keep.keep(tmp_path, files)
    for name in files:
        assert (tmp_path / name).read_bytes().startswith(name.encode())
        assert_durable(calls, tmp_path / name)
    named = [call.path.name for call in calls if call.kind == "name"]
    assert named == list(files)
    os.pwrite(files["bars.bin"], b"other", 0)
    keep.keep(tmp_path, files)
    assert (tmp_path / "bars.bin").read_bytes().startswith(b"bars.bin"), "it was whole already"
    for fd in files.values():
        os.close(fd)


def test_journals_are_synced_when_they_have_grown(tmp_path: Path, calls: list[Call]) -> None:
    journals = FolderSync(tmp_path, ".bin")
    one, two = tmp_path / "worker-0000.bin", tmp_path / "worker-0001.bin"
    for grown, path in enumerate((one, two)):
        calls.clear()
        path.write_bytes(b"rows")
        journals.sync()
        assert [call.path for call in calls] == [path, tmp_path], grown
    calls.clear()
    (tmp_path / "another's").mkdir()
    journals.sync()
    assert calls == []
    one.write_bytes(b"more rows")
    journals.sync()
    assert [call.path for call in calls] == [one]


def test_the_keeper_of_a_long_run_lives_as_long_as_the_run(place: Place) -> None:
    """It is what syncs the journals; it ends with the front, killed or not."""
    run = place.sweep(POLITE, DONE=10)
    run.wait_marks("ready", 2)
    kept = run.run_dir / "inputs.json"
    run.wait_for(kept.exists, "what a resume needs")

    def keepers() -> list[int]:
        found = [who.pid for who in place.alive() if is_helper(who.pid)]
        return [
            pid for pid in found if b"lifecycle.keep" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    assert len(keepers()) == 1
    run.kill_front()
    run.wait_report()
    run.assert_gone()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_is_carried_on_after_a_power_loss(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    run = place.sweep(UNTIL_KEPT, n=150, workers=3)
    assert run.end() == 0, run.tell()
    whole = (run.run_dir / "results.parquet").read_bytes()
    shutil.copytree(run.run_dir, place.root / "whole")
    for name in ("results.parquet", "report.json"):
        (run.run_dir / name).unlink()
    left = [_damage(path, chance) for path in journal_paths(run.run_dir / "journal")]
    with (run.run_dir / "events.jsonl").open("r+b") as file:
        file.truncate(chance.randrange(os.fstat(file.fileno()).st_size))
        file.seek(0, os.SEEK_END)
        file.write(bytes(4096))
    again = place.start(place.argv("resume", str(run.run_dir), "--json"))
    assert again.end() == 0, again.tell()
    assert (run.run_dir / "results.parquet").read_bytes() == whole, left
    assert len(rows_of(run.run_dir)) == 150
    assert again.report["combos_done"] == 150
    again.assert_gone()


def _damage(path: Path, chance: random.Random) -> str:
    raw = path.read_bytes()
    size = chance.randrange(len(raw))
    how = chance.choice(["cut", "zeros", "longer", "stale", "header"])
    tails = {
        "cut": b"", "zeros": bytes(len(raw) - size), "longer": bytes(3 * 4096),
        "stale": chance.randbytes(len(raw) - size), "header": raw[size:],
    }  # fmt: skip
    head = chance.randbytes(128) + raw[128:size] if how == "header" else raw[:size]
    path.write_bytes(head + tails[how])
    return f"{path.name}: {how} at {size} of {len(raw)}"
