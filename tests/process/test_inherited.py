"""What a run inherits from a parent that means it ill, or well: blocked and ignored signals."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.cli import DEAF, POLITE, Place, Started
from tests.support.waiting import wait_for

AS_A_LAUNCHER = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
for name in filter(None, sys.argv[1].split(",")):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Blocks every signal and ignores some; both outlive the exec."""


def start(place: Place, argv: list[str], ignored: str = "") -> Started:
    return place.start([sys.executable, "-c", AS_A_LAUNCHER, ignored, *argv])


def masks(pid: int | str = "self") -> dict[str, set[int]]:
    """Signals of a process by what is done with them: blocked, ignored, caught."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("SigBlk", "SigIgn", "SigCgt"):
            bits = int(value, 16)
            found[name] = {number for number in range(1, 65) if bits >> (number - 1) & 1}
    return found


@pytest.mark.parametrize(
    ("number", "ignored", "code"),
    [
        (signal.SIGINT, "", 130),
        (signal.SIGTERM, "SIGTERM,SIGINT,SIGCHLD", 143),
        (signal.SIGHUP, "SIGUSR1,SIGQUIT,SIGPIPE", 129),
    ],
)
def test_signals_blocked_by_a_launcher_stop_the_run_all_the_same(
    place: Place, number: signal.Signals, ignored: str, code: int
) -> None:
    run = start(place, place.run_argv(POLITE, DONE=20), ignored)
    pids = run.wait_marks("ready", 2)
    for pid in (run.front, run.warden, *pids):
        assert masks(pid)["SigBlk"] == set()
        assert signal.SIGCHLD not in masks(pid)["SigIgn"]
    run.signal(number)
    assert run.end() == code, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(20)


def test_the_second_ctrl_c_kills_under_a_launcher_too(place: Place) -> None:
    run = start(
        place, place.run_argv(DEAF, "--grace", "60", "--terminate", "60", DONE=5), "SIGCHLD"
    )
    run.wait_marks("ready", 2)
    run.signal(signal.SIGINT)
    run.wait_for(lambda: '"front.stop_requested"' in run.events, "the stop noted")
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    run.assert_gone()


@pytest.mark.parametrize(("ignored", "kept"), [("SIGTERM,SIGCHLD", False), ("SIGHUP", True)])
def test_a_command_has_no_signal_blocked_and_keeps_nohup(
    place: Place, ignored: str, kept: bool
) -> None:
    run = start(place, place.argv("run", "--", "cat", "/proc/self/status"), ignored)
    assert run.end() == 0, run.tell()
    shown = dict(line.split(":\t") for line in run.out.splitlines() if line.startswith("Sig"))
    assert int(shown["SigBlk"], 16) == 0
    # those from 32 on are the C library's, and inherited from whatever started the tests
    ordinary = int(shown["SigIgn"], 16) & ((1 << signal.SIGSYS) - 1)
    assert ordinary == (kept << (signal.SIGHUP - 1)), run.out


def test_a_command_under_a_launcher_is_interrupted(place: Place) -> None:
    ready = place.root / "ready"
    run = start(
        place,
        place.argv("run", "--run-dir", str(place.root / "run"), "--", "sh", "-c",
                   f"touch {ready}; exec sleep 1000"),
    )  # fmt: skip
    wait_for(ready.exists, "the command", tell=run.tell)
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert [rung["name"] for rung in run.report["stop"]["rungs"]] == ["flag", "verify"]
    assert (run.run_dir / "report.json").exists()
