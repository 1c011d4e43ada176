"""What rounds damage: a finished run by real processes, with cluster jobs, caches and records.

Everything lies below one root, in memory too, so that a round can be undone in a moment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from slurm.records.book import Keeper
from slurm.records.outstanding import OutstandingJobs
from supervisor.records import registry
from supervisor.records.registry import Entry
from supervisor.system.process import Identity
from tests.support.cli import bars_csv
from tests.support.waiting import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]
RUN = "20240229-120000-abcdef"
TOKEN = f"allstop-{RUN}-01234567"
OURS = ("4711", "4712")
SUBMITTED_AT = "1709164800"

SWEEP = """
import os, sys, time
from supervisor import sweep
from supervisor.market.bars import load_bars

kept = sys.argv[2] + "/inputs.json"

def f(bars, params, stop):
    while not os.path.exists(kept):
        time.sleep(0.005)  # its inputs are kept while it runs
    if params["a"] == 3:
        raise ValueError("no luck")
    return {"sharpe": params["a"] * 10.0 + params["b"] + float(bars.close[-1]), "trades": 2.0}

with sweep(f, {"a": list(range(12)), "b": [1, 2, 5]}, data=load_bars(sys.argv[1]), workers=2,
           run_dir=sys.argv[2]) as run:
    run.wait()
"""

LIKE_LOCAL = {"XDG_STATE_HOME": "state", "XDG_RUNTIME_DIR": "runtime", "XDG_CACHE_HOME": "cache"}


def dead() -> Identity:
    """A process of this host that has ended."""
    return Identity.here(2**22 - 1, 1)


class Sample:
    """The files under one root as they should be, and what they say.

    Attributes
    ----------
    root, run_dir : Path
        Where they lie; the run has ended.
    run_id : str
        The run's.
    whole : dict of bytes
        Every file, by its path below the root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_dir = root / "work" / "runs" / "sample"
        (root / "work").mkdir()
        (root / "foreign").mkdir()
        for name in ("private", "run.json", "results.parquet"):
            (root / "foreign" / name).write_text("not to be touched\n")
        self._sweep()
        self.run_id = self.run_dir_id()
        self._add_jobs()
        registry.add(Entry(self.run_id, self.run_dir, dead(), dead()))
        registry.add(Entry("20240301-000000-000001", root / "nowhere", dead(), dead()))
        self.whole = dict(self.files())

    def run_dir_id(self) -> str:
        """The id that the run was given."""
        from supervisor.records.command import plan_of

        return plan_of(self.run_dir).run_id

    def _sweep(self) -> None:
        data = self.root / "bars.csv"
        data.write_text(bars_csv())
        script = self.root / "sweep.py"
        script.write_text(SWEEP)
        done = subprocess.run(
            [sys.executable, "-P", script, data, self.run_dir], cwd=self.root / "work",
            env=os.environ | {"PYTHONPATH": str(ROOT), "ALLSTOP_PRELOAD": "0"},
            capture_output=True, text=True, check=False, timeout=DEADLINE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _add_jobs(self) -> None:
        ledger = self.run_dir / "ledger"
        OutstandingJobs(TOKEN, "local", {"SLURM_CONF": "/nowhere"}, ledger, dead()).record()
        other = f"{TOKEN[:-1]}8"
        OutstandingJobs(other, "local", {}, registry.state_dir() / "gone", dead()).record()
        with closing(Keeper(ledger)) as keeper:
            keeper.expect(TOKEN, "local", {"SLURM_CONF": "/nowhere"}, others=True)
            for number, job_id in enumerate(OURS):
                keeper.write("submit_intended", number=number, name="sweep")
                keeper.write("submitted", number=number, job_id=job_id, submitted_at=SUBMITTED_AT)
            keeper.write("jobs_seen", jobs=[(OURS[0], "running", SUBMITTED_AT)])

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file below the root now; links and other things as what they are."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if path.is_symlink():
                    yield str(path.relative_to(self.root)), b"-> " + os.fsencode(path.readlink())
                elif path.is_file():
                    yield str(path.relative_to(self.root)), path.read_bytes()

    def path(self, name: str) -> Path:
        return self.root / name

    def put(self, name: str, raw: bytes) -> None:
        """Write a file in place, without syncing."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    def undo(self) -> None:
        """Put everything back that differs from what it should be."""
        now = dict(self.files())
        for name in now.keys() - self.whole.keys():
            (self.root / name).unlink()
        for name, raw in self.whole.items():
            if now.get(name) != raw:
                path = self.root / name
                if path.is_dir():
                    shutil.rmtree(path)
                self.put(name, raw)

    def matching(self, pattern: str) -> list[str]:
        """The files whose path below the root matches a pattern."""
        found = sorted(name for name in self.whole if Path(name).match(pattern))
        assert found, f"the sample has no {pattern}"
        return found

    @property
    def foreign(self) -> dict[str, Any]:
        """What is not the run's, with its times: nothing of it may change."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted((self.root / "foreign").iterdir())
        }


@contextmanager
def at(root: Path) -> Iterator[Sample]:
    """Make a sample below a directory, with state, runtime and cache directories there."""
    before = dict(os.environ)
    where = Path.cwd()
    for variable, name in LIKE_LOCAL.items():
        (root / name).mkdir(mode=0o700)
        os.environ[variable] = str(root / name)
    try:
        sample = Sample(root)
        os.chdir(root / "work")
        yield sample
    finally:
        os.chdir(where)
        for variable in LIKE_LOCAL:
            os.environ.pop(variable)
            if variable in before:
                os.environ[variable] = before[variable]
