"""The GPU kernels' own source as C++: built once, kept by the digest of all that goes into it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "cpu"
SOURCE = Path(__file__).parents[3] / "workers" / "cupy_backtest" / "source"

_COMPILER = "g++"
_FLAGS = (
    *("-std=c++20", "-O2", "-g", "-fPIC", "-shared", "-pthread"),
    "-ffp-contract=off",  # what --fmad=false is to nvcc
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
)


class Build(StrEnum):
    """What a library is built for; the value tells the compiler's flags."""

    SERIAL = "-DSERIAL"
    THREADS = "-DTHREADS"
    ADDRESS = "-DSERIAL -fsanitize=address,undefined -fno-sanitize-recover=all"
    RACES = "-DTHREADS -fsanitize=thread"
    RACES_WITHOUT_BARRIER = "-DTHREADS -fsanitize=thread -DDROP_BARRIER"
    RACES_WITHOUT_LEAVING = "-DTHREADS -fsanitize=thread -DDROP_LEAVING"


def missing() -> str:
    """Why nothing can be built here; "" where it can."""
    return "" if shutil.which(_COMPILER) else f"no {_COMPILER} on this machine"


@functools.cache
def built(build: Build = Build.SERIAL) -> Path:
    """Return the kernels as a shared library, built where no earlier test has.

    It has ``launch_<kernel>(void** arguments, int blocks, int threads)`` for every kernel, where
    ``arguments[i]`` points to the i-th argument as for ``cuLaunchKernel``.
    """
    digest = hashlib.blake2b(digest_size=12)
    for fact in (_version(), *_FLAGS, build):
        digest.update(fact.encode() + b"\0")
    for path in sorted([*SOURCE.iterdir(), *HERE.iterdir()]):
        digest.update(path.read_bytes())
    place = Path(tempfile.gettempdir()) / f"allstop-test-kernels-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise PermissionError(f"{place} belongs to another user")
    library = place / f"{build.name.lower()}-{digest.hexdigest()}.so"
    if not library.exists():
        _compile(build, library)
    return library


def _compile(build: Build, library: Path) -> None:
    """Compile beside it and rename: another process may be doing the same."""
    unfinished = library.with_name(f"{library.name}.{os.getpid()}")
    command = [_COMPILER, *_FLAGS, *build.split(), f"-I{HERE}", f"-I{SOURCE}"]
    command += [str(HERE / "launch.cpp"), "-o", str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the kernels do not compile:\n{done.stderr}")
    unfinished.replace(library)
    for stale in library.parent.glob(f"{build.name.lower()}-*.so"):
        if stale != library:
            stale.unlink(missing_ok=True)


@functools.cache
def _version() -> str:
    return subprocess.run([_COMPILER, "--version"], capture_output=True, text=True).stdout


def load(path: Path) -> Any:
    """Load what :func:`built` returns."""
    return ctypes.CDLL(str(path))
