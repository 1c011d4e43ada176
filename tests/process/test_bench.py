from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness.command import MEASUREMENTS
from bench.harness.record import Document

SMALL = {
    "hold_mb": 50,
    "grace_s": 0.1,
    "terminate_s": 0.1,
    "cores": 2,
    "bars": 5000,
    "combos": 100,
    "compute_s": 0.05,
    "peer_combos": 2,
    "big_combos": 1_000_000,
    "big_bars": 500,
    "big_s": 0.1,
    "polls": 100,
    "shots": 5,
    "kernel_shots": 2,
}


def bench(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    return subprocess.run(
        [sys.executable, "-P", "-m", "bench", "--quick", "--rounds", "1", *settings, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("name", [name for name in MEASUREMENTS if name not in ("poll", "cancel")])
def test_small_measurement_gives_complete_json(name, tmp_path, no_leaks):
    done = bench(tmp_path, name, "--json", "-")
    assert done.returncode == 0, done.stderr
    document = Document.from_json(json.loads(done.stdout))
    assert document.shape["hold_mb"] == 50
    (measurement,) = document.measurements
    assert measurement.name == name
    assert measurement.rows
    for row in measurement.rows:
        assert row.headline or row.not_measured == "not installed", row
    assert list(tmp_path.iterdir()) == [], "runs belong into a temporary directory"


def test_results_go_to_a_file_and_a_table(tmp_path, no_leaks):
    done = bench(tmp_path, "poll")
    assert done.returncode == 0, done.stderr
    assert "headline" in done.stdout
    (path,) = (tmp_path / "bench" / "out").iterdir()
    (measurement,) = Document.from_json(json.loads(path.read_text())).measurements
    assert measurement.name == "poll"
    for row in measurement.rows:
        assert row.headline or "so few bars" in row.not_measured, row
    assert sum(row.not_measured == "" for row in measurement.rows) == 6


def test_unknown_measurement_is_refused_with_what_there_is(tmp_path):
    done = bench(tmp_path, "speed")
    assert done.returncode == 2
    assert "relaunch" in done.stderr
