"""Waiting for a kernel without missing a stop; no device is needed for it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from supervisor.ipc.device_flag import DeviceFlag, Tier, Waves
from supervisor.ipc.device_word import Line
from supervisor.ipc.stopflag import StopFlag
from supervisor.system import cuda
from tests.support.waiting import DEADLINE_S


@pytest.fixture
def stop() -> StopFlag:
    return StopFlag()


def on_device(stop: StopFlag) -> DeviceFlag:
    word = stop._base + stop._stop * 8
    line = Line(stop._memory, word, stop._futex_address, stop.generation)
    return DeviceFlag(word, Tier.MAPPED, "", line, Waves(1, 1024, 1))


class Answers:
    def __init__(self, answers: list[bool]) -> None:
        self._answers = iter(answers)


class CupyLike(Answers):
    """An event or stream of CuPy's."""

    @property
    def done(self) -> bool:
        return next(self._answers)


class CudaCoreLike(Answers):
    """An event of cuda.core's."""

    @property
    def is_done(self) -> bool:
        return next(self._answers)


class TorchLike(Answers):
    """An event or stream of PyTorch's, an event of Numba's."""

    def query(self) -> bool:
        return next(self._answers)


@pytest.mark.parametrize("kind", [CupyLike, TorchLike, CudaCoreLike])
def test_waits_for_what_frameworks_give(stop: StopFlag, kind: type[Any]) -> None:
    assert on_device(stop).wait(kind([False, False, True]), timeout=DEADLINE_S)


def test_waits_for_a_callable(stop: StopFlag) -> None:
    assert on_device(stop).wait(iter([False, True]).__next__, timeout=DEADLINE_S)


@pytest.mark.parametrize("nonsense", [None, 3, [True], object()])
def test_says_what_it_cannot_wait_for(stop: StopFlag, nonsense: Any) -> None:
    with pytest.raises(TypeError, match="give an event or stream of CuPy, PyTorch or Numba"):
        on_device(stop).wait(nonsense)


@pytest.mark.parametrize("stopped", [False, True])
def test_ends_at_its_timeout(stop: StopFlag, stopped: bool) -> None:
    if stopped:
        stop.set()
    began = time.monotonic()
    assert on_device(stop).wait(lambda: False, timeout=0.1) is False
    assert 0.1 <= time.monotonic() - began < DEADLINE_S


def test_a_timeout_of_zero_asks_once(stop: StopFlag) -> None:
    asked: list[bool] = []
    assert on_device(stop).wait(lambda: bool(asked.append(True)), timeout=0) is False
    assert on_device(stop).wait(lambda: True, timeout=0) is True
    assert 1 <= len(asked) <= 2


def test_goes_on_until_the_kernel_has_seen_the_stop(stop: StopFlag) -> None:
    """Its buffers may be used only then."""
    left = threading.Event()

    def kernel() -> None:
        assert stop.wait(DEADLINE_S)
        left.set()

    thread = threading.Thread(target=kernel)
    thread.start()
    threading.Timer(0.05, stop.set).start()
    assert on_device(stop).wait(left.is_set, timeout=DEADLINE_S)
    assert stop.is_set()
    thread.join()


def test_an_error_of_the_kernel_is_the_caller_s(stop: StopFlag) -> None:
    def fail() -> bool:
        raise RuntimeError("cudaErrorIllegalAddress")

    with pytest.raises(RuntimeError, match="IllegalAddress"):
        on_device(stop).wait(fail)


def test_asks_seldom_during_a_long_wait(stop: StopFlag) -> None:
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    on_device(stop).wait(count, timeout=0.5)
    at_once = 0.5 / 2e-6  # were it a loop without pauses
    assert asked < at_once / 20


def test_core_import_does_not_load_it() -> None:
    import subprocess
    import sys

    code = "import sys, supervisor.ipc.stopflag; print('supervisor.ipc.device_flag' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
    assert not cuda.opened()
