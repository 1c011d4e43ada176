"""Tests that need a GPU: skipped, with one reason, where there is none."""

from __future__ import annotations

import functools

import pytest

from bench.gpu import presence
from bench.gpu.watch import SLACK_BYTES, NvmlDevice
from tests.support.waiting import wait_for


@functools.cache
def why_none() -> str:
    return presence.why_none()


@functools.cache
def first_device() -> NvmlDevice:
    return NvmlDevice.first()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # asked once, in each test process: NVML is not even loaded elsewhere
    here = [item for item in items if "tests/device/" in item.nodeid]
    if here and (why := why_none()):
        for item in here:
            item.add_marker(pytest.mark.skip(reason=f"no GPU here: {why}"))
    elif here:
        first_device()  # NVML's descriptors stay open: before any test looks for leaks


class Baseline:
    """The device's used bytes before a test, to which it must come back."""

    def __init__(self) -> None:
        self.device = first_device()
        self.used_bytes = self.device.used_bytes()

    def is_back(self) -> bool:
        return self.device.used_bytes() <= self.used_bytes + SLACK_BYTES

    def wait_back(self) -> None:
        wait_for(self.is_back, "the device at its baseline", tell=self.tell)

    def tell(self) -> str:
        return f"{self.device.used_bytes():,} bytes used, {self.used_bytes:,} before"


@pytest.fixture
def baseline() -> Baseline:
    return Baseline()
