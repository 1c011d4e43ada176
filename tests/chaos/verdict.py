"""What must hold of the report of a run that has ended, whichever process wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.verdict import check_verdict as finished_otherwise

INCOMPLETE = 3
STATUS_OF_EXIT_CODE = {0: "completed", 1: "failed", 2: "failed"}


def check_verdict(run_dir: Path) -> list[str]:
    """Describe what is wrong with the verdict in ``report.json``; empty: nothing is.

    It must agree with itself. And a process that finished the run now, from its facts and
    journals, must come to the same verdict.
    """
    try:
        report = json.loads((run_dir / "report.json").read_text())
    except FileNotFoundError:
        return []  # a run that never began has none; whether it should have is checked elsewhere
    except (OSError, ValueError) as error:
        return [f"report.json cannot be read: {error}"]
    return contradictions(report) + finished_otherwise(run_dir)


def contradictions(report: dict[str, Any]) -> list[str]:
    """Describe how status, exit code, reason and survivors of a report disagree.

    ``completed`` has exit code 0, ``failed`` 1 or 2, ``stopped`` 128 and more. Where a process
    or a job is left, whatever the status, the code is 3.
    """
    status, code, reason = report["status"], report["exit_code"], report["reason"]
    wrong = []
    if left := _left(report):
        if code != INCOMPLETE:
            wrong.append(f"exit code {code}, though there are survivors: {left}")
    elif code == INCOMPLETE:
        wrong.append(f"exit code {INCOMPLETE}, but no survivor is listed")
    if code != INCOMPLETE and status != STATUS_OF_EXIT_CODE.get(code, "stopped"):
        wrong.append(f"status {status} with exit code {code}")
    if code not in (*STATUS_OF_EXIT_CODE, INCOMPLETE) and code < 128:
        wrong.append(f"exit code {code} has no meaning")
    if (status == "completed") == bool(reason):
        wrong.append(f"status {status} with the reason {reason!r}")
    return wrong


def _left(report: dict[str, Any]) -> list[object]:
    survivors = report["stop"]["survivors"] if report["stop"] else []
    return [*survivors, *(job for job in report["jobs"] if not job["verified"])]
