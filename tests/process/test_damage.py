"""Flipped bits in a run's files: rows that are right, or one line that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from supervisor.rows.journal import JournalWriter, journal_path
from tests.support.cli import Place

BUILT_IN = ("--strategy", "sma_cross", "--grid", "fast=2,3,4", "--grid", "slow=5,6,7")


def flip(path: Path, at: int, bit: int = 4) -> None:
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1 << bit
    path.write_bytes(whole)


@pytest.fixture
def run_dir(place: Place) -> Path:
    """A completed sweep."""
    os.utime(place.data, (1e9, 1e9))  # bars of a file written just now are not cached
    made = place.root / "run"
    ended = place.command(
        "run", *BUILT_IN, "--data", str(place.data), "--workers", "1", "--run-dir", str(made)
    )
    assert ended.returncode == 0, ended.stderr
    return made


def test_damaged_results_are_written_again(place: Place, run_dir: Path) -> None:
    results = run_dir / "results.parquet"
    whole = results.read_bytes()
    for at in (100, len(whole) // 2, len(whole) - 300):
        flip(results, at)
        said = place.command("report", str(run_dir))
        assert said.returncode == 0, said.stderr
        assert "results.parquet did not match its checksum: written now" in said.stdout
        assert results.read_bytes() == whole


def test_damaged_results_without_journals_are_one_line(place: Place, run_dir: Path) -> None:
    for journal in (run_dir / "journal").iterdir():
        journal.unlink()
    flip(run_dir / "results.parquet", 100)
    said = place.command("report", str(run_dir))
    assert (said.returncode, said.stderr.count("\n")) == (2, 1), said
    assert str(run_dir / "results.parquet") in said.stderr


def test_a_damaged_plan_is_one_line(place: Place, run_dir: Path) -> None:
    plan = run_dir / "run.json"
    flip(plan, plan.read_bytes().index(b"0.0005") + 5, 0)  # the fee
    for command in ("resume", "report", "status"):
        said = place.command(command, str(run_dir))
        assert (said.returncode, said.stderr.count("\n")) == (2, 1), said
        assert f"{plan}: does not match its checksum" in said.stderr


def test_a_journal_of_another_run_is_not_taken_in(place: Place, run_dir: Path) -> None:
    right = (run_dir / "results.parquet").read_bytes()
    for path in (run_dir / "journal").iterdir():
        path.unlink()
    with JournalWriter(journal_path(run_dir / "journal", 0), "another", 0) as journal:
        journal.append(0, ["sharpe"], np.full((9, 1), 5.0))
    said = place.command("resume", str(run_dir), "--json")
    assert said.returncode == 0, said.stderr
    assert (run_dir / "results.parquet").read_bytes() == right
    lines = [line for line in json.loads(said.stdout)["errors"] if "journal" in line]
    assert len(lines) == 1, said.stdout
    assert "worker-0000.bin: is a journal of run another, not of" in lines[0]
