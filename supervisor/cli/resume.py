"""``resume``: carry a run on after whatever ended it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from supervisor.cli import show
from supervisor.cli.sweep import carry_out
from supervisor.front.launch import Launch
from supervisor.front.link import WardenLink, keep_warden
from supervisor.lifecycle.prepare import Changes
from supervisor.lifecycle.resuming import complete, prepare
from supervisor.records import registry, rundir
from supervisor.records.report import Report
from supervisor.system import durable


def resume(
    run: Annotated[str, typer.Argument(help="A run's id or directory.")],
    workers: Annotated[
        int | None, typer.Option(help="Worker processes.", show_default="as before")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds from flag to SIGTERM.", show_default="as before")
    ] = None,
    terminate: Annotated[
        float | None,
        typer.Option(help="Seconds from SIGTERM to SIGKILL.", show_default="as before"),
    ] = None,
    verify: Annotated[
        float | None,
        typer.Option(help="Seconds from SIGKILL to giving up.", show_default="as before"),
    ] = None,
    containment: Annotated[
        str | None,
        typer.Option(help="auto, pid-namespace, cgroup or subreaper.", show_default="as before"),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute failed combinations once more.")
    ] = False,
    changed_code: Annotated[
        bool, typer.Option("--changed-code", help="Accept an edited strategy file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> int:
    """Carry a run on, whatever ended it: only what is missing is computed.

    Finished combinations are kept, failed ones too unless --retry-failed.
    """
    given = {"grace_s": grace, "terminate_s": terminate, "verify_s": verify}
    times = {name: value for name, value in given.items() if value is not None}
    changes = Changes(
        workers,
        times,
        retry_failed=retry_failed,
        changed_code=changed_code,
        containment=containment,
    )
    run_dir = registry.find_dir(run)
    done = complete(run_dir, changes)
    if done is not None:
        return say_complete(done, run_dir, as_json=as_json)
    # it loads its libraries while the data is read and checked
    asked = durable.read_json(run_dir / rundir.RUN_FILE)
    wanted = containment or str(asked.get("containment", "auto"))
    keep_warden(WardenLink(Launch(str(asked.get("strategy", "")), wanted)))
    return carry_out(prepare(str(run_dir), changes), as_json=as_json)


def say_complete(report: Report, run_dir: Path, *, as_json: bool) -> int:
    """Say that there is nothing left to compute."""
    if as_json:
        print(json.dumps(report.to_json(), default=str))
    else:
        print(f"run {report.run_id} is complete: nothing is left to compute")
        print(f"results: {show.shorten(run_dir)}")
    return 0
