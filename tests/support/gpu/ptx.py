"""What a compiler for GPUs made of a loop, read from its PTX."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NVCC = shutil.which("nvcc")


def in_loops(ptx: str) -> list[str]:
    """Return the instructions that lie in loops: between a label and a later branch to it."""
    lines = [line.strip() for line in ptx.splitlines()]
    labels = {
        found[1]: at
        for at, line in enumerate(lines)
        if (found := re.fullmatch(r"(\$L\w+):.*", line))
    }
    inside: set[int] = set()
    for at, line in enumerate(lines):
        target = re.search(r"\bbra(?:\.uni)?\s+(\$L\w+)", line)
        begun = labels.get(target[1], at) if target else at
        inside.update(range(begun, at))
    return [lines[at] for at in sorted(inside)]


def polls(ptx: str) -> list[str]:
    """Return the volatile 64-bit loads that lie in loops."""
    return [line for line in in_loops(ptx) if re.match(r"(@%p\d+\s+)?ld\.volatile.*64\b", line)]


def compile_cuda(source: str, directory: Path, *options: str) -> str:
    """Compile CUDA C++ for an H100 by nvcc; return the PTX."""
    if NVCC is None:
        raise RuntimeError("nvcc is not installed")
    program = directory / "kernel.cu"
    program.write_text(source)
    ptx = program.with_suffix(".ptx")
    command = [NVCC, "-arch=sm_90", "-ptx", "-O3", *options, "-o", str(ptx), str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    if compiled.returncode:
        raise RuntimeError(f"nvcc: {compiled.stdout}{compiled.stderr}")
    return ptx.read_text()


def numba_ptx() -> Callable[[Any, Any], str]:
    """Return numba-cuda's compiler to PTX for an H100; skip where a part of it is missing."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed")
    from numba import cuda

    def compiled(function: Any, signature: Any) -> str:
        try:
            ptx, _ = cuda.compile_ptx(function, signature, cc=(9, 0))
        except Exception as error:
            # its libraries, NVRTC and libNVVM, come with the toolkit or wheels of their own
            if type(error).__name__ in ("DynamicLibNotFoundError", "NvvmSupportError"):
                pytest.skip(f"numba-cuda lacks a library: {error}")
            raise
        return str(ptx)

    return compiled
