"""What commands print, wherever it goes: terminals that obey, ASCII, full, closed, odd paths."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.support.cli import Place
from tests.support.waiting import DEADLINE_S

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\u202e[red]"
"""Clears a screen, sets its title, returns to the line's begin, reverses text; rich markup."""
RAW = os.fsdecode(b"\xff\xfe")
"""Bytes of a path that are no UTF-8."""
COMMANDS = (
    ["status"], ["report"], ["report", "--html"], ["jobs"], ["resume"], ["stop"], ["reap"],
)  # fmt: skip
HOPELESS = """
def f(bars, params, stop):
    if params["a"] == 1:
        raise ValueError("HOSTILE")
    return row(params)
"""


def shell(place: Place, script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``allstop`` as ``$A`` in a shell; its output as bytes."""
    command = ["bash", "-c", f'A() {{ "${{@}}"; }}; {script}', "bash", *place.argv(*arguments)]
    return subprocess.run(
        command, cwd=place.work, stdin=subprocess.DEVNULL, capture_output=True, env=place.env,
        timeout=2 * DEADLINE_S,
    )  # fmt: skip


def obeys(output: bytes) -> bool:
    """Whether a terminal would do more with it than show it."""
    return not all(one.isprintable() for one in output.decode().replace("\n", ""))


def hostile_run(place: Place) -> str:
    """A finished run whose every name is hostile; return its directory."""
    place.strategy(HOPELESS.replace("HOSTILE", HOSTILE.encode("unicode_escape").decode()))
    strategy = place.root / f"s{HOSTILE}{RAW}.py"
    (place.root / "strategy.py").rename(strategy)
    data = place.root / f"d{HOSTILE}{RAW}.csv"
    place.data.rename(data)
    run_dir = str(place.root / f"run{HOSTILE}{RAW}")
    said = shell(
        place, 'A "$@"', "run", "--data", str(data), "--strategy", f"{strategy}:f", "--grid",
        "a=0:3", "--grid", f"{HOSTILE}=x{HOSTILE},y", "--workers", "1", "--run-dir", run_dir,
    )  # fmt: skip
    assert said.returncode == 0, said
    assert not obeys(said.stdout), said.stdout
    assert not obeys(said.stderr), said.stderr
    assert rb"\x1b[2J\x1b]0;owned\x07\r\u202e[red]" in said.stdout
    assert rb"\xff\xfe" in said.stdout
    return run_dir


def test_no_command_has_the_terminal_obey_a_name(place: Place) -> None:
    run_dir = hostile_run(place)
    for command in COMMANDS:
        for as_json in ([], ["--json"]):
            said = shell(place, 'A "$@"', *command, run_dir, *as_json)
            assert b"Traceback" not in said.stderr, said
            assert not obeys(said.stdout), (command, said.stdout)
            assert not obeys(said.stderr), (command, said.stderr)
            if as_json:
                assert json.loads(said.stdout.splitlines()[-1])
    for wrong in (["run", HOSTILE], ["run", f"--{HOSTILE}"], [HOSTILE], ["run", "--", HOSTILE]):
        said = shell(place, 'A "$@"', *wrong)
        assert said.returncode == 2, said
        assert said.stderr.startswith(b"allstop: "), said
        assert said.stderr.count(b"\n") == 1, said
        assert not obeys(said.stderr), said.stderr


@pytest.mark.parametrize("where", ["run", "command"])
def test_a_working_directory_that_is_no_utf_8(place: Place, where: str) -> None:
    place.work = place.root / f"w{RAW}"
    place.work.mkdir()
    if where == "command":
        said = shell(place, 'A "$@"', "run", "--", "pwd")
        assert said.stdout == os.fsencode(place.work) + b"\n", said
    else:
        said = shell(
            place, 'A "$@"', "run", "--data", str(place.data), "--strategy",
            place.strategy("def f(bars, params, stop):\n    return row(params)"), "--grid", "a=0:3",
        )  # fmt: skip
    assert (said.returncode, b"Traceback" in said.stderr) == (0, False), said
    said = shell(place, 'A "$@"', "report", "--json")
    assert json.loads(said.stdout)["status"] == "completed", said


def test_what_was_deleted_is_no_working_directory(place: Place) -> None:
    run_dir = hostile_run(place)
    gone = 'mkdir gone && cd gone && rmdir ../gone && A "$@"'
    for command in COMMANDS:
        said = shell(place, gone, *command, run_dir)
        assert b"Traceback" not in said.stderr, (command, said)
        assert said.returncode == (2 if command == ["stop"] else 0), (command, said)
    said = shell(place, gone, "run", "--", "true")
    assert said.returncode == 2
    assert said.stderr == b"allstop: the working directory was deleted: change to another one\n"
    said = shell(place, gone, "doctor")
    assert b"could not be checked" not in said.stdout, said


def test_a_terminal_that_has_only_ascii(place: Place) -> None:
    place.env |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    run_dir = hostile_run(place)
    every = [
        *([*command, run_dir] for command in COMMANDS),
        ["--help"], ["run", "--help"], ["doctor"], ["run", "東京.toml"],
    ]  # fmt: skip
    for command in every:
        said = shell(place, 'A "$@"', *command)
        assert b"Traceback" not in said.stderr, (command, said)
        assert said.stdout.isascii(), (command, said)
        assert said.stderr.isascii(), (command, said)


FULL = b"allstop: standard output cannot be written: No space left on device\n"


def test_output_that_cannot_be_written(place: Place) -> None:
    """One line; a run's exit code tells of the run all the same."""
    run = ["run", "--run-dir", str(place.root / "run"), "--json", "--", "sh", "-c", "exit 0"]
    said = shell(place, 'A "$@" > /dev/full', *run)
    assert (said.returncode, said.stderr) == (0, FULL)
    for command in (["status"], ["report"], ["jobs"], ["doctor"], ["--help"], ["reap"]):
        of_run = command[0] in ("status", "report")
        ours = [*command, str(place.root / "run")] if of_run else command
        for as_json in ([], ["--json"]):
            if command != ["--help"] or not as_json:
                said = shell(place, 'A "$@" > /dev/full', *ours, *as_json)
                assert (said.returncode, said.stderr) == (1, FULL), (command, said)
        if command == ["doctor"]:
            continue  # it takes seconds, and prints as the others do
        for how in (">&-", "2>&-", ">&- 2>&- <&-", "2> /dev/full", "| true", "| head -1"):
            said = shell(place, f'A "$@" {how}', *ours)
            assert b"Traceback" not in said.stdout + said.stderr, (command, how, said)
            assert said.stderr == b"", (command, how, said)
            assert said.returncode in (0, 1), (command, how, said)
