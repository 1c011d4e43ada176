"""Whether another process that finishes a run comes to the verdict that its front came to."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from supervisor.lifecycle.finish import finish_dead_run

_DECIDED = ("status", "reason", "exit_code", "cause", "combos_done", "combos_failed")


def decided(report: dict[str, Any], *run_dirs: Path) -> dict[str, Any]:
    """What was decided, wherever the run directory lies."""
    texts = {key: str(report[key]) for key in _DECIDED}
    for run_dir in run_dirs:
        texts = {key: text.replace(str(run_dir), "RUN") for key, text in texts.items()}
    return texts


def check_verdict(run_dir: Path) -> list[str]:
    """Finish a copy of a run that has its report, and compare; return what differs.

    The copy has neither report nor results, as if every process that could have written them
    had been killed before. Survivors and cluster jobs are what the run's own process saw.
    """
    report = json.loads((run_dir / "report.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / run_dir.name
        shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("report*.json", ".lock"))
        results = copy / "results.parquet"
        if results.is_file():
            results.unlink()
        again = finish_dead_run(copy).to_json()
        first, second = decided(report, run_dir), decided(again, copy, run_dir)
    return [
        f"{key}: {first[key]!r} in its report, {second[key]!r} when finished again"
        for key in _DECIDED
        if first[key] != second[key]
    ]
