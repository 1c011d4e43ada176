"""The examples of docs/examples/gpu compile, as far as a machine without a GPU can tell."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numba import types

from supervisor import CUDA_INCLUDE, StopFlag
from tests.support.chunks import FakeBars
from tests.support.cli import ROOT
from tests.support.gpu.ptx import NVCC, compile_cuda, numba_ptx, polls

DIRECTORY = ROOT / "docs/examples/gpu"
EXAMPLES = sorted(path.name for path in DIRECTORY.glob("*.py"))

MISSING = [
    name
    for name in ("cupy", "torch", "triton", "triton.language")
    if importlib.util.find_spec(name.partition(".")[0]) is None
]


class Anything(ModuleType):
    """A module of which every attribute is callable, and decorates: a framework not installed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *a, **_: a[0] if a and callable(a[0]) else None


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import an example, with a stand-in for each framework that is not installed."""

    def imported(name: str) -> ModuleType:
        for framework in MISSING:
            stand_in = Anything(framework)
            monkeypatch.setitem(sys.modules, framework, stand_in)
            parent, _, child = framework.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, stand_in)
        path = DIRECTORY / name
        spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return imported


def cuda_source(name: str) -> str:
    for node in ast.walk(ast.parse((DIRECTORY / name).read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SOURCE":
            return str(ast.literal_eval(node.value))
    raise AssertionError(f"{name} has no SOURCE")


def reference(
    close: np.ndarray[Any, Any], threshold: float, lags: int, sign: float = 1.0
) -> list[float]:
    """Return the total returns of the momentum rules, bar by bar."""
    totals = []
    for lag in range(1, lags + 1):
        value = 1.0
        for bar in range(lag + 1, len(close)):
            if sign * (close[bar - 1] / close[bar - 1 - lag] - 1.0) > threshold:
                value *= close[bar] / close[bar - 1]
        totals.append(value - 1.0)
    return totals


@pytest.mark.parametrize("name", EXAMPLES)
def test_imports_and_names_its_function(load: Any, name: str) -> None:
    module = load(name)
    assert module.__doc__ is not None
    file, function = re.findall(r"--strategy docs/examples/gpu/(\S+):(\w+)", module.__doc__)[0]
    assert file == name
    assert callable(getattr(module, function))


@pytest.mark.parametrize("name", EXAMPLES)
def test_discards_what_a_stop_left_incomplete(name: str) -> None:
    """An incomplete row would pass for a result."""
    source = (DIRECTORY / name).read_text()
    assert re.search(r"if stop\.is_set\(\):\s+return None", source)
    assert "synchronize()" not in source.replace("not synchronize()", "")


def test_the_documentation_quotes_the_example() -> None:
    section = (ROOT / "docs/gpu.md").read_text().partition("## Your own GPU function")[2]
    example = (DIRECTORY / "cupy_raw_kernel.py").read_text()
    blocks = re.findall(r"```(?:cpp|python)\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert len(blocks) == 2
    for line in "".join(blocks).splitlines():
        assert line.strip() in example


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize(
    ("name", "kernels"), [("cupy_raw_kernel.py", 1), ("cupy_raw_module.py", 2)]
)
def test_cupy_kernels_poll_in_their_loop(tmp_path: Path, name: str, kernels: int) -> None:
    source = cuda_source(name)
    assert len(polls(compile_cuda(source, tmp_path, f"-I{CUDA_INCLUDE}"))) == kernels
    deaf = source.replace("allstop_block_stop_requested(stop)", "__syncthreads_or(*stop != 0)")
    assert not polls(compile_cuda(deaf, tmp_path, f"-I{CUDA_INCLUDE}"))


ON_THE_HOST = """
#include <algorithm>
using std::min; using std::max;
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim = {1, 1, 1};
#define __device__
#define __global__
#define __forceinline__ inline
#define __syncthreads_or(answer) (answer)
#define __any_sync(mask, answer) (answer)
"""
"""Enough of CUDA for blocks of one thread."""


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("cupy_raw_kernel.py", "momentum"), ("cupy_raw_module.py", "momentum"),
     ("cupy_raw_module.py", "reversal")],
)  # fmt: skip
def test_cupy_kernels_compute_the_rule(tmp_path: Path, name: str, kernel: str) -> None:
    sign = -1.0 if kernel == "reversal" else 1.0
    close = np.array(FakeBars.walk(9000, seed=3).close)
    source, library = tmp_path / "kernel.cpp", tmp_path / "kernel.so"
    source.write_text(f"""{ON_THE_HOST}{cuda_source(name)}
extern "C" void launch(int blocks, const double *close, int n_bars, double threshold, int first,
                       int last, double *total, const long long *stop) {{
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        {kernel}(close, n_bars, threshold, first, last, total, stop);
}}""")
    options = ["-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{CUDA_INCLUDE}"]
    subprocess.check_call(["g++", *options, "-o", str(library), str(source)])
    launch = ctypes.CDLL(str(library)).launch
    total, flag = np.full(8, np.nan), np.zeros(8, np.int64)
    arguments = (
        ctypes.c_int(7), ctypes.c_void_p(close.ctypes.data), ctypes.c_int(len(close)),
        ctypes.c_double(0.001), ctypes.c_int(1), ctypes.c_int(7),
        ctypes.c_void_p(total.ctypes.data), ctypes.c_void_p(flag.ctypes.data),
    )  # fmt: skip
    launch(*arguments)
    assert np.isnan(total[[0, 7]]).all()
    assert total[1:7].tolist() == pytest.approx(reference(close, 0.001, 7, sign)[1:], rel=1e-9)
    total[:], flag[0] = np.nan, 1
    launch(*arguments)
    assert np.isnan(total).all(), "a stop did not end the kernel"


def test_the_numba_kernel_polls_in_its_loop(load: Any) -> None:
    compile_ptx = numba_ptx()
    kernel = load("numba_kernel.py").best_lag.py_func
    signature = types.void(
        types.float64[::1], types.float64, types.int64, types.int64, types.float64[::1],
        types.uint64,
    )  # fmt: skip
    ptx = compile_ptx(kernel, signature)
    assert len(polls(ptx)) == 1
    assert "bar.red" in ptx or "barrier.red" in ptx, "the block's threads do not agree to leave"


def test_the_numba_kernel_computes_the_rule(tmp_path: Path) -> None:
    """In Numba's simulator: a thread of Python's per thread, so few of them and few bars."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed")
    close = np.array(FakeBars.walk(60, seed=2).close)
    code = f"""
import sys
import numpy as np
sys.path.insert(0, {str(DIRECTORY)!r})
import numba_kernel
numba_kernel.TILE_BARS = 16
close, total, flag = np.array({close.tolist()}), np.full(8, np.nan), np.zeros(8, np.int64)
numba_kernel.best_lag[2, 4](close, 0.001, 1, 7, total, flag)
print(total.tolist())
flag[0] = 1
total[:] = np.nan
numba_kernel.best_lag[2, 4](close, 0.001, 1, 7, total, flag)
assert np.isnan(total).all()
"""
    simulated = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env=simulated)
    first, *middle, last = json.loads(said.replace("nan", "NaN"))
    assert np.isnan(first) and np.isnan(last)
    assert middle == pytest.approx(reference(close, 0.001, 7)[1:], rel=1e-12)


def test_torch_s_operators_compute_the_rule(load: Any) -> None:
    if "torch" in MISSING:
        pytest.skip("PyTorch is not installed")
    module = load("torch_operators.py")
    bars = FakeBars.walk(120, seed=1)
    module.LAGS = 32
    row = module.momentum(bars, {"threshold": 0.001}, StopFlag(), device="cpu")
    totals = reference(np.array(bars.close), 0.001, 32)
    assert row["lag"] == 1 + int(np.argmax(totals))
    assert row["total_return"] == pytest.approx(max(totals), rel=1e-12)
    stopped = StopFlag()
    stopped.set()
    assert module.momentum(bars, {"threshold": 0.001}, stopped, device="cpu") is None
