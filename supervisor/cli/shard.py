"""One shard of a sweep, inside a cluster job.

``python -P -m supervisor.cli.shard RUN_DIR WORKERS PARTS INDEX``: not a command for users.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from supervisor.cli.main import end_with
from supervisor.cli.sweep import run_prepared
from supervisor.lifecycle.prepare import Changes
from supervisor.lifecycle.resuming import complete, prepare
from supervisor.lifecycle.shards import divide, lay_out
from supervisor.records import rundir
from supervisor.records.plan import Plan
from supervisor.states import ExitCode
from supervisor.system import inherited_signals


def shard(run_dir: Path, workers: int, parts: int, index: int) -> int:
    """Compute what is missing of a shard; return the exit code.

    Its device is looked for here, on the node: the sweep's front may run where there is none.
    ``workers`` are those of a shard that computes on the CPU.
    """
    rundir.check_own(run_dir, with_shards=False)
    asked = rundir.read_run_file(run_dir)
    os.chdir(asked["cwd"])
    plan = Plan.from_json(asked)
    folder = lay_out(run_dir, index, divide(plan.grid.size, parts)[index])
    changes = Changes(cores=workers, device=plan.device, vram_limit=plan.vram_limit_bytes)
    if complete(folder, changes):
        return ExitCode.DONE
    return run_prepared(prepare(str(folder), changes), as_json=True)


if __name__ == "__main__":
    inherited_signals.settle()
    end_with(lambda: shard(Path(sys.argv[1]), *map(int, sys.argv[2:5])), sys.argv)
