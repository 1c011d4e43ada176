"""The poll is heard by a running kernel, and a plain read in its place is not."""

from __future__ import annotations

import mmap
import multiprocessing
import time

import numpy as np
import pytest
from numba import njit

from workers.poll import load_acquire, stop_requested, store_release

FORK = multiprocessing.get_context("fork")
BOUND = 2**62
"""Rounds that no kernel finishes: only a stop ends it."""


@njit
def polling(line, limit):  # type: ignore[no-untyped-def]
    rounds = 0
    while rounds < limit:
        if stop_requested(line):
            break
        rounds += 1
    return rounds


@njit
def reading(line, limit):  # type: ignore[no-untyped-def]
    rounds = 0
    while rounds < limit:
        if line[0] != 0:
            break
        rounds += 1
    return rounds


def shared_line() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.frombuffer(mmap.mmap(-1, 64), np.int64)


def test_plain_python_may_call_it_too() -> None:
    line = np.zeros(8, np.int64)
    assert stop_requested(line) is False
    line[0] = 1
    assert stop_requested(line) is True


def test_sees_a_flag_that_is_already_set() -> None:
    line = np.zeros(8, np.int64)
    assert polling(line, 1000) == 1000
    line[0] = 1
    assert polling(line, 1000) == 0


def test_a_running_kernel_hears_another_process() -> None:
    line = shared_line()
    polling(line, 1)  # compiled before the fork

    def compute() -> None:
        line[1] = 1  # about to enter the kernel
        polling(line, BOUND)

    child = FORK.Process(target=compute)
    child.start()
    try:
        deadline = time.monotonic() + 30
        while line[1] == 0:
            assert time.monotonic() < deadline, "the child never started"
            time.sleep(0.001)
        line[0] = 1
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()


def loops_of(function: object) -> str:
    """Optimised LLVM IR of what was compiled."""
    llvm = function.inspect_llvm()  # type: ignore[attr-defined]
    return "\n".join(llvm.values())


def test_the_poll_is_an_atomic_load_in_the_loop() -> None:
    polling(np.zeros(8, np.int64), 1)
    assert "load atomic i64" in loops_of(polling)


def test_control_a_plain_read_is_lifted_out_of_the_loop() -> None:
    """With the read lifted the loop is empty, and LLVM computes its result without it.

    So it "runs" 2⁶² rounds in no time; a loop that really read the flag every
    round would take decades.
    """
    line = np.zeros(8, np.int64)
    reading(line, 1)
    began = time.monotonic()
    assert reading(line, BOUND) == BOUND
    assert time.monotonic() - began < 10
    assert "load atomic" not in loops_of(reading)


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_refuses_what_is_no_flag(dtype: type) -> None:
    from numba.core.errors import TypingError

    with pytest.raises(TypingError):
        polling(np.zeros(8, dtype), 1)


def test_publishing_stores_the_value() -> None:
    @njit
    def publish(words):  # type: ignore[no-untyped-def]
        store_release(words, 2, 7)
        return load_acquire(words, 2)

    words = np.zeros(4, np.int64)
    assert publish(words) == 7
    assert words.tolist() == [0, 0, 7, 0]
