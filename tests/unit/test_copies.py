"""A copy of a run's directory is told from the directory itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supervisor.errors import ConfigError
from supervisor.lifecycle.copies import own_run, refuse_copy, set_ledger_aside
from supervisor.lifecycle.jobs import cancel_jobs
from supervisor.lifecycle.shards import lay_out
from supervisor.records import rundir
from supervisor.records.environment_snapshot import write_run_file
from supervisor.records.home import HOME_KEY, original_of
from supervisor.records.ledger import Ledger, read_ledger
from supervisor.records.plan import Plan, Source
from supervisor.rows.grid import Grid
from supervisor.rows.index import covered
from supervisor.rows.journal import JournalWriter, journal_path
from supervisor.system import durable

PLAN = Plan(
    run_id="first", strategy="f", source=Source.IMPORT, grid=Grid.of({"a": range(8)}),
    combos_total=8, data="example", n_bars=1, workers=1,
)  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    made = rundir.create(tmp_path / "run")
    write_run_file(made, PLAN.to_json()).release()
    return made


def asked(run_dir: Path) -> dict[str, Any]:
    return durable.read_json(run_dir / rundir.RUN_FILE)


def copy_of(run_dir: Path, name: str = "copy") -> Path:
    return Path(shutil.copytree(run_dir, run_dir.with_name(name), symlinks=True))


def test_the_directory_itself_is_no_copy(run_dir: Path) -> None:
    assert original_of(run_dir, asked(run_dir)) == ""
    (run_dir.parent / "link").symlink_to(run_dir)
    assert original_of(run_dir.parent / "link", asked(run_dir)) == ""


def test_one_that_was_moved_is_no_copy(run_dir: Path) -> None:
    moved = run_dir.rename(run_dir.with_name("moved"))
    assert original_of(moved, asked(moved)) == ""


def test_one_that_another_host_sees_is_no_copy(run_dir: Path) -> None:
    plain = asked(run_dir)
    plain[HOME_KEY]["device"] += 1  # each host numbers its mounts as it likes
    assert original_of(run_dir, plain) == ""


@pytest.mark.parametrize("original", ["is there", "is gone", "was moved away for it"])
def test_a_copy_is_one_whatever_became_of_the_original(run_dir: Path, original: str) -> None:
    copied = copy_of(run_dir)
    if original != "is there":
        run_dir.rename(run_dir.with_name("elsewhere"))
    if original == "was moved away for it":
        copied = copied.rename(run_dir)
    assert original_of(copied, asked(copied)) == str(run_dir)


@pytest.mark.parametrize("home", [None, [], 5, {"path": 1}, {}])
def test_a_home_that_is_none_is_taken_for_no_copy(run_dir: Path, home: object) -> None:
    assert original_of(run_dir, asked(run_dir) | {HOME_KEY: home}) == ""


def test_a_copy_is_a_run_of_its_own_with_the_same_rows(run_dir: Path) -> None:
    plan, remark = own_run(PLAN, asked(run_dir), run_dir)
    assert (plan, remark) == (PLAN, "")
    with JournalWriter(journal_path(run_dir / "journal", 0), "first", 0) as journal:
        journal.append(0, ["x"], np.ones((3, 1)))
    copied = copy_of(run_dir)
    plan, remark = own_run(PLAN, asked(copied), copied)
    assert plan.run_id != "first"
    assert plan.copy_of == ("first",)
    assert (str(run_dir) in remark, plan.run_id in remark) == (True, True)
    assert covered(plan.journals(copied), plan.space) == [(0, 3)]
    assert Plan.from_json(plan.to_json()).run_ids == plan.run_ids
    of_copy, _ = own_run(plan, asked(copied), copied)
    assert of_copy.copy_of == (plan.run_id, "first")


def test_the_shards_of_a_copy_are_runs_of_their_own(run_dir: Path) -> None:
    folder = lay_out(run_dir, 1, (4, 8))
    assert asked(folder)["run_id"] == "first-1"
    assert HOME_KEY not in asked(folder), "it has none before it has begun"
    copied = copy_of(run_dir)
    plan, _ = own_run(PLAN, asked(copied), copied)
    durable.write_json(copied / rundir.RUN_FILE, asked(copied) | plan.to_json())
    part = Plan.from_json(asked(lay_out(copied, 1, (4, 8))))
    assert (part.run_id, part.copy_of) == (f"{plan.run_id}-1", ("first-1",))
    written = (copied / "shards" / "00001" / rundir.RUN_FILE).stat().st_mtime_ns
    lay_out(copied, 1, (4, 8))
    assert (copied / "shards" / "00001" / rundir.RUN_FILE).stat().st_mtime_ns == written


def test_a_copy_s_ledger_is_put_aside_and_its_jobs_are_not_cancelled(
    run_dir: Path, own_state: Path
) -> None:
    with Ledger(run_dir / rundir.LEDGER_FILE) as ledger:
        ledger.append("copy_made", address="somewhere", path="/home/me/.allstop/runs/first")
    copied = copy_of(run_dir)
    refuse_copy(run_dir)
    with pytest.raises(ConfigError, match=f"is a copy of {run_dir}.*run first"):
        list(cancel_jobs(str(copied)))
    set_ledger_aside(copied, "first")
    assert read_ledger(copied / rundir.LEDGER_FILE) == []
    assert len(read_ledger(copied / "ledger-of-first")) == 1
