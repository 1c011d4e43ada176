"""Fake NVIDIA libraries: C files of this directory, built by gcc and found by LD_LIBRARY_PATH."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


@functools.cache
def build(source_name: str, soname: str) -> Path:
    """Build a fake library, once per test process.

    Parameters
    ----------
    source_name : str
        C file beside this one, such as ``fake_libcuda.c``.
    soname : str
        What programs load, such as ``libcuda.so.1``.

    Returns
    -------
    Path
        A directory that holds the library under ``soname`` and nothing else: see
        :func:`environment`. Removed at exit.
    """
    directory = Path(tempfile.mkdtemp(prefix="allstop-fake-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += [f"-Wl,-soname,{soname}", "-o", str(directory / soname)]
    command += [str(HERE / source_name), "-pthread"]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        raise RuntimeError(f"{source_name} does not compile:\n{built.stderr}")
    return directory


def environment(*directories: Path, **variables: str) -> dict[str, str]:
    """Environment of a subprocess that finds the libraries of ``directories`` first."""
    before = os.environ.get("LD_LIBRARY_PATH")
    path = [str(directory) for directory in directories] + ([before] if before else [])
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(path), **variables}
