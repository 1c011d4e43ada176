from __future__ import annotations

import json
import os
import signal
import time

import pytest

from supervisor.front.signals import STOPPING
from supervisor.system import process
from tests.support.cli import DEAF, POLITE, Place, Started

QUICK = ["--grace", "0.3", "--terminate", "0.2"]
DONE = 50


def stop_is_noted(run: Started, times: int = 1) -> None:
    events = run.run_dir / "events.jsonl"
    run.wait_for(
        lambda: events.read_text().count('"front.stop_requested"') >= times, "the stop noted"
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_to_the_pid_stops_and_loses_nothing(
    place: Place, number: signal.Signals, code: int
) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    run.look()
    assert len(place.working()) == 4  # front, warden, two workers
    run.signal(number)
    assert run.end() == code, run.tell()
    run.assert_gone()
    run.assert_nothing_lost()
    assert sorted(row["a"] for row in run.results()) == list(range(DONE))
    report = run.report
    assert report["status"] == "stopped"
    assert report["exit_code"] == code
    assert report["stop"]["requested_by"] == number.name
    assert report["stop"]["level"] == "stop"
    assert report["stop"]["survivors"] == []
    assert [rung["name"] for rung in report["stop"]["rungs"]] == ["flag", "verify"]
    assert report["errors"] == []
    assert json.loads(run.out.splitlines()[-1]) == report
    assert list((place.root / "state" / "allstop" / "runs").iterdir()) == []
    assert list((place.root / "runtime" / "allstop").iterdir()) == []


@pytest.mark.parametrize("number", [*STOPPING, signal.SIGQUIT])
def test_a_run_that_a_signal_stopped_dies_of_it(place: Place, number: signal.Signals) -> None:
    """Everything was written before; shells show 128 + N, and no core file is left."""
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    run.signal(number)
    run.end()
    assert run.popen.returncode == -number, run.tell()
    assert not list(place.work.glob("core*"))
    assert json.loads(run.out.splitlines()[-1]) == run.report
    assert run.report["exit_code"] == 128 + number


def test_a_stop_from_elsewhere_is_no_death_by_a_signal(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    assert place.command("stop").returncode == 0
    run.end()
    assert run.popen.returncode == 143, run.tell()


def test_ctrl_c_to_the_whole_group(place: Place) -> None:
    """As a terminal sends it: to every process of the foreground group at once."""
    run = place.start(place.run_argv(POLITE, DONE=DONE), start_new_session=True)
    run.wait_marks("ready", 2)
    os.killpg(run.popen.pid, signal.SIGINT)
    assert run.end() == 130, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(DONE)
    assert run.report["errors"] == []


def test_ctrl_c_of_a_shell_with_an_onlooker_in_the_group(place: Place) -> None:
    argv = place.run_argv(POLITE, DONE=DONE)
    shell = ["sh", "-c", '"$@"; echo "code $?"', "sh", *argv]
    run = place.start(shell, start_new_session=True)
    run.wait_marks("ready", 2)
    os.killpg(run.popen.pid, signal.SIGINT)
    run.end()
    run.assert_gone()
    run.assert_nothing_lost(DONE)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills(place: Place, second: signal.Signals) -> None:
    run = place.sweep(DEAF, "--grace", "60", "--terminate", "60", DONE=DONE)
    run.wait_marks("ready", 2)
    run.signal(signal.SIGINT)
    stop_is_noted(run)
    assert len(run.place.working()) == 4  # deaf: the first one changes nothing
    began = time.monotonic()
    run.signal(second)
    assert run.end() == 128 + second, run.tell()
    assert time.monotonic() - began < 50
    run.assert_gone()
    run.assert_nothing_lost()
    assert run.report["stop"]["level"] == "kill"
    assert "kill" in [rung["name"] for rung in run.report["stop"]["rungs"]]


def test_two_signals_in_one_breath_end_it_too(place: Place) -> None:
    run = place.sweep(DEAF, "--grace", "60", "--terminate", "60", DONE=DONE)
    run.wait_marks("ready", 2)
    run.signal(signal.SIGINT)
    run.signal(signal.SIGTERM)
    assert run.end() in (130, 143), run.tell()
    run.assert_gone()
    run.assert_nothing_lost()


def test_a_hundred_signals_do_no_harm(place: Place) -> None:
    run = place.sweep(POLITE, DONE=DONE)
    run.wait_marks("ready", 2)
    run.look()
    for _ in range(100):
        if run.popen.poll() is None:
            run.popen.send_signal(signal.SIGINT)
    # one that comes when the report is written ends the front as it ends any process
    assert run.end() == 130, run.tell()
    assert run.report["exit_code"] == 130
    assert "Traceback" not in run.err
    run.assert_gone()
    run.assert_nothing_lost()


def test_sigusr1_prints_the_status_and_nothing_stops(place: Place) -> None:
    run = place.sweep(POLITE, json=False, DONE=DONE)
    run.wait_marks("ready", 2)

    answers = 0

    def asked_again() -> bool:
        nonlocal answers
        if run.err.count("combinations (") > answers:
            answers = run.err.count("combinations (")
            run.popen.send_signal(signal.SIGUSR1)
        return f"running: {DONE} of 1,000 combinations" in run.err

    run.signal(signal.SIGUSR1)
    run.wait_for(asked_again, "a status line with what is finished")
    assert run.popen.poll() is None
    run.signal(signal.SIGINT)
    assert run.end() == 130
    run.assert_gone()


@pytest.mark.parametrize("body", [POLITE, DEAF], ids=["polite", "deaf"])
def test_sigquit_shows_where_every_worker_is_then_kills(place: Place, body: str) -> None:
    run = place.sweep(body, "--grace", "60", json=False, DONE=DONE)
    pids = run.wait_marks("ready", 2)
    run.signal(signal.SIGQUIT)
    assert run.end() == 131, run.tell()
    for pid in pids:
        assert f"worker pid {pid} " in run.err
    assert run.err.count("strategy.py") >= 2 + 1, run.err  # once in the headline
    assert run.err.count(" in f\n") == 2, run.err
    run.assert_gone()
    run.assert_nothing_lost()
    assert run.report["stop"]["level"] == "kill"
    assert run.report["stop"]["requested_by"] == "SIGQUIT"


def test_sigquit_with_a_stopped_worker_names_its_state(place: Place) -> None:
    run = place.sweep(POLITE, json=False, DONE=DONE)
    pids = run.wait_marks("ready", 2)
    os.kill(pids[0], signal.SIGSTOP)
    run.wait_for(lambda: process.state_letter(pids[0]) == "T", "a stopped worker")
    run.signal(signal.SIGQUIT)
    assert run.end() == 131, run.tell()
    assert f"worker pid {pids[0]} (state T)" in run.err
    run.assert_gone()


def test_nohup_keeps_a_closed_terminal_from_stopping_it(place: Place) -> None:
    argv = place.run_argv(POLITE, DONE=DONE)
    run = place.start(["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *argv])
    run.wait_marks("ready", 2)
    run.signal(signal.SIGHUP)
    run.signal(signal.SIGUSR1)
    assert run.popen.poll() is None
    run.signal(signal.SIGTERM)
    assert run.end() == 143, run.tell()
    assert run.report["stop"]["requested_by"] == "SIGTERM"
    run.assert_gone()


def test_a_stop_while_rows_are_being_written_keeps_what_was_written(place: Place) -> None:
    body = """
    def f(bars, params, stop):
        if params["a"] == 3000:
            mark("ready")
        time.sleep(0.0001)
        return row(params)
    """
    run = place.sweep(body, n=200_000)
    run.wait_marks("ready", 1)
    run.signal(signal.SIGTERM)
    assert run.end() == 143, run.tell()
    run.assert_gone()
    run.assert_nothing_lost(1000)
    assert run.report["errors"] == []
    assert max(run.kept().values()) == 1


@pytest.mark.parametrize("instant_s", [0.0, 0.15, 0.3, 0.45])
def test_ctrl_c_at_any_instant_of_the_beginning(place: Place, instant_s: float) -> None:
    run = place.sweep(POLITE, *QUICK, DONE=DONE)
    assert run.warden
    run.look()
    time.sleep(instant_s)  # no synchronisation: any instant will do
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert "Traceback" not in run.err
    run.assert_gone()


@pytest.mark.parametrize("instant_s", [0.2])
def test_sigterm_at_any_instant_of_the_beginning(place: Place, instant_s: float) -> None:
    run = place.sweep(POLITE, *QUICK, DONE=DONE)
    assert run.warden
    run.look()
    time.sleep(instant_s)
    run.signal(signal.SIGTERM)
    assert run.end() == 143, run.tell()
    assert "Traceback" not in run.err
    run.assert_gone()
