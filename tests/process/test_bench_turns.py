"""Turns, with processes that note when they run."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench.harness.errors import NotMeasuredError
from bench.harness.processes import PlainProcesses, fork
from bench.harness.turns import Contender, take_turns
from bench.harness.workspace import wait_until
from supervisor.system import process

pytestmark = pytest.mark.usefixtures("no_leaks")

TURN_S = 0.2
WORK_S = 0.6
MOST = 100_000


class Diary:
    """Unix times at which a process was running, in memory that it shares with us."""

    def __init__(self) -> None:
        self.memory = np.frombuffer(mmap.mmap(-1, 8 * MOST), np.float64)

    def work(self) -> None:
        """Compute for a while, and note the time now and then."""
        notes = iter(range(MOST))
        while time.process_time() < WORK_S:
            self.memory[next(notes)] = time.time()
            sum(range(5_000))

    @property
    def times(self) -> np.ndarray:
        return self.memory[self.memory > 0]


def forks_first(diary: Diary) -> None:
    """Let a child do the work, as a warden does."""
    os.waitpid(fork(diary.work), 0)


class Family(PlainProcesses):
    """Processes whose children take part."""

    def pids(self) -> list[int]:
        own = super().pids()
        return own + [child for pid in own for child in process.descendants(pid)]

    @property
    def leaders(self) -> list[int]:
        return super().pids()


def begin(
    stack: contextlib.ExitStack,
    bodies: Sequence[Callable[[], object]],
    kind: type[PlainProcesses] = PlainProcesses,
) -> Callable[[], PlainProcesses]:
    return lambda: stack.enter_context(kind(bodies))


def test_only_one_runs_at_a_time_and_each_to_its_end() -> None:
    diaries = [Diary() for _ in range(3)]
    bodies = [diaries[0].work], [diaries[1].work], [partial(forks_first, diaries[2])]
    with contextlib.ExitStack() as stack:
        contenders = [Contender(begin(stack, body, Family), TURN_S) for body in bodies]
        take_turns(contenders)
        codes = [contender.running.reap() for contender in contenders]
    assert codes == [[0], [0], [0]]
    for diary, contender in zip(diaries, contenders, strict=True):
        assert len(contender.turns) >= 2
        assert contender.seconds() > 0.9 * WORK_S
        # suspending reaches a process on another core a moment later
        off = [t for t in diary.times if not any(a <= t <= b + 0.02 for a, b in contender.turns)]
        assert off == []
        assert len(diary.times) > 100


def test_a_longer_turn_is_for_more_work() -> None:
    with contextlib.ExitStack() as stack:
        short = Contender(begin(stack, [Diary().work]), TURN_S)
        long = Contender(begin(stack, [Diary().work]), turn_s=30.0)
        take_turns([short, long])
        assert short.running.reap() == long.running.reap() == [0]
    assert len(long.turns) == 1 < len(short.turns)


def test_no_other_begins_before_the_first_works() -> None:
    looks = iter([False] * 10)
    with contextlib.ExitStack() as stack:
        second = Contender(begin(stack, [Diary().work]), turn_s=0.05)

        def works(_: PlainProcesses) -> bool:
            assert not second.turns
            assert not hasattr(second, "running")
            return next(looks, True)

        first = Contender(begin(stack, [Diary().work]), 0.01, first_turn_until=works)
        take_turns([first, second])
        assert next(looks, None) is None
        assert first.running.reap() == second.running.reap() == [0]
    (begun, ended), *_ = first.turns
    assert ended - begun > 10 * 0.01


def test_one_that_ends_before_it_works_is_not_waited_for() -> None:
    with contextlib.ExitStack() as stack:
        contender = Contender(begin(stack, [int]), first_turn_until=lambda _: False)
        take_turns([contender])
        assert contender.running.reap() == [0]


def test_one_that_does_not_end_is_given_up() -> None:
    with contextlib.ExitStack() as stack:
        endless = Contender(begin(stack, [signal.pause]), turn_s=0.01)
        with pytest.raises(NotMeasuredError, match="of turns"):
            take_turns([endless], limit_s=0.05)
        assert endless.seconds() > 0.05


def test_a_benchmark_that_is_terminated_leaves_no_process_suspended(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "bench", "sweep", "--quick", "--no-peers"]
    settings = ["--set", "compute_s=60", "--set", "bars=5000"]
    with subprocess.Popen([*command, *settings], cwd=tmp_path, stderr=subprocess.DEVNULL) as bench:
        wait_until(
            lambda: any(process.state_letter(pid) == "T" for pid in process.descendants(bench.pid)),
            "a contender that is suspended",
        )
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(60) == 128 + signal.SIGTERM


def test_seconds_are_counted_within_an_interval() -> None:
    contender = Contender(lambda: PlainProcesses([]))
    contender.turns += [(10.0, 12.0), (20.0, 23.0)]
    assert contender.seconds() == 5.0
    assert contender.seconds(11.0, 21.5) == 2.5
    assert contender.seconds(12.5, 19.0) == 0.0


def test_no_process_stays_suspended_when_another_cannot_begin() -> None:
    with contextlib.ExitStack() as stack:
        first = Contender(begin(stack, [Diary().work]), turn_s=0.05)

        def fail() -> PlainProcesses:
            (pid,) = first.running.pids()
            wait_until(lambda: process.state_letter(pid) == "T", "its suspension")
            raise OSError("no more processes")

        with pytest.raises(OSError, match="no more"):
            take_turns([first, Contender(fail)])
        assert first.running.reap() == [0]
