"""Device code for the GPU at hand: compiled once, then read from the cache.

To cubin, which is machine code, and never to PTX: the driver would compile PTX anew in every
process, and refuses what a newer compiler than its own has written. A cubin runs on every driver
of the compiler's major version.

References
----------
NVIDIA, "NVRTC", "Versioning"; "CUDA Compatibility", "Minor Version Compatibility".
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from supervisor.errors import AllstopError, ConfigError
from workers.code_cache import CodeCache, key_of_facts, key_of_files

_HERE = Path(__file__).parent
SOURCE = _HERE / "source"

OPTIONS = ("--fmad=false", "--std=c++17")
"""No fused multiply-add: it rounds once where the CPU's kernels round twice."""

_CACHE = CodeCache(_HERE, ".cubin")


class Compiler(Protocol):
    """Compiles a file of ``source/``.

    Attributes
    ----------
    version : str
        Its name and release: code of another one is not taken for its own.
    """

    version: str

    def compile(self, name: str, arch: str) -> bytes:
        """Compile ``source/<name>.cu`` to a cubin.

        Raises
        ------
        CompilerError
            With the compiler's messages.
        """
        ...


class CompilerError(AllstopError):
    """A compiler refused the source or the architecture; the message is the compiler's."""

    @property
    def knows_no_such_device(self) -> bool:
        """Whether the architecture is newer than the compiler."""
        return "gpu architecture" in str(self).lower().replace("-", " ")


def cubin(name: str, capability: tuple[int, int], compiler: Compiler | None = None) -> bytes:
    """Return the code of ``source/<name>.cu`` for a device, compiled where it is not cached.

    Compiling takes about a second, which a stop waits for only as long as its grace period.

    Parameters
    ----------
    name : str
        Source file, without its suffix.
    capability : tuple of two int
        The device's compute capability, (9, 0) for sm_90.
    compiler : Compiler, optional
        Which to use; the first one found if left out.

    Raises
    ------
    ConfigError
        If there is no compiler.
    CompilerError
        If it refuses the source.
    """
    compiler = compiler or find_compiler()
    key = f"cuda.{name}", _source_key(), key_of_facts(compiler.version, repr(capability), *OPTIONS)
    code = _CACHE.read(*key)
    if code is None:
        code = _compile(compiler, name, capability)
        _CACHE.write(*key, code)
    return code


def _compile(compiler: Compiler, name: str, capability: tuple[int, int]) -> bytes:
    """Compile for this device, or the nearest older one of the family whose code it runs."""
    major, minor = capability
    while True:
        try:
            return compiler.compile(name, f"sm_{major}{minor}")
        except CompilerError as error:
            if not (error.knows_no_such_device and minor):
                raise
            minor -= 1


@functools.cache
def _source_key() -> str:
    """Changes when any file does: each kernel includes several."""
    return key_of_files(sorted(SOURCE.glob("*.cu*")))


# -- compilers ----------------------------------------------------------------


def find_compiler() -> Compiler:
    """Return NVRTC where CuPy can load it, else nvcc.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    for found in _compilers():
        return found
    raise ConfigError(
        "no compiler for GPU kernels was found: install NVIDIA's NVRTC (nvidia-cuda-nvrtc, or "
        "CuPy with its extra ctk) or put nvcc on PATH",
        key="device",
    )


def _compilers() -> Iterator[Compiler]:
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        # CuPy may not be installed, or find no library to load
        yield Nvrtc()
    nvcc = _nvcc()
    if nvcc is not None:
        yield Nvcc(nvcc)


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_PATH") or os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


class Nvrtc:
    """NVIDIA's compiler as a library, which CuPy finds and loads."""

    def __init__(self) -> None:
        from cupy.cuda import nvrtc

        self._nvrtc = nvrtc
        major, minor = nvrtc.getVersion()
        self.version = f"NVRTC {major}.{minor}"

    def compile(self, name: str, arch: str) -> bytes:
        """See :class:`Compiler`; takes tenths of a second."""
        nvrtc = self._nvrtc
        text = (SOURCE / f"{name}.cu").read_text("utf-8")
        headers = sorted(SOURCE.glob("*.cuh"))  # bytes, unlike the source: as CuPy takes them
        program = nvrtc.createProgram(
            text,
            f"{name}.cu",
            tuple(path.read_bytes() for path in headers),
            tuple(path.name.encode() for path in headers),
        )
        try:
            nvrtc.compileProgram(program, (f"--gpu-architecture={arch}", *OPTIONS))
            code: bytes = nvrtc.getCUBIN(program)
        except nvrtc.NVRTCError as error:
            # the log is empty where it is an option that is refused
            log = nvrtc.getProgramLog(program) or str(error)
            raise CompilerError(f"{self.version}, {name}.cu for {arch}: {log}") from None
        finally:
            nvrtc.destroyProgram(program)
        return code


class Nvcc:
    """NVIDIA's compiler as a program.

    Parameters
    ----------
    path : str
        The program.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        self.version = said.stdout.strip()

    def compile(self, name: str, arch: str) -> bytes:
        """See :class:`Compiler`; takes a second."""
        with tempfile.TemporaryDirectory(prefix="allstop-nvcc-") as place:
            target = Path(place) / "code.cubin"
            done = subprocess.run(
                [
                    *(self._path, "--cubin", f"--gpu-architecture={arch}", *OPTIONS),
                    *("-o", str(target), str(SOURCE / f"{name}.cu")),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise CompilerError(f"nvcc, {name}.cu for {arch}: {done.stderr.strip()}")
            return target.read_bytes()
