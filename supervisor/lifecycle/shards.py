"""Shards: a sweep divided into parts that run elsewhere.

A shard is a run of its own, in a directory below the sweep's. It is laid out as a run
without results and then *resumed*: a shard that starts again, after a requeue or because
the sweep is resumed, computes only the combinations that it has not finished.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from supervisor.records import rundir
from supervisor.records.home import HOME_KEY
from supervisor.records.plan import Origin, Plan, Provenance
from supervisor.rows.index import covered, outstanding
from supervisor.system import durable, private

Range = tuple[int, int]


def divide(size: int, parts: int) -> list[Range]:
    """Divide indices 0 to ``size`` into parts that differ by at most one."""
    edges = [size * at // parts for at in range(parts + 1)]
    return [(a, b) for a, b in itertools.pairwise(edges) if a < b]


def unfinished(run_dir: Path, plan: Plan, shards: list[Range]) -> list[int]:
    """Shards of which a combination is in no journal."""
    space = plan.space
    done = covered(plan.journals(run_dir), space)
    return [
        at
        for at, (start, stop) in enumerate(shards)
        if outstanding(done, space, range(start, stop))
    ]


def shard_dir(run_dir: Path, index: int) -> Path:
    """Return the directory of a shard."""
    return run_dir / rundir.SHARD_DIR / f"{index:05d}"


def lay_out(run_dir: Path, index: int, shard: Range) -> Path:
    """Create a shard's directory, with its part of the plan; it has the sweep's inputs."""
    folder = shard_dir(run_dir, index)
    asked = rundir.read_run_file(run_dir)
    plan = Plan.from_json(asked)
    run_id, *copy_of = (rundir.shard_id(run_id, index) for run_id in plan.run_ids)
    there = folder / rundir.RUN_FILE
    # where the sweep is a copy, its shards are runs of their own as well
    if there.exists() and durable.read_json(there).get("run_id") == run_id:
        return folder
    part = replace(
        plan,
        run_id=run_id,
        copy_of=tuple(copy_of),
        combos_total=plan.space.count(*shard),
        provenance=_provenance_here(run_dir, plan),
        shard=shard,
    )
    private.make_directories(folder)
    asked.pop(HOME_KEY, None)  # the sweep's; the shard has one as soon as it begins
    durable.write_json(there, asked | part.to_json())
    return folder


def _provenance_here(run_dir: Path, plan: Plan) -> Provenance:
    """Say where a shard finds the bars: in the sweep's directory, if they were put there."""
    if (run_dir / rundir.BARS_FILE).exists():
        return replace(plan.provenance, origin=Origin.MEMORY)
    return plan.provenance
