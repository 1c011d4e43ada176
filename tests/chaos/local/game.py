"""Rounds on this machine, as the engine plays them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from supervisor.containment import cgroup
from supervisor.containment.unavailable import UnavailableError
from tests.chaos.local.order import Expected
from tests.chaos.local.round import Round
from tests.chaos.local.scenario import scenario


class LocalGame:
    """Plays rounds on this machine; games of one root share the results to expect."""

    options = ""

    def __init__(self, expected: Expected, offered: tuple[str, ...]) -> None:
        self._expected = expected
        self._offered = offered

    def round(self, seed: int, root: Path) -> Round:
        """Make the round that a seed describes."""
        return Round(scenario(seed, self._offered), root, self._expected)


def games(root: Path, jobs: int | None = None) -> list[LocalGame]:
    """Make so many games, or one more than this machine has cores."""
    expected, offered = Expected(root), strengths()
    return [LocalGame(expected, offered)] * (jobs or 1 + len(os.sched_getaffinity(0)))


def strengths() -> tuple[str, ...]:
    """Containments that this machine offers."""
    found = ["subreaper"]
    try:
        cgroup.available()
    except UnavailableError:
        pass
    else:
        found.append("cgroup")
    for options in (["--pid", "--fork", "--mount-proc"], ["-U", "-p", "-f", "--mount-proc"]):
        if subprocess.run(["unshare", *options, "true"], capture_output=True).returncode == 0:
            return (*found, "pid-namespace")
    return tuple(found)
