"""A umask that takes no right from anybody does not widen what we make."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.support.cli import Place

SAVES = """
def f(bars, params, stop):
    stop.checkpoint(params["a"])
    if params["a"] < DONE:
        return row(params)
    mark("ready")
    stop.wait()
    return None
"""
CALLER = """
import sys
from pathlib import Path
import pandas as pd
from supervisor import sweep

index = pd.date_range("2024-01-01", periods=50, freq="h")
frame = pd.DataFrame({"close": [1.0 + i / 7 for i in range(50)]}, index=index)
for name, data in (("one", frame), ("two", sys.argv[2])):
    run_dir = Path(sys.argv[1], "deep", name)

    def f(bars, params, stop):
        while not (run_dir / "inputs.json").exists():
            stop.wait(0.01)
        return {"x": 1.0}

    with sweep(f, {"a": range(5)}, data, workers=1, run_dir=run_dir) as run:
        run.wait()
"""


def wide_open(*roots: Path) -> list[str]:
    """What others can read or write below some directories, these included."""
    found = []
    for root in roots:
        for path in (root, *root.rglob("*")):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
                found.append(f"{stat.filemode(mode)} {path}")
    return found


@pytest.fixture
def tight(place: Place) -> Place:
    """A place whose own directories are private: what is not was made by a run."""
    for name in ("state", "runtime"):
        (place.root / name).chmod(0o700)
    return place


def test_a_sweep_while_it_runs_and_when_it_has_ended(tight: Place) -> None:
    run = tight.start(tight.run_argv(SAVES, DONE=3, n=9), umask=0)
    run.wait_marks("ready", 1)
    made = [tight.root / name for name in ("state", "runtime", "run")]
    assert list((tight.root / "runtime" / "allstop").glob("*.sock"))
    assert list((run.run_dir / "checkpoints").iterdir())
    assert wide_open(*made) == []
    run.popen.terminate()
    run.popen.wait()
    assert (run.run_dir / "results.parquet").exists(), run.tell()
    assert wide_open(*made) == []


def test_sweeps_from_python_of_a_frame_and_of_a_file(tight: Place) -> None:
    os.utime(tight.data, (1e9, 1e9))  # bars of a file written just now are not cached
    made = tight.root / "made"
    run = tight.start([sys.executable, "-P", "-c", CALLER, str(made), str(tight.data)], umask=0)
    assert run.popen.wait() == 0, run.tell_end()
    assert (made / "deep" / "one" / "bars.bin").exists()
    assert (made / "deep" / "one" / "function.dill").exists()
    assert list((tight.root / "cache" / "allstop" / "bars").iterdir())
    assert wide_open(*(tight.root / name for name in ("state", "runtime", "made", "cache"))) == []


def test_a_command_with_the_shim(tight: Place) -> None:
    made = tight.root / "made"
    ended = tight.command("run", "--run-dir", str(made), "--", "true", umask=0)
    assert ended.returncode == 0, ended.stderr
    assert (made / "report.json").exists()
    assert wide_open(*(tight.root / name for name in ("state", "runtime", "made"))) == []


def test_a_page(tight: Place) -> None:
    pytest.importorskip("plotly")
    run = tight.start(tight.run_argv(SAVES, DONE=9, n=5), umask=0)
    assert run.popen.wait() == 0, run.tell()
    ended = tight.command("report", str(run.run_dir), "--html", umask=0)
    assert ended.returncode == 0, ended.stderr
    assert list(run.run_dir.glob("*.html"))
    assert wide_open(run.run_dir) == []
