"""The bench of cancelling, on a real cluster; where there is none it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness.record import Document, Row
from tests.cluster.jobs import left
from tests.cluster.lab import Lab
from tests.support.waiting import LONG_S


def measured(tmp_path: Path, env: dict[str, str]) -> tuple[Row, ...]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench", "--quick", "cancel", "--json", "-"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LONG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (measurement,) = Document.from_json(json.loads(done.stdout)).measurements
    return measurement.rows


@pytest.mark.slurm
def test_many_jobs_go_in_few_calls(lab: Lab, tmp_path: Path) -> None:
    array, jobs = measured(tmp_path, lab.environment)
    assert array.details["calls of scancel"].max == 1
    assert jobs.details["calls of scancel"].max <= 2
    assert jobs.details["calls of scancel, floor"].min == 5
    assert left(lab) == []


def test_without_a_cluster_nothing_is_measured(tmp_path: Path) -> None:
    rows = measured(tmp_path, {"PATH": str(tmp_path)})
    assert {row.not_measured for row in rows} == {"no sbatch here"}
