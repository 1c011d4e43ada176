"""A slice of ``make fuzz``, and whether its watch sees what it is there to see."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.rows import checksum
from supervisor.system import sealed
from tests.fuzz import damage, engine
from tests.fuzz.engine import Game, Score
from tests.fuzz.targets import TARGETS, Target
from tests.support.cli import Place

ROUNDS = 60
COMMANDS = 40
SEED = 0


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Game]:
    with engine.game(tmp_path_factory.mktemp("fuzz").resolve()) as here:
        yield here


def played(game: Game, target: Target, rounds: int = ROUNDS) -> Score:
    total = Score()
    for seed in range(SEED, SEED + rounds):
        engine.add(total, game.play(target, seed))
    return total


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_what_is_damaged_is_refused_or_left_out(game: Game, target: Target) -> None:
    assert played(game, target).bad == []


def test_commands_on_a_damaged_place_end_in_order_and_touch_nothing_foreign(game: Game) -> None:
    total = Score()
    for seed in range(SEED, SEED + COMMANDS):
        engine.add(total, game.command(seed))
    assert total.bad == []


# -- the watch itself ------------------------------------------------------------------------------


def the(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)


def test_without_its_checksum_a_damaged_file_is_believed(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "check", lambda _path: None)
    assert played(game, the("results")).wrong
    monkeypatch.setattr(sealed, "check_line", lambda text: text)
    assert played(game, the("events"), rounds=600).wrong


def test_the_watch_sees_foreign_effects(game: Game, tmp_path: Path) -> None:
    with game.watch.looking():
        (tmp_path / "outside").write_text("x")
        (game.sample.root / "work" / "inside").write_text("x")
        with pytest.raises(FileNotFoundError):
            subprocess.Popen(["/nowhere/at-all"])
        pidfd = os.pidfd_open(os.getpid())
        signal.pidfd_send_signal(pidfd, 0)
        os.close(pidfd)
        game.watch.controller.run(["scancel", "4713"])
    (game.sample.root / "work" / "inside").unlink()
    seen = " ".join(game.watch.effects)
    assert "outside" in seen
    assert "inside" not in seen
    for effect in ("subprocess.Popen", f"pid {os.getpid()}", "foreign job 4713"):
        assert effect in seen


# -- real processes --------------------------------------------------------------------------------


def absurd(place: Place) -> Path:
    """A killed run, of whose files each is wrong in another way; and a registry like it."""
    run_dir = place.work / "runs" / "r"
    run_dir.mkdir(parents=True)
    runs = place.root / "state" / "allstop" / "runs"
    jobs = place.root / "state" / "allstop" / "jobs"
    for folder in (runs, jobs):
        folder.mkdir(parents=True, mode=0o700)
    for at, raw in enumerate((b"", b"\xff\xfe\0", damage.nested(), b"[]", b'{"run_id": 1e400}')):
        (runs / f"bad-{at}.json").write_bytes(raw)
        (jobs / f"bad-{at}.json").write_bytes(raw)
    (runs / "folder.json").mkdir()
    who = {"pid": -1, "start_time": 10**30}
    entry = {"run_id": "r", "run_dir": str(run_dir), "front": who, "warden": who}
    (runs / "r.json").write_text(json.dumps(entry))
    rng = random.Random(0)
    for name in ("run.json", "report.json", "events.jsonl", "ledger", ".lock", "inputs.json"):
        (run_dir / name).write_bytes(rng.randbytes(500) + damage.nested(1000))
    (run_dir / "events.jsonl").write_bytes(damage.nested() + b"\n" + b'{"event": 1, "at": NaN}\n')
    return run_dir


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["reap"], 1), (["reap", "--json"], 1), (["status", "runs/r"], 2), (["report"], 2),
        (["report", "runs/r", "--html"], 2), (["resume", "runs/r"], 2), (["jobs"], 0),
        (["stop"], 2), (["stop", "--all"], 0), (["jobs", "runs/r"], 0),
    ],
    ids=str,
)  # fmt: skip
def test_a_command_beside_damaged_files_ends_in_order(
    place: Place, arguments: list[str], code: int
) -> None:
    absurd(place)
    done = place.command(*arguments)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == code, done
    assert done.stderr.count("\n") <= 1


def test_one_bad_entry_does_not_keep_reap_from_the_others(place: Place) -> None:
    absurd(place)
    runs = place.root / "state" / "allstop" / "runs"
    said = place.command("reap").stdout
    for at in range(5):
        assert f"bad-{at}.json could not be read: removed" in said
        assert f"jobs/bad-{at}.json" in said  # only the user knows where its jobs are
    assert "folder.json can be neither read nor removed" in said
    assert [path.name for path in runs.iterdir()] == ["folder.json"]


def test_a_run_beside_a_damaged_registry_is_as_any_other(place: Place) -> None:
    absurd(place)
    run = place.sweep("def f(bars, params, stop):\n    return row(params)\n", n=20)
    assert run.end() == 0, run.tell()
    assert "Traceback" not in run.err
    assert len(run.results()) == 20
