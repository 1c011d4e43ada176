"""Another user's run directory, or one that others may write: looked at on request, never used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.records.home import home_of
from supervisor.records.ledger import Ledger
from supervisor.system import durable, sealed
from tests.support.cli import POLITE, Place

NOBODY = 65534
RUN_ID = "20240229-120000-abcdef"
TOKEN = f"allstop-{RUN_ID}-01234567"

SUM = """
def f(bars, params, stop):
    return row(params)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, to be copied."""
    place = Place(tmp_path_factory.mktemp("finished"))
    run = place.sweep(SUM, n=10)
    assert run.end() == 0, run.tell()
    place.wait_sent_for()
    return run.run_dir


@pytest.fixture
def run_dir(place: Place, finished: Path) -> Path:
    there = Path(shutil.copytree(finished, place.root / "theirs", copy_function=shutil.copy2))
    plan = durable.read_json(there / "run.json")  # not the copy of a run, but that run
    durable.write_json(there / "run.json", plan | home_of(there))
    return there


def give_away(run_dir: Path) -> None:
    for path in (run_dir, *run_dir.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def open_to_all(run_dir: Path) -> None:
    run_dir.chmod(0o777)


def open_to_the_group_below(run_dir: Path) -> None:
    (run_dir / "journal").chmod(0o770)


def journal_of_others(run_dir: Path) -> None:
    shutil.move(run_dir / "journal", run_dir.parent / "journal")
    (run_dir / "journal").symlink_to(run_dir.parent / "journal")


CHANGES = [
    pytest.param(give_away, "belongs to", marks=needs_root),
    (open_to_all, "may be written by other users (mode 0777)"),
    (open_to_the_group_below, "may be written by other users (mode 0770)"),
    (journal_of_others, "is a link"),
]
COMMANDS = [
    ("report",), ("status",), ("resume",), ("jobs",), ("jobs", "--cancel"), ("reap",),
]  # fmt: skip


def looked_at(run_dir: Path) -> list[tuple[str, int, bytes]]:
    return [
        (str(path), path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(run_dir.rglob("*"))
    ]


def refused(place: Place, *arguments: str) -> str:
    ended = place.command(*arguments)
    assert ended.returncode == 2, (arguments, ended.stdout, ended.stderr)
    assert ended.stderr.startswith("allstop: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_no_command_uses_what_others_may_have_written(
    place: Place, run_dir: Path, change: Callable[[Path], None], what: str
) -> None:
    """A report is missing, jobs are outstanding: every command has something to do here."""
    with Ledger(run_dir / "ledger") as ledger:
        ledger.append("jobs_expected", token=TOKEN, address="local", variables={}, others=True)
    (run_dir / "report.json").unlink()
    change(run_dir)
    before = looked_at(run_dir)
    for command in COMMANDS:
        said = refused(place, command[0], str(run_dir), *command[1:])
        assert what in said
        assert str(run_dir) in said
    assert looked_at(run_dir) == before


@needs_root
def test_a_foreign_run_is_shown_on_request_and_nothing_is_written_there(
    place: Place, run_dir: Path
) -> None:
    give_away(run_dir)
    before = looked_at(run_dir)
    said = refused(place, "report", str(run_dir))
    assert f"report --untrusted {run_dir}" in said
    shown = place.command("report", "--untrusted", str(run_dir))
    assert shown.returncode == 0, shown.stderr
    assert "10 of 10 combinations" in shown.stdout
    assert "best by sharpe" in shown.stdout
    assert "--out" in refused(place, "report", "--untrusted", "--html", str(run_dir))
    if shutil.which("python") and _has_plotly():
        page = place.command(
            "report", "--untrusted", str(run_dir), "--out", str(place.root / "page.html")
        )
        assert page.returncode == 0, page.stderr
        assert (place.root / "page.html").stat().st_mode & 0o777 == 0o600
    (run_dir / "report.json").unlink()
    before = [one for one in before if not one[0].endswith("/report.json")]
    assert "no report" in refused(place, "report", "--untrusted", str(run_dir))
    assert looked_at(run_dir) == before


def _has_plotly() -> bool:
    import importlib.util

    return importlib.util.find_spec("plotly") is not None


@pytest.mark.parametrize("untrusted", [[], ["--untrusted"]])
@pytest.mark.parametrize("name", ["run.json", "report.json", "results.parquet", "events.jsonl"])
def test_no_link_is_followed_to_what_is_private(
    place: Place, run_dir: Path, name: str, untrusted: list[str]
) -> None:
    secret = place.root / "id_ed25519"
    secret.write_text('{"run_id": "-----BEGIN OPENSSH PRIVATE KEY-----"}')
    secret.chmod(0o600)
    (run_dir / name).unlink()
    (run_dir / name).symlink_to(secret)
    said = refused(place, "report", str(run_dir), *untrusted)
    assert f"{name} is a link, and is not followed" in said
    assert "PRIVATE" not in said


@needs_root
@pytest.mark.parametrize("name", ["run.json", "function.dill", "journal/worker-0000.bin"])
def test_one_foreign_file_is_enough_not_to_resume(place: Place, run_dir: Path, name: str) -> None:
    asked = json.loads((run_dir / "run.json").read_text())
    asked |= {"source": "callable"}
    (run_dir / "run.json").write_text(json.dumps(asked))
    planted = b"cos\nsystem\n(S'touch executed'\ntR."
    (run_dir / "function.dill").write_bytes(sealed.pack(planted))
    (run_dir / "results.parquet").unlink()
    os.chown(run_dir / name, NOBODY, NOBODY)
    said = refused(place, "resume", str(run_dir))
    assert f"{run_dir / name} belongs to" in said
    assert not (place.work / "executed").exists()


def test_the_group_s_umask_makes_nothing_that_the_group_may_write(place: Place) -> None:
    argv = place.run_argv(SUM, n=10)
    place.work.chmod(0o770)
    run = place.start(["sh", "-c", 'umask 000; exec "$@"', "sh", *argv])
    assert run.end() == 0, run.tell()
    place.wait_sent_for()
    made = [run.run_dir, *run.run_dir.rglob("*"), *(place.root / "state").rglob("*")]
    wide = {str(path): oct(path.lstat().st_mode) for path in made if path.lstat().st_mode & 0o077}
    assert wide == {}


# -- what a run directory may say --------------------------------------------------------------


def planted_programs(folder: Path) -> Path:
    folder.mkdir()
    for name in ("id", "squeue", "scontrol", "scancel", "sh"):
        (folder / name).write_text('#!/bin/sh\n: >"${0%/*}/executed"\n')
        (folder / name).chmod(0o755)
    return folder / "executed"


@pytest.mark.parametrize("command", [("jobs",), ("jobs", "--cancel"), ("resume",)])
def test_a_ledger_names_no_program_to_execute(
    place: Place, run_dir: Path, command: tuple[str, ...]
) -> None:
    executed = planted_programs(place.root / "planted")
    preload = {"LD_PRELOAD": "/nowhere.so", "PATH": str(executed.parent)}
    with Ledger(run_dir / "ledger") as ledger:
        ledger.append("jobs_expected", token=TOKEN, address="local", variables=preload, others=True)
        ledger.append("submit_intended", number=1, name="x")
    (run_dir / "report.json").unlink()
    tools = place.root / "tools"
    tools.mkdir()
    place.env["PATH"] = str(tools)  # no SLURM of the user's own
    ended = place.command(command[0], str(run_dir), *command[1:])
    assert "on its PATH" in ended.stdout + ended.stderr
    assert not executed.exists()


@pytest.mark.parametrize("address", ["local", "ssh:nowhere.invalid"])
@pytest.mark.parametrize("command", ["resume", "report"])
def test_a_ledger_names_no_directory_to_remove(
    place: Place, run_dir: Path, address: str, command: str
) -> None:
    precious = place.root / "precious"
    precious.mkdir()
    (precious / "file").touch()
    with Ledger(run_dir / "ledger") as ledger:
        ledger.append("copy_made", address=address, path=str(precious))
    for journal in (run_dir / "journal").iterdir():
        journal.unlink()
    (run_dir / "report.json").unlink()
    place.command(command, str(run_dir))
    assert (precious / "file").exists()


ODD_IDS = (
    "../../planted", "/tmp/x", "..", "", "a" * 65, "a\nb", "a\x1b[2J", "a b", "ä", 7, None,
)  # fmt: skip


@pytest.mark.parametrize("run_id", ODD_IDS)
def test_an_id_that_is_none_is_one_line(place: Place, run_dir: Path, run_id: object) -> None:
    asked = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(asked | {"run_id": run_id}))
    for command in ("report", "status", "resume"):
        said = refused(place, command, str(run_dir))
        assert re.search("run.json: .*run id", said), said
        assert said.rstrip("\n").isprintable()


def test_the_fix_that_is_named_is_enough(place: Place, run_dir: Path) -> None:
    (run_dir / "results.parquet").chmod(0o664)
    assert "chmod -R go-w" in refused(place, "report", str(run_dir))
    subprocess.run(["chmod", "-R", "go-w", run_dir], check=True)
    assert place.command("report", str(run_dir)).returncode == 0


@pytest.mark.parametrize("name", [".", "events.jsonl", "run.json"])
def test_a_run_of_ours_is_stopped_whatever_has_become_of_its_directory(
    place: Place, name: str
) -> None:
    run = place.sweep(POLITE, DONE=20)
    run.wait_marks("ready", 2)
    before = (run.run_dir / name).stat().st_mode
    (run.run_dir / name).chmod(0o777)
    ended = place.command("stop")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run.run_dir / name).chmod(before)
    run.end()
    run.assert_gone()
