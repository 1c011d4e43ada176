"""Runs other programs within a time limit and reads what they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from supervisor.doctor import probe

ASK_S = 5.0


def output_of(*command: str, timeout_s: float = ASK_S) -> tuple[int, str]:
    """Run a command; return its exit code (-1: none) and its output, on one line."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no answer within {timeout_s:g} s"
    except OSError as error:
        return -1, error.strerror or str(error)
    return done.returncode, " ".join(done.stdout.decode(errors="replace").split())


def try_out(what: str) -> tuple[bool, str]:
    """Run one trial of :mod:`supervisor.doctor.probe` in a short-lived process."""
    script = str(Path(probe.__file__).resolve())
    code, said = output_of(sys.executable, "-I", "-S", script, what)
    return code == 0, said
