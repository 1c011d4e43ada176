"""Processes that have files open, such as a GPU's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def hold(*files: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a process that has files open; it is ready when this returns."""
    code = "import sys; held = [open(n) for n in sys.argv[1:]]; print('ready', flush=True); input()"
    started = subprocess.Popen(
        [sys.executable, "-S", "-c", code, *map(str, files)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (env or {}),
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def let_go(*started: subprocess.Popen[str]) -> None:
    for one in started:
        one.communicate("\n")
