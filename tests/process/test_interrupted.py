"""Python's own interrupts: a caller that is interrupted while it waits leaves nothing computing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import supervisor
from tests.support.cli import Place
from tests.support.waiting import wait_for

TIMES = {"grace_s": 0.3, "terminate_s": 0.2}


class AlarmError(Exception):
    """What a signal handler of the caller's raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def rise(*_: object) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, rise)
    yield
    signal.signal(signal.SIGALRM, before)


def begun(place: Place) -> Any:
    """A sweep that finishes one combination and then stays until it is told to stop."""
    root = place.root

    def f(bars: Any, params: Any, stop: Any) -> dict[str, float] | None:
        if params["a"] == 0:
            return {"x": 1.0}
        (root / "ready").touch()
        stop.wait()
        return None

    run = supervisor.sweep(f, {"a": range(9)}, place.data, workers=1, run_dir=root / "run", **TIMES)
    place.inside.append(run)
    wait_for((root / "ready").exists, "the function waits")
    return run


def soon(number: int) -> None:
    """Send this thread a signal once it waits again: the waits look every 50 ms."""
    main = threading.get_ident()
    threading.Timer(0.2, lambda: signal.pthread_kill(main, number)).start()


WAITS: dict[str, Callable[[Any], Any]] = {
    "wait": lambda run: run.wait(),
    "wait at most": lambda run: run.wait(60.0),
    "results": lambda run: run.results(),
    "rows": lambda run: list(run.rows()),
}


@pytest.mark.parametrize("way", WAITS)
def test_ctrl_c_while_it_waits_stops_the_run(inside: Place, way: str) -> None:
    run = begun(inside)
    soon(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        WAITS[way](run)
    assert not run.running
    assert (run.report.status, run.report.reason) == ("stopped", "interrupted by KeyboardInterrupt")
    assert run.report.combos_done == 1
    assert run.report.stop.survivors == []


def test_whatever_a_signal_handler_raises_stops_it_too(inside: Place, alarm: None) -> None:
    run = begun(inside)
    soon(signal.SIGALRM)
    with pytest.raises(AlarmError):
        run.wait()
    assert (run.running, run.report.reason) == (False, "interrupted by AlarmError")


def test_a_loop_that_is_left_leaves_the_run_running(inside: Place) -> None:
    run = begun(inside)
    for row in run.rows():
        assert row == {"a": 0, "x": 1.0}
        break
    rows = run.rows()
    next(rows)
    rows.close()
    assert run.running
    assert run.stop().status == "stopped"


def test_a_time_that_is_over_is_no_interruption(inside: Place) -> None:
    run = begun(inside)
    assert run.wait(0.05) is None
    assert run.running
    run.stop()


def test_a_second_ctrl_c_kills_and_the_first_one_is_raised(inside: Place) -> None:
    """A function that does not hear of the stop would take the whole grace period."""
    root = inside.root

    def deaf(bars: Any, params: Any, stop: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (root / "ready").touch()
        while True:
            os.read(os.pipe()[0], 1)

    run = supervisor.sweep(
        deaf, {"a": [1]}, inside.data, run_dir=root / "run", workers=1, grace_s=600.0
    )
    inside.inside.append(run)
    wait_for((root / "ready").exists, "the function is deaf")
    main = threading.get_ident()

    def again() -> None:
        wait_for(lambda: run._front.flag.level is not None, "the stop was requested")
        signal.pthread_kill(main, signal.SIGINT)

    soon(signal.SIGINT)
    second = threading.Thread(target=again)
    second.start()
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    second.join()
    assert not run.running
    assert run.report.stop.level == "kill"
