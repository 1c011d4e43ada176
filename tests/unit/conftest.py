from __future__ import annotations

from typing import Any

import pytest

from tests.support.gpu import kernels


@pytest.fixture(scope="session")
def kernel_library() -> Any:
    """The GPU kernels compiled for the CPU."""
    if why := kernels.missing():
        pytest.skip(why)
    return kernels.load(kernels.built())
