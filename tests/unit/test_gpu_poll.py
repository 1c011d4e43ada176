"""The poll is a volatile load inside the loop of a GPU kernel; a plain load is lifted out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import types

from supervisor import CUDA_INCLUDE
from tests.support.gpu.ptx import NVCC, compile_cuda, numba_ptx, polls
from workers.poll import stop_requested

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")

KERNEL = """
#include <allstop.cuh>
extern "C" __global__ void kernel(const double *x, int n, double *out, const long long *stop) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        if (POLL) break;
        sum += x[i];
    }
    *out = sum;
}
"""


@needs_nvcc
@pytest.mark.parametrize(
    "poll",
    [
        "allstop_stop_requested(stop)",
        "allstop_block_stop_requested(stop)",
        "allstop_block_stop_requested(stop, i)",
        "allstop_warp_stop_requested(stop)",
    ],
)
def test_cuda_cpp_polls_in_the_loop(tmp_path: Path, poll: str) -> None:
    ptx = compile_cuda(KERNEL.replace("POLL", poll), tmp_path, f"-I{CUDA_INCLUDE}")
    assert polls(ptx)


@needs_nvcc
def test_a_plain_load_in_cuda_cpp_is_lifted_out(tmp_path: Path) -> None:
    """The control: what the header is for."""
    ptx = compile_cuda(KERNEL.replace("POLL", "*stop != 0"), tmp_path, f"-I{CUDA_INCLUDE}")
    assert not polls(ptx)
    assert "ld.global" in ptx


def polling(flag: Any, limit: Any, out: Any) -> None:
    rounds = 0
    while rounds < limit and not stop_requested(flag):
        rounds += 1
    out[0] = rounds


def reading(flag: Any, limit: Any, out: Any) -> None:
    rounds = 0
    while rounds < limit and flag[0] == 0:
        rounds += 1
    out[0] = rounds


OUT = types.int64[::1]


@pytest.mark.parametrize("flag", [types.uint64, types.int64, types.int64[::1]], ids=str)
def test_numba_cuda_polls_in_the_loop(flag: Any) -> None:
    ptx = numba_ptx()(polling, types.void(flag, types.int64, OUT))
    assert len(polls(ptx)) == 1


def test_a_plain_load_in_numba_cuda_is_lifted_out() -> None:
    ptx = numba_ptx()(reading, types.void(types.int64[::1], types.int64, OUT))
    assert not polls(ptx)


@pytest.mark.parametrize("flag", [types.int32, types.float64, types.float64[::1]], ids=str)
def test_numba_cuda_refuses_what_is_no_flag(flag: Any) -> None:
    compile_ptx = numba_ptx()
    from numba.core.errors import TypingError

    with pytest.raises(TypingError, match="stop_requested"):
        compile_ptx(polling, types.void(flag, types.int64, OUT))


def test_cpu_code_does_not_import_numba_cuda() -> None:
    code = """
import sys
import numpy as np
from numba import njit
from workers.poll import stop_requested

@njit
def asks(line):
    return stop_requested(line)

assert not asks(np.zeros(8, np.int64)) and asks(np.ones(8, np.int64))
print([name for name in sys.modules if name.startswith(("numba.cuda", "numba_cuda", "cuda"))])
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said.strip() == "[]"


def test_the_cpu_s_poll_still_works_beside_it() -> None:
    from numba import njit

    numba_ptx()  # numba.cuda is imported, if it is there

    @njit
    def asks(line: Any) -> Any:
        return stop_requested(line)

    assert asks(np.ones(8, np.int64))
