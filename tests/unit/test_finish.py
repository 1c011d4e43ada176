"""What a damaged fact or report may not cost: rows in journals, and the end of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from supervisor.lifecycle.finish import write_report
from supervisor.records.report import Report
from supervisor.rows.journal import JournalWriter, journal_path
from supervisor.states import ExitCode, RunStatus


def a_refused_run(run_dir: Path) -> Report:
    """A run that a fact calls refused for a mistake of the user's, and of which no row counts."""
    (run_dir / "journal").mkdir(parents=True)
    (run_dir / "run.json").write_text("{}")
    return Report("r", RunStatus.FAILED, "no", ExitCode.USAGE, "none", 2, 0, 0, 0.0, str(run_dir))


def test_a_run_that_was_refused_leaves_nothing(tmp_path: Path) -> None:
    report = a_refused_run(tmp_path / "run")
    with JournalWriter(journal_path(tmp_path / "run" / "journal", 0), "r", 0):
        pass
    write_report(report)
    assert not (tmp_path / "run").exists()


def test_journals_with_rows_are_kept_whatever_the_facts_say(tmp_path: Path) -> None:
    report = a_refused_run(tmp_path / "run")
    path = journal_path(tmp_path / "run" / "journal", 0)
    with JournalWriter(path, "r", 0) as journal:
        journal.append(0, ["sharpe"], np.zeros((2, 1)))
    write_report(report)
    assert path.exists()
    assert (tmp_path / "run" / "report.json").exists()
