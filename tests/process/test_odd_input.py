"""Names of the command line that lead to no ordinary file: one line, within bounds of time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess

import pytest

from tests.support.cli import Place
from tests.support.waiting import DEADLINE_S

SPEC = 'strategy = "{strategy}"\ndata = "{data}"\nworkers = 1\n[grid]\na = [1, 2]\n'
STRATEGY = "def f(bars, params, stop):\n    return row(params)"
MEMORY_KB = 3_000_000
KINDS = ("fifo", "socket", "directory", "zero", "big", "loop")


def bounded(place: Place, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``allstop`` as ``$@`` in a shell with less memory than an endless file would fill."""
    return subprocess.run(
        ["bash", "-c", f"ulimit -v {MEMORY_KB}; {script}", "bash", *place.argv(*arguments)],
        cwd=place.work, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=place.env,
        timeout=DEADLINE_S,
    )  # fmt: skip


def make(place: Place, kind: str, suffix: str) -> str:
    """Put a file of a kind into the working directory; return its name."""
    name = f"{kind}{suffix}"
    path = place.work / name
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            # the path of a socket is short
            with contextlib.chdir(place.work), socket.socket(socket.AF_UNIX) as listener:
                listener.bind(name)
        case "directory":
            path.mkdir()
        case "zero":
            path.symlink_to("/dev/zero")
        case "big":
            with path.open("wb") as file:
                file.truncate(5 * 2**30)
        case "loop":
            path.symlink_to(name)
    return name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_one_line(place: Place, kind: str) -> None:
    spec, code = make(place, kind, ".toml"), make(place, kind, ".py")
    data = ["--data", str(place.data), "--grid", "a=1", "--workers", "1"]
    for said, name in (
        (bounded(place, 'exec "$@"', "run", spec), spec),
        (bounded(place, 'exec "$@"', "run", "--strategy", f"{code}:f", *data), code),
        (bounded(place, 'exec "$@"', "run", "--strategy", f"{kind}:f", *data), code),
    ):
        assert said.returncode == 2, said
        assert said.stderr.startswith("allstop: "), said
        assert said.stderr.count("\n") == 1, said
        assert name in said.stderr, said


def test_a_home_directory_that_is_not_known_is_one_line(place: Place) -> None:
    """Nobody's ``~``; in containers, often one's own."""
    data = ["--data", "~no-such-user/x.csv", "--grid", "a=1"]
    said = bounded(place, 'exec "$@"', "run", "--strategy", "m:f", *data)
    assert said.returncode == 2, said
    assert said.stderr.startswith("allstop: a home directory cannot be determined"), said
    assert said.stderr.count("\n") == 1, said


def test_a_spec_may_come_from_a_pipe(place: Place) -> None:
    """The text can be read only once: a guess at the strategy must not take it."""
    text = SPEC.format(strategy=place.strategy(STRATEGY), data=place.data)
    place.env["TEXT"] = text
    for script in (
        'exec "$@" <(sleep 0.2; printf %s "$TEXT")',
        'printf %s "$TEXT" | "$@" /dev/stdin',
    ):
        said = bounded(place, script, "run", "--json")
        assert (said.returncode, "completed" in said.stdout) == (0, True), said
    said = bounded(place, 'exec "$@" <(true)', "run")
    assert (said.returncode, "nothing was written to it" in said.stderr) == (2, True), said
