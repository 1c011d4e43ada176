"""A home directory that is full, or over its quota, while the run directory lies elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import POLITE, Place, Started

NAMESPACE = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]
BLOCKS = 'mount -t tmpfs -o size=64k none "$H"; mkdir -m 700 -p "$H"/{state,runtime,cache}/allstop'
"""No room for a file's contents; directories are there, as after an earlier run."""
INODES = 'mount -t tmpfs -o size=64k,nr_inodes=5 none "$H"; mkdir -m 700 "$H"/{state,runtime,cache}'
"""No room for a name either."""
FILL = 'mkdir -p "$H"/state/allstop/runs; { cat /dev/zero > "$H"/fill; } 2> /dev/null'


@pytest.fixture(params=[BLOCKS, INODES], ids=["no blocks", "no inodes"])
def full(place: Place, request: pytest.FixtureRequest) -> Place:
    """A place whose state, runtime and cache directories lie on a full disk of their own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    home = place.root / "home"
    home.mkdir()
    place.env |= {
        "H": str(home),
        "HOME": str(home),
        "FILL": f"{request.param}; {FILL}",
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_RUNTIME_DIR": str(home / "runtime"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    probe = subprocess.run(
        [*NAMESPACE, "bash", "-c", request.param], env=place.env, capture_output=True
    )
    if probe.returncode != 0:
        pytest.skip("no file system may be mounted here")
    return place


def start(place: Place, argv: list[str], script: str = 'exec "$@"') -> Started:
    return place.start([*NAMESPACE, "bash", "-c", f'eval "$FILL"; {script}', "bash", *argv])


def test_a_sweep_runs_and_stops_all_the_same(full: Place) -> None:
    run = start(full, full.run_argv(POLITE, DONE=20))
    run.wait_marks("ready", 2)
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.tell()
    assert "Traceback" not in run.err
    run.assert_nothing_lost(20)
    assert run.report["stop"]["survivors"] == []
    said = [note for note in run.report["errors"] if "allstop stop and reap" in note]
    assert len(said) == 1, run.tell()
    assert "No space left on device" in said[0]
    assert len(said) <= len(run.report["errors"]) <= 2
    run.assert_gone()


def test_every_command_works_off_what_it_can(full: Place) -> None:
    """Run, report, resume and status by the directory: none of them needs the home."""
    code = "def f(bars, params, stop):\n    return row(params)"
    run_dir, argv = str(full.root / "run"), full.run_argv(code, n=4, json=False)
    base = full.argv()
    script = f"""
        "$@"; echo "code $?"
        for command in status report resume reap; do
            {" ".join(base)} $command {run_dir} --json; echo "code $?"
        done
        {" ".join(base)} jobs; echo "code $?"
        {" ".join(base)} run --run-dir {full.root / "other"} -- true; echo "code $?"
        {" ".join(base)} stop {run_dir}; echo "code $?"
        {" ".join(base)} doctor --json
        true
    """
    run = start(full, argv, script)
    assert run.end() == 0, run.tell()
    assert "Traceback" not in run.out + run.err, run.tell()
    codes = [line for line in run.out.splitlines() if line.startswith("code ")]
    assert codes == ["code 0"] * 7 + ["code 2"], run.tell()
    assert "allstop: the run is not in the registry" in run.err
    assert "no running run" in run.err
    found = {one["name"]: one for one in json.loads(run.out.splitlines()[-1])}
    for name in ("registry", "runtime dir"):
        assert (found[name]["status"], "not writable" in found[name]["what"]) == ("problem", True)
    report = json.loads(Path(run_dir, "report.json").read_text())
    assert (report["status"], report["combos_done"]) == ("completed", 4)
