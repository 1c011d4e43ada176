"""Runs all tests; where ``ALLSTOP_BESIDE`` is set, those of the cluster beside the others.

Both mostly wait, so that takes two thirds of the time. What the tests beside have said is
shown once the others are through. ``python -m tests.suites [ARGUMENT…]``: with arguments,
pytest alone does what they say.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import IO

BESIDE = "tests/cluster"


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit code, the first that is not 0."""
    if arguments or not os.environ.get("ALLSTOP_BESIDE"):
        os.execv(sys.executable, _command(*arguments))
    running: list[subprocess.Popen[bytes]] = []

    def end_all(*_: object) -> None:
        for suite in running:
            suite.send_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, lambda *_: None)  # they hear it too, and have things to put away
    signal.signal(signal.SIGTERM, end_all)
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        # without a cache of its own: the two would write over each other
        running.append(_start(BESIDE, "-p", "no:cacheprovider", into=said))
        print(f"{BESIDE} runs beside the others and is shown after them", flush=True)
        running.append(_start(*_others()))
        beside, here = (suite.wait() for suite in running)
        said.seek(0)
        sys.stdout.write(said.read())
    return here or beside


def _others() -> list[str]:
    """Every folder of tests that pytest is told of, but for the one."""
    told = tomllib.loads(Path("pyproject.toml").read_text())
    paths: list[str] = told["tool"]["pytest"]["ini_options"]["testpaths"]
    return [path for path in paths if path != BESIDE]


def _start(*arguments: str, into: IO[str] | None = None) -> subprocess.Popen[bytes]:
    if into is None:
        return subprocess.Popen(_command(*arguments))
    return subprocess.Popen(
        _command(*arguments), stdin=subprocess.DEVNULL, stdout=into, stderr=subprocess.STDOUT
    )


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
