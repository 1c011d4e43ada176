"""``status``: how a run stands, running or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from supervisor.cli.text import containment_lines
from supervisor.ipc import control_socket, messages
from supervisor.records import registry, rundir
from supervisor.records.command import COMMAND_KEY, shown
from supervisor.states import RunStatus
from supervisor.system import durable


def status(
    run: Annotated[
        str | None, typer.Argument(help="A run's id or directory; the latest if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show how a run stands."""
    run_dir = registry.find_dir(run)
    facts = _facts(run_dir)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"run {facts['run_id']}: {facts['status']}")
    if "command" in facts:
        print(f"  {shown(tuple(facts['command']))}")
        if facts["elapsed_s"] is not None:
            print(f"  for {facts['elapsed_s']:.1f} s")
        who = "processes"
    else:
        print(f"  {facts['done']:,} of {facts['total']:,} combinations")
        who = "workers"
    if facts["workers"]:
        print(f"  {who}: {', '.join(map(str, facts['workers']))}")
    for line in containment_lines(run_dir):
        print(f"  {line}")
    print(f"  {facts['run_dir']}")


def _facts(run_dir: Path) -> dict[str, Any]:
    plan = durable.read_json(run_dir / rundir.RUN_FILE)
    of_command = COMMAND_KEY in plan
    facts: dict[str, Any] = {
        "run_id": plan["run_id"],
        "run_dir": str(run_dir),
        "status": RunStatus.DEAD,
        "done": 0,
        "total": 0 if of_command else plan["combos_total"],
        "workers": [],
    }
    if of_command:
        facts |= {COMMAND_KEY: plan[COMMAND_KEY], "elapsed_s": None}
    answer = _ask(plan["run_id"])
    if answer is not None:
        facts |= {"status": answer.status, "done": answer.done, "total": answer.total}
        facts["workers"] = answer.workers
        if of_command:
            facts["elapsed_s"] = answer.elapsed_s
    elif (run_dir / rundir.REPORT_FILE).exists():
        report = durable.read_json(run_dir / rundir.REPORT_FILE)
        facts |= {"status": report["status"], "done": report["combos_done"]}
        if of_command:
            facts["elapsed_s"] = report["elapsed_s"]
    else:
        if not of_command:
            from supervisor.records.plan import Plan
            from supervisor.rows.index import covered

            space = Plan.from_json(plan).space
            facts["done"] = space.count_all(covered(rundir.journal_dirs(run_dir), space))
        if any(e.alive for e in registry.entries() if e.run_id == plan["run_id"]):
            facts["status"] = RunStatus.STARTING
    return facts


def _ask(run_id: str) -> messages.Status | None:
    line = control_socket.connect(run_id)
    if line is None:
        return None
    with line:
        messages.send(line, messages.AskStatus())
        try:
            message, _ = messages.receive(line)
        except TimeoutError:
            return None
    return message if isinstance(message, messages.Status) else None
