from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gpu import kernels
from tests.support.gpu.emulated_device import EmulatedDevice

with contextlib.suppress(ImportError):
    # makes `numba.cuda` numba-cuda's; its own .pth file would cost every Python 40 ms
    import _numba_cuda_redirector  # noqa: F401


@pytest.fixture(scope="session")
def kernel_library() -> Any:
    """The GPU kernels compiled for the CPU."""
    if why := kernels.missing():
        pytest.skip(why)
    return kernels.load(kernels.built())


@pytest.fixture
def devices(kernel_library: Any) -> Iterator[Any]:
    """Makes emulated GPUs."""
    made: list[EmulatedDevice] = []

    def make(*arguments: Any, **options: Any) -> EmulatedDevice:
        made.append(EmulatedDevice(kernel_library, *arguments, **options))
        return made[-1]

    yield make
    for device in made:
        device.close()
