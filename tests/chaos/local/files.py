"""What must hold of a run's files after each attempt, and the damage done to them between two."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from pathlib import Path

from supervisor.rows.frames import read_journal
from supervisor.rows.journal import JournalWriter, journal_path, journal_paths, next_serial
from tests.chaos.engine import Outcome, ViolationError
from tests.chaos.local.run import Run
from tests.chaos.local.scenario import Damage, Scenario
from tests.support.cli import kept_in, rows_of


class Files:
    """Journals, results and report of a run."""

    def __init__(self, run: Run, scenario: Scenario, outcome: Outcome) -> None:
        self._run = run
        self._scenario = scenario
        self._outcome = outcome
        self._kept_before: set[int] = set()

    def check(self) -> None:
        """Rows once each and right; none lost; a report where a run has begun."""
        run, events = self._run, self._run.events()
        for name in ("stdout", "stderr"):
            if "Traceback" in run.out(name) and "warden.run_started" in events:
                raise ViolationError("the command shows a traceback")
        if events.splitlines()[-1:] and "front.run_requested" in events.splitlines()[-1]:
            # killed before its entry was written: it is found by its directory alone
            said = run.place.command("report", str(run.run_dir))
            run.note(f"nothing had begun: report {said.returncode}")
        if "front.run_requested" in events and not run.size("report.json"):
            raise ViolationError("no report")
        kept = self._kept()
        self._outcome.counts["rows twice in journals, once in results"] += sum(
            times > 1 for times in kept.values()
        )
        if lost := self._kept_before - set(kept):
            raise ViolationError(f"no journal holds {sorted(lost)} any more")
        self._kept_before = set(kept)
        if "front.run_requested" in events and not self._scenario.built_in:
            self._check_rows(set(kept))

    def check_equal(self, whole: bytes) -> None:
        """The results are those of a run that was left alone, bit for bit."""
        run_dir = self._run.run_dir
        if (run_dir / "results.parquet").read_bytes() != whole:
            rows, kept = rows_of(run_dir), kept_in(run_dir)
            raise ViolationError(
                f"other results than of a run left alone: {len(rows)} rows, {len(kept)} "
                f"combinations in the journals; {rows[:3]} …"
            )

    def damage(self, damage: Damage) -> None:
        """Do to journals what a power loss or an unlucky instant does."""
        journals = journal_paths(self._run.run_dir / "journal")
        paths = [path for path in journals if path.stat().st_size]
        if not paths:
            return
        if damage is Damage.TORN:
            os.truncate(paths[-1], max(0, paths[-1].stat().st_size - 5))
            self._kept_before = set(self._kept())
        if damage is Damage.DOUBLED:
            self._double(paths[0])

    def _kept(self) -> Counter[int]:
        run_dir = self._run.run_dir
        return kept_in(run_dir) if (run_dir / "journal").exists() else Counter()

    def _check_rows(self, kept: set[int]) -> None:
        rows = rows_of(self._run.run_dir) if self._run.size("results.parquet") else []
        names = [row["a"] for row in rows]
        if names != sorted(kept):
            raise ViolationError(f"rows {names}, but the journals hold {sorted(kept)}")
        for row in rows:
            if row.get("error") is None and row["twice"] != 2.0 * row["a"]:
                raise ViolationError(f"a wrong row: {row}")

    def _double(self, path: Path) -> None:
        """As if a worker had died between keeping rows and counting them."""
        frames = [frame for frame in read_journal(path)[0] if frame.columns]
        if not frames:
            return
        directory = self._run.run_dir / "journal"
        serial = next_serial(directory)
        run_id = json.loads((self._run.run_dir / "run.json").read_text())["run_id"]
        writer = JournalWriter(journal_path(directory, serial), run_id, serial)
        with contextlib.closing(writer) as journal:
            for frame in frames:
                journal.append(frame.start, frame.columns, frame.rows())
