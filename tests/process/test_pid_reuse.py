"""No signal goes to a stranger who was given the pid of one of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.cli import ROOT
from tests.support.recycle import CASES

pytestmark = pytest.mark.usefixtures("no_leaks")

UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def play(*case: str) -> dict[str, Any]:
    """Play a case as the first process of a PID namespace."""
    privilege = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        [*UNSHARE, *privilege, sys.executable, "-P", "-m", "tests.support.recycle", *case],
        capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode != 0 and done.stderr.startswith("unshare:"):
        pytest.skip(f"no PID namespace can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_who_has_the_pid_of_one_of_ours_is_left_alone_whenever_it_got_it(case: str) -> None:
    seen = play(case)
    assert seen["instants"] >= 5, "there is nothing between the look and the signal to try"
    assert seen["died"] == []


@pytest.mark.parametrize("case", ["send", "descendants", "ancestors", "leftovers", "stopped"])
def test_without_the_guard_the_stranger_would_die(case: str) -> None:
    assert play(case, "without")["died"] != []
