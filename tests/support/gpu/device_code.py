"""What nvcc and the disassembler say about the kernels: registers, loops, loads."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.gpu.kernels import SOURCE
from workers.cupy_backtest.cubin import OPTIONS

ARCH = "sm_90"


@dataclass
class Compiled:
    """One file of ``source/``, compiled for :data:`ARCH`.

    Attributes
    ----------
    registers : dict of str to int
        Of each kernel.
    in_memory : dict of str to int
        Bytes of stack and spills of each function, those that are not kernels included.
    """

    registers: dict[str, int]
    in_memory: dict[str, int]


def nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@functools.cache
def nvdisasm() -> str | None:
    """On the path, or where the package nvidia-cuda-nvdisasm puts it."""
    packaged = Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvdisasm")
    return shutil.which("nvdisasm") or next((str(path) for path in packaged), None)


def compiled(name: str, into: Path) -> Compiled:
    """Compile to ``into``; warnings are errors."""
    said = _nvcc("-cubin", "-Xptxas", "-v", "-Werror", "all-warnings", name=name, into=into)
    registers: dict[str, int] = {}
    in_memory: dict[str, int] = {}
    kernel = function = ""
    for line in said.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found[1]
        elif found := re.search(r"Function properties for (\w+)", line):
            function = found[1]
        elif "bytes stack frame" in line:
            in_memory[function] = sum(map(int, re.findall(r"(\d+) bytes", line)))
        elif found := re.search(r"Used (\d+) registers", line):
            registers[kernel] = int(found[1])
    return Compiled(registers, in_memory)


def ptx(name: str, into: Path, *options: str) -> dict[str, str]:
    """Text of each kernel in PTX."""
    _nvcc("-ptx", *options, name=name, into=into)
    text = into.read_text()
    return {
        part[1]: part[2]
        for part in re.finditer(r"\.entry (\w+)\((.*?)\n\}\n", text, flags=re.DOTALL)
    }


def sass(cubin: Path) -> dict[str, str]:
    """Text of each function in the machine's instructions."""
    disassembler = nvdisasm()
    assert disassembler
    done = subprocess.run([disassembler, "-c", str(cubin)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^\.text\.(\w+):$", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def loops(text: str) -> Iterator[str]:
    """From each label to the last branch back to it, whatever the language."""
    for label in re.finditer(r"^[ \t]*([.$]L[\w$]+):", text, flags=re.MULTILINE):
        after = text[label.end() :]
        back = list(re.finditer(rf"\b(?:bra|BRA)\b[^\n]*{re.escape(label[1])}\b", after))
        if back:
            yield after[: back[-1].end()]


def _nvcc(*options: str, name: str, into: Path) -> str:
    command = [nvcc() or "nvcc", f"-arch={ARCH}", *OPTIONS, *options]
    command += ["-o", str(into), str(SOURCE / f"{name}.cu")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@functools.cache
def why_not() -> str:
    """Why device code cannot be looked at here; "" where it can."""
    return "" if nvcc() else "no nvcc on this machine"
