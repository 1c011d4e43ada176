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
from supervisor.rows.journal import journal_paths
from tests.support.cli import Place, rows_of

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
    for name in ("run.json", "inputs.json", "results.parquet", "report.json"):
        named = at(calls, "name", run_dir / name)
        earlier, after = calls[:named], calls[named + 1 :]
        before = [call for call in earlier if call.thread == calls[named].thread][-1]
        assert before.kind == "sync", name
        assert before.path.name.startswith(f".{name}."), name
        assert run_dir in [call.path for call in after if call.kind == "sync"], name
    results = at(calls, "name", run_dir / "results.parquet")
    journals = journal_paths(run_dir / "journal")
    assert len(journals) == 2
    for journal in journals:
        assert at(calls, "sync", journal) < results
    assert at(calls, "sync", run_dir / "journal") < results
    assert results < at(calls, "name", run_dir / "report.json")
    assert at(calls, "sync", run_dir.parent) > results
    # who waits for the first row waits for two small files, and for no directory
    early = calls[: at(calls, "name", run_dir / "inputs.json")]
    waited = [call for call in early if call.thread != "allstop-keeper" and call.kind == "sync"]
    assert len(waited) == 2
    assert all(call.path.name.endswith(".tmp") for call in waited)


def test_a_long_run_does_not_leave_its_journals_to_the_kernels_leisure(
    inside: Place, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.front.sweep._SYNC_EVERY_S", 0.05)
    body = """
    def f(bars, params, stop):
        if params["a"] < 20:
            return row(params)
        stop.wait()
    """
    with supervisor.sweep(
        inside.strategy(body), {"a": range(40)}, inside.data, workers=2,
        run_dir=inside.root / "run",
    ) as run:  # fmt: skip
        from tests.support.waiting import wait_for

        wait_for(
            lambda: {c.path.name for c in list(calls)} >= {"worker-0000.bin", "worker-0001.bin"},
            "the journals synced",
        )
        assert all(c.thread == "allstop-keeper" for c in calls if c.path.suffix == ".bin")
        run.stop()


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
