"""Front and finisher come to the same verdict, with real processes, at instants that are hard."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from supervisor.system import process
from tests.support.cli import POLITE, Place
from tests.support.verdict import check_verdict
from tests.support.waiting import wait_for

BAD = "raise RuntimeError('no strategy')\n"
QUICK = "def f(bars, params, stop):\n    return row(params)\n"


def test_of_two_requests_the_one_that_the_warden_noted_first_gives_the_reason(place: Place) -> None:
    """The front hears of it late: a signal has arrived by then."""
    run = place.sweep(POLITE, DONE=50)
    run.wait_marks("ready", 2)
    run.signal(signal.SIGSTOP)
    wait_for(lambda: process.state_letter(run.front) == "T", "a suspended front")
    stop = subprocess.Popen(
        place.argv("stop", str(run.run_dir)), cwd=place.work, env=place.env,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    run.wait_for(lambda: '"warden.stop_requested"' in run.events, "the warden's note")
    run.signal(signal.SIGINT)
    run.signal(signal.SIGCONT)
    run.end()
    assert stop.wait() == 0
    assert run.report["reason"] == "requested by the stop command"
    assert check_verdict(run.run_dir) == []


def test_a_stop_is_a_fact_before_the_end_that_it_leads_to(place: Place) -> None:
    """A front killed between the two leaves a finisher that knows who asked."""
    run = place.sweep(QUICK, n=100_000)
    wait_for((run.run_dir / "run.json").exists, "a run")
    run.wait_for(lambda: '"front.run_requested"' in run.events, "the front at work")
    run.signal(signal.SIGINT)
    run.end()
    names = [json.loads(line)["event"] for line in run.events.splitlines()]
    assert names.index("front.stop_requested") < names.index("front.finishing")
    assert check_verdict(run.run_dir) == []


def test_reap_clears_a_refused_run_away_whole(place: Place) -> None:
    """Its mistake leaves nothing behind, whoever is left to see it."""
    run = place.sweep(BAD)
    run.wait_for((run.run_dir / "logs" / "warden.log").exists, "a warden at work")
    run.signal(signal.SIGSTOP)
    run.wait_for(lambda: '"warden.run_ended"' in run.events, "the refusal")
    os.kill(run.warden, signal.SIGKILL)
    run.kill_front()
    reaped = place.command("reap", "--json")
    assert reaped.returncode == 0, reaped.stdout
    (told,) = json.loads(reaped.stdout)["reaped"]
    assert (told["status"], told["error"], told["combos_done"]) == ("failed", "", None)
    assert "no strategy" in told["notes"][-1]
    assert not run.run_dir.exists()
    assert list((place.root / "state" / "allstop" / "runs").iterdir()) == []
