"""Copies of run directories: each is a run of its own, and leaves the original's alone.

How a copy is recognised: :mod:`supervisor.records.home`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.errors import ConfigError
from supervisor.records import rundir
from supervisor.records.home import original_of
from supervisor.records.plan import Plan


def own_run(plan: Plan, asked: dict[str, Any], run_dir: Path) -> tuple[Plan, str]:
    """Return the plan of the run that is resumed in a directory; if that is a copy, a remark too.

    A copy becomes a run of its own, with the rows of the first one: under one id, the two would
    end each other's processes and jobs.

    Parameters
    ----------
    plan : Plan
        The plan that ``run.json`` holds.
    asked : dict
        ``run.json``.
    run_dir : Path
        The directory.
    """
    original = original_of(run_dir, asked)
    if not original:
        return plan, ""
    own = replace(plan, run_id=rundir.new_run_id(), copy_of=plan.run_ids)
    return own, (
        f"this directory is a copy of that of run {plan.run_id} ({original}): resumed as a run of "
        f"its own, {own.run_id}"
    )


def set_ledger_aside(run_dir: Path, original: str) -> None:
    """Put away what a copy knows of jobs: they are the original's to cancel, and so is what a
    cluster has of its results.
    """
    ledger = run_dir / rundir.LEDGER_FILE
    if ledger.exists():
        ledger.replace(run_dir / f"{rundir.LEDGER_FILE}-of-{original}")


def refuse_copy(run_dir: Path) -> None:
    """Refuse to cancel the jobs that a copy's ledger names: they are those of the original.

    Raises
    ------
    ConfigError
        If the directory is a copy of a run's.
    """
    if not (run_dir / rundir.RUN_FILE).exists():
        return  # its ledger is all that is left
    asked = rundir.read_run_file(run_dir)
    if original := original_of(run_dir, asked):
        raise ConfigError(
            f"{run_dir} is a copy of {original}, and its jobs are those of run "
            f"{asked.get('run_id')}: name that run, or its directory",
            key="run",
        )
