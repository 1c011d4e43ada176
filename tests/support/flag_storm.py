"""Hammers a stop flag from processes that are killed at any instruction.

A program of its own, with one thread, so that it may fork: ``python flag_storm.py MODE COUNT``.
Prints ``ok`` and what it counted; hangs, where the flag can be made to hang.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

from supervisor.ipc.stopflag import Level, StopFlag


def forked(work) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def poll(flag: StopFlag) -> None:
    while True:
        flag.is_set()


def wait(flag: StopFlag) -> None:
    while True:
        flag.wait(0.0001)


def wait_for_ever(flag: StopFlag) -> None:
    while True:
        flag.wait()


def set_it(flag: StopFlag) -> None:
    while True:
        flag.set()


VICTIMS = {"poll": poll, "wait": wait, "wait_for_ever": wait_for_ever, "set": set_it}


def kill(victim: str, count: int) -> None:
    """Kill one at a random instant; those that are left must not notice."""
    flag = StopFlag()
    generator = random.Random(count)
    for _ in range(count):
        pid = forked(lambda: VICTIMS[victim](flag))
        # any instant will do: some victims have not begun, some are in the middle of it
        time.sleep(generator.uniform(0, 0.0006))
        os.kill(pid, signal.SIGKILL)
        if victim != "set":
            assert not flag.is_set()
            assert flag.wait(0) is False
        os.waitpid(pid, 0)
        flag.set()
        assert flag.is_set()
        assert flag.wait(1) is True
        flag.clear()
        assert not flag.is_set()
    print("ok", count)


def climb(_: str, count: int) -> None:
    """Many write levels in any order; each reader sees them rise and never fall."""
    flag = StopFlag()
    everything = [Level.DRAIN, Level.STOP, Level.KILL]

    def write(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(50):
            flag.request(generator.choice(everything))

    for at in range(count):
        reading = forked(watch_of(flag))
        writers = [forked(lambda seed=seed: write(seed)) for seed in range(3 * at, 3 * at + 3)]
        for pid in writers:
            os.waitpid(pid, 0)
        assert flag.level is Level.KILL
        _, status = os.waitpid(reading, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "a level fell"
        flag.clear()
    print("ok", count)


def watch_of(flag: StopFlag):
    def watch() -> None:
        level: int = 0
        while level < Level.KILL:
            seen = flag.level or 0
            if seen < level:
                os._exit(1)
            level = seen

    return watch


def waiters(_: str, count: int) -> None:
    """One set wakes every waiter, whichever of them were killed meanwhile."""
    for _ in range(count):
        flag = StopFlag()
        pids = [forked(flag.wait) for _ in range(8)]
        for pid in pids[::2]:
            os.kill(pid, signal.SIGKILL)
        flag.set()
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    print("ok", count)


if __name__ == "__main__":
    mode, what, times = sys.argv[1:]
    {"kill": kill, "climb": climb, "waiters": waiters}[mode](what, int(times))
