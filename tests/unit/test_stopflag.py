from __future__ import annotations

import inspect
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.synchronize
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from supervisor.ipc.stopflag import LINE_WORDS, Level, StopFlag
from tests.support import spawned
from tests.support.cli import ROOT
from tests.support.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def flag() -> StopFlag:
    return StopFlag()


def attached(flag: StopFlag, generation: int | None = None) -> StopFlag:
    return StopFlag.from_fd(os.dup(flag.fileno()), generation)


def storm(mode: str, what: str, count: int) -> None:
    program = ROOT / "tests" / "support" / "flag_storm.py"
    done = subprocess.run(
        [sys.executable, "-P", str(program), mode, what, str(count)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.stdout == f"ok {count}\n", done.stderr


# --- Event's interface -------------------------------------------------------------------------


def test_it_has_the_interface_of_an_event(flag: StopFlag) -> None:
    for method in ("is_set", "set", "clear", "wait"):
        theirs = inspect.signature(getattr(multiprocessing.synchronize.Event, method))
        ours = inspect.signature(getattr(StopFlag, method))
        assert list(ours.parameters) == list(theirs.parameters)
    assert flag.is_set() is False
    assert flag.wait(timeout=0) is False
    assert flag.set() is None
    assert flag.is_set() is True
    flag.set()
    assert flag.is_set() is True
    assert flag.wait() is True
    assert flag.wait(timeout=0) is True
    assert flag.clear() is None
    assert flag.is_set() is False


def test_wait_gives_up_at_its_timeout_and_not_before(flag: StopFlag) -> None:
    for timeout in (0.05, 0, -1, 1e-9):
        began = time.monotonic()
        assert flag.wait(timeout) is False
        assert max(0.0, timeout) <= time.monotonic() - began < 30


@pytest.mark.parametrize("timeout", [None, 30])
def test_wait_returns_when_it_is_set(flag: StopFlag, timeout: float | None) -> None:
    answers: list[bool] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(flag.wait(timeout)), daemon=True)
        for _ in "abc"
    ]
    for thread in waiting:
        thread.start()
    flag.set()
    for thread in waiting:
        thread.join(DEADLINE_S)
    assert answers == [True] * 3


def test_a_drain_is_not_a_stop(flag: StopFlag) -> None:
    flag.request(Level.DRAIN)
    assert flag.level is Level.DRAIN
    assert not flag.is_set()
    assert flag.wait(0.01) is False


@pytest.mark.parametrize("interrupting", [False, True])
def test_a_wait_interrupted_by_signals_goes_on(flag: StopFlag, interrupting: bool) -> None:
    """Neither ends early nor is stretched: the deadline is an instant, not a length."""
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    main, over = threading.main_thread().ident, threading.Event()

    def interrupt() -> None:
        while not over.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            over.wait(0.002)

    thread = threading.Thread(target=interrupt if interrupting else over.wait)
    thread.start()
    try:
        began = time.monotonic()
        assert flag.wait(0.3) is False
        assert 0.3 <= time.monotonic() - began < 30
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert bool(caught) is interrupting


SIGNAL_SLEEPERS = """
import os, signal, sys
from pathlib import Path
stat = Path(f"/proc/{sys.argv[1]}/stat")
while stat.read_text().rpartition(")")[2].split()[0] != "S":
    pass
os.kill(int(sys.argv[1]), signal.SIGUSR1)
"""


def test_a_wait_ends_when_a_signal_handler_sets_the_flag(flag: StopFlag) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: flag.set())
    # another process: a thread of ours would have us wait for the interpreter's lock
    signaller = subprocess.Popen([sys.executable, "-c", SIGNAL_SLEEPERS, str(os.getpid())])
    try:
        assert flag.wait(60) is True
    finally:
        assert signaller.wait(60) == 0
        signal.signal(signal.SIGUSR1, before)


# --- generations -------------------------------------------------------------------------------


def test_clearing_hides_no_stop_from_attached_objects(flag: StopFlag) -> None:
    holder = attached(flag)
    line = holder.array
    flag.set()
    flag.clear()
    assert not flag.is_set()
    assert holder.is_set()
    assert holder.wait(0)
    assert line[0] != 0
    assert holder.requested_at is not None


def test_a_stale_stop_does_not_reach_the_next_generation(flag: StopFlag) -> None:
    stale = attached(flag)
    flag.clear()
    stale.request(Level.KILL)
    assert stale.is_set()
    assert flag.level is None
    assert not flag.is_set()
    assert flag.requested_at is None
    assert not attached(flag).is_set()


def test_who_attaches_later_follows_the_present_generation_or_the_named_one(
    flag: StopFlag,
) -> None:
    flag.set()
    flag.clear()
    assert attached(flag).generation == 2
    assert not attached(flag).is_set()
    assert attached(flag, 1).is_set()
    late = attached(flag, 1)
    late.rearm()
    assert (late.generation, late.is_set()) == (2, False)


def test_two_flags_have_nothing_in_common(flag: StopFlag) -> None:
    other = StopFlag()
    other.set()
    assert not flag.is_set()


def test_lines_come_round_again_clean(flag: StopFlag) -> None:
    for _ in range(40_000):
        flag.set()
        flag.clear()
    assert not flag.is_set()
    assert flag.generation == 40_001
    assert flag.level is None
    assert attached(flag).generation == 40_001


# --- levels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", Level)
@pytest.mark.parametrize("second", Level)
def test_levels_only_rise(flag: StopFlag, first: Level, second: Level) -> None:
    flag.request(first)
    at = flag.requested_at
    assert at is not None
    assert abs(at - time.monotonic()) < 10
    flag.request(second)
    assert flag.level is max(first, second)
    assert flag.is_set() is (max(first, second) >= Level.STOP)
    assert flag.requested_at == at


def test_levels_only_rise_when_several_write_at_the_same_time() -> None:
    storm("climb", "-", 60)


def test_the_line_is_a_cache_line_that_compiled_code_reads(flag: StopFlag) -> None:
    line = flag.array
    assert (line.dtype, line.shape) == (np.int64, (LINE_WORDS,))
    assert line.__array_interface__["data"][0] % 64 == 0
    assert line[0] == 0
    flag.request(Level.DRAIN)
    assert line[0] == 0
    flag.set()
    assert line[0] != 0


# --- other processes ---------------------------------------------------------------------------


def test_it_can_be_pickled_to_a_spawned_process() -> None:
    go, answer = StopFlag(), StopFlag()
    process = multiprocessing.get_context("spawn").Process(
        target=spawned.set_when_told, args=(go, answer)
    )
    process.start()
    go.set()
    assert answer.wait(DEADLINE_S), "the spawned process did not answer"
    process.join()
    process.close()
    multiprocessing.resource_tracker._resource_tracker._stop()  # it would stay with us
    assert answer.level is Level.KILL


def test_a_pickled_flag_keeps_its_generation(flag: StopFlag) -> None:
    flag.set()
    data = pickle.dumps(flag)
    flag.clear()
    assert pickle.loads(data).is_set()
    assert pickle.loads(data).generation == 1
    assert not pickle.loads(pickle.dumps(flag)).is_set()


@pytest.mark.parametrize(
    ("victim", "count"), [("poll", 1500), ("wait", 1500), ("wait_for_ever", 1000), ("set", 1000)]
)
def test_killing_a_user_of_the_flag_hangs_no_other(victim: str, count: int) -> None:
    """``multiprocessing.Event`` hangs its owner in up to all of these (cpython#126434)."""
    storm("kill", victim, count)


def test_one_set_wakes_all_who_wait_in_whatever_process() -> None:
    storm("waiters", "-", 20)


# --- its end -----------------------------------------------------------------------------------


def test_closing_twice_does_no_harm_and_what_is_attached_goes_on(flag: StopFlag) -> None:
    holder = attached(flag)
    flag.close()
    flag.close()
    assert flag.fileno() == -1
    flag.set()
    assert holder.is_set()


def test_its_name_says_how_it_stands(flag: StopFlag) -> None:
    assert repr(flag) == "<StopFlag generation 1: not set>"
    flag.set()
    assert repr(flag) == "<StopFlag generation 1: stop>"


def test_waiting_costs_no_processor_time(flag: StopFlag) -> None:
    began = time.thread_time()
    flag.wait(0.2)
    assert time.thread_time() - began < 0.05


def test_waiting_threads_let_others_run(flag: StopFlag) -> None:
    """The wait gives up the interpreter's lock."""
    thread = threading.Thread(target=flag.wait, args=(30,), daemon=True)
    thread.start()
    wait_for(thread.is_alive, "the thread")
    assert sum(range(1000)) == 499_500
    flag.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
