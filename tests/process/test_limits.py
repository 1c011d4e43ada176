"""Tight limits of the shell: a command works, or one line names the limit and how to raise it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import Place
from tests.support.waiting import DEADLINE_S, wait_for

LIMITS = ["-n 10", "-n 20", "-v 150000", "-v 900000", "-d 300000", "-f 0", "-s 64", "-u 1"]
STRATEGY = "def f(bars, params, stop):\n    return row(params)"


def under(place: Place, limit: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'ulimit -c 0 {limit} && exec "$@"', "bash", *argv], cwd=place.work,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=place.env,
        timeout=2 * DEADLINE_S,
    )  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_a_tight_limit_is_named_or_does_not_matter(place: Place, limit: str) -> None:
    if limit.startswith("-u") and os.getuid() == 0:
        pytest.skip("the kernel does not limit root's processes")
    before = place.command("run", "--run-dir", str(place.root / "before"), "--", "true")
    assert before.returncode == 0, before
    commands = (
        place.argv("status", str(place.root / "before")),
        place.argv("report", str(place.root / "before")),
        place.argv("run", "--run-dir", str(place.root / "command"), "--", "true"),
        place.run_argv(STRATEGY, n=3, workers=1, json=False),
    )
    for argv in commands:
        said = under(place, limit, argv)
        assert "Traceback" not in said.stdout + said.stderr, said
        if said.returncode == 0:
            continue
        last = (said.stderr.strip() or said.stdout.strip()).splitlines()
        ours = [line for line in last if line.startswith("allstop: ")]
        assert said.returncode in (1, 2), said
        if said.returncode == 2:
            assert len(ours) == 1, said
            assert f"ulimit {limit[:2]}" in ours[0], said
        else:  # it had begun, and kept what it had
            assert "failed: " in said.stdout + said.stderr, said
        wait_for(lambda: not place.alive(), "the end of its processes")
    for name in ("command", "run"):
        begun = Path(place.root, name, "report.json").exists()
        left = sorted(path.name for path in Path(place.root, name).glob("*"))
        assert begun or left == [], f"left of a run that could not begin: {left}"
