"""Backtest one case with a library that a sanitizer watches: a process of its own.

``python -m tests.support.gpu.sanitized LIBRARY CASE ROWS``; see :func:`run`. Imports neither Numba
nor anything else that brings compiled code a sanitizer was not told of, NumPy excepted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.gpu import kernels
from tests.support.gpu.launches import Columns, Launches, Series

_SILENT = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=66 halt_on_error=1",
}


def run(
    build: kernels.Build,
    place: Path,
    strategy: str,
    bars: Any,
    columns: Columns,
    *,
    threads: int = 32,
    **options: Any,
) -> tuple[NDArray[np.float64], subprocess.CompletedProcess[str]]:
    """Rows of a case, and how the process that computed them ended.

    Parameters
    ----------
    build : Build
        One with a sanitizer.
    place : Path
        Directory for the files in between.
    strategy, bars, columns, options
        As for :meth:`tests.support.gpu.launches.Launches.rows`, without a fee.
    """
    case, rows = place / "case.npz", place / "rows.npy"
    np.savez(
        case,
        series=np.stack([bars.close, bars.high, bars.low]),
        names=np.array(list(columns)),
        values=np.stack([np.asarray(values, np.float64) for values in columns.values()]),
        facts=np.array([strategy, str(threads), json.dumps(options)]),
    )
    command = [sys.executable, "-m", __name__, str(kernels.built(build)), str(case), str(rows)]
    done = subprocess.run(
        [*_in_plain_addresses(build), *command],
        env={**os.environ, **_SILENT, "LD_PRELOAD": _runtimes(build)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    return np.load(rows) if done.returncode == 0 else np.empty(0), done


def _in_plain_addresses(build: kernels.Build) -> list[str]:
    """ThreadSanitizer maps its shadow where randomised addresses may already be."""
    return ["setarch", "-R"] if "thread" in build else []


def _runtimes(build: kernels.Build) -> str:
    names = ["libtsan.so"] if "thread" in build else ["libasan.so", "libubsan.so"]
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True)
        for name in [*names, "libstdc++.so"]
    ]
    return ":".join(done.stdout.strip() for done in found)


def _main(library: str, case_path: str, rows_path: str) -> None:
    case = np.load(case_path)
    strategy, threads, options = case["facts"].tolist()
    columns = dict(zip(case["names"].tolist(), case["values"], strict=True))
    launches = Launches(kernels.load(Path(library)), int(threads))
    rows = launches.rows(strategy, Series(*case["series"]), columns, 0.0005, **json.loads(options))
    np.save(rows_path, rows)


if __name__ == "__main__":
    _main(*sys.argv[1:])
