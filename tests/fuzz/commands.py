"""Whole commands on a damaged place, in this process: reap, report, status, jobs, stop, resume."""

from __future__ import annotations

import random
from pathlib import Path

import typer

from supervisor.cli.invocation import Invocation
from supervisor.cli.main import _app
from supervisor.errors import AllstopError
from supervisor.lifecycle import finish, resuming
from supervisor.lifecycle.prepare import Changes
from supervisor.records.claim import claim_directory
from supervisor.rows.results import read
from tests.fuzz import damage
from tests.fuzz.sample import Sample

RUN_DIR = "runs/sample"
COMMANDS = (
    ["reap"], ["reap"], ["reap", "--json"], ["reap", RUN_DIR],
    ["report", RUN_DIR], ["report", RUN_DIR, "--json"], ["report", RUN_DIR, "--html"], ["report"],
    ["status"], ["status", RUN_DIR, "--json"], ["jobs"], ["jobs", RUN_DIR], ["jobs", "--cancel"],
    ["stop"], ["stop", "--all"], ["stop", RUN_DIR], ["finish"], ["prepare to resume"],
    ["prepare to resume"],
)  # fmt: skip

_KINDS: dict[str, damage.Damage] = {
    "work/runs/sample/run.json": damage.of_json,
    "work/runs/sample/report.json": damage.of_json,
    "work/runs/sample/inputs.json": damage.of_json,
    "work/runs/sample/events.jsonl": damage.of_lines,
    "work/runs/sample/ledger": damage.of_lines,
    "work/runs/sample/results.parquet": damage.of_bytes,
    "work/runs/sample/bars.bin": damage.of_bytes,
    "work/runs/sample/function.dill": damage.of_bytes,
    "work/runs/sample/.lock": damage.of_bytes,
    "work/runs/sample/journal/*.bin": damage.of_bytes,
    "state/allstop/runs/*.json": damage.of_json,
    "state/allstop/jobs/*.json": damage.of_json,
}


class RefusedError(Exception):
    """The command ended with a complaint, as the command line would show it."""


def damage_some(rng: random.Random, sample: Sample) -> tuple[str, bool]:
    """Damage or remove one to five files; return which, and whether the plan was forged.

    A ``run.json`` that is written anew, as another program writes JSON, has no checksum: another
    grid in it is another sweep.
    """
    if rng.random() < 0.5:  # a run that was killed: it has neither
        for name in ("report.json", "results.parquet"):
            (sample.run_dir / name).unlink(missing_ok=True)
    done = []
    forged = False
    if rng.random() < 0.3:  # one that has no jobs: it can be resumed
        (sample.run_dir / "ledger").unlink()
    for pattern in rng.sample(sorted(_KINDS), rng.choice((1, 1, 2, 3, 5))):
        name = rng.choice(sample.matching(pattern))
        path = sample.root / name
        if not path.exists():
            continue
        match rng.randrange(12):
            case 0:
                path.unlink()
            case 1:
                path.unlink()
                path.mkdir()
            case 2:
                sample.put(name, damage.of_bytes(rng, sample.whole[name]))
            case _:
                sample.put(name, _KINDS[pattern](rng, sample.whole[name]))
                forged = forged or name.endswith("run.json")
        done.append(name)
    return ", ".join(done), forged


def run(arguments: list[str], sample: Sample) -> None:
    """Run one command.

    Raises
    ------
    RefusedError
        If it ends with one line of complaint; all other errors would be tracebacks.
    """
    try:
        if arguments == ["finish"]:
            with claim_directory(sample.run_dir):
                finish.report_of_dead_run(sample.run_dir)
        elif arguments == ["prepare to resume"]:
            prepared = resuming.complete(sample.run_dir, Changes()) or resuming.prepare(
                str(sample.run_dir), Changes(workers=1)
            )
            if not isinstance(prepared, resuming.Report):
                prepared.claim.release()
        else:
            _app(arguments, Invocation(None, frozenset()))
    except (AllstopError, typer.Abort) as error:
        raise RefusedError(str(error)) from None
    except OSError as error:
        raise RefusedError(str(error)) from None


def wrong_rows(sample: Sample) -> list[str]:
    """Rows of ``results.parquet`` that were never computed; none if it is damaged or gone."""
    path = sample.run_dir / "results.parquet"
    if not path.is_file() or _is_damaged(path, sample):
        return []
    close = 1.15
    found = []
    for row in read(path).to_pylist():
        failed = row["a"] == 3
        right = None if failed else row["a"] * 10.0 + row["b"] + close
        if row["sharpe"] != right or (row.get("error") is None) == failed:
            found.append(f"row {row}")
    return found[:3]


def _is_damaged(path: Path, sample: Sample) -> bool:
    try:
        read(path)
    except Exception:  # noqa: BLE001 - it is as the round has left it
        return True
    return False
