"""A place to start runs from that speaks to a cluster of the test's."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab import Lab
from tests.support.cli import ROOT, Place, Started
from tests.support.waiting import DEADLINE_S, wait_for

thorough = pytest.mark.skipif(
    "ALLSTOP_THOROUGH" not in os.environ, reason="takes long: set ALLSTOP_THOROUGH=1"
)

ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED"}


class ClusterPlace(Place):
    """State, home and runtime directories of its own, and a way to the cluster.

    A bystander runs on the cluster: a job of the same user's that belongs to no run.
    """

    def __init__(self, root: Path, lab: Lab) -> None:
        super().__init__(root)
        self.lab = lab
        (root / "home").mkdir()
        (root / "ids").mkdir()
        ours = {name: value for name, value in lab.environment.items() if name in self.env}
        self.env = {name: self.env[name] for name in ours} | {
            name: value for name, value in self.env.items() if name.startswith(("XDG_", "ALLSTOP"))
        }
        self.env |= {
            "SLURM_CONF": str(lab.slurm_conf),
            "HOME": str(root / "home"),
            "PYTHONPATH": lab.environment.get("PYTHONPATH", ""),
            "NUMBA_CACHE_DIR": str(root / "numba"),
            "HERE": str(root),
            "IDS": str(root / "ids"),
        }
        self.env["PYTHONPATH"] = os.pathsep.join([str(ROOT), self.env["PYTHONPATH"]]).rstrip(":")
        self.before = set(self._rows())
        self.bystander = lab.submit("sleep 600", "--output=/dev/null", "--job-name=bystander")

    def shell(self, script: str, *options: str) -> Started:
        """Start ``allstop run -- bash -c SCRIPT``."""
        return self.start(self.shell_argv(script, *options))

    def shell_argv(self, script: str, *options: str) -> list[str]:
        """Command line of it."""
        run_dir = str(self.root / "run")
        return self.argv("run", "--run-dir", run_dir, *options, "--", "bash", "-c", script)

    def mark(self, name: str) -> Path:
        """File by which a script says that it has come to a point, or is let go on."""
        return self.root / name

    @property
    def ids(self) -> dict[str, str]:
        """Job ids that scripts have written down in ``$IDS``, by the name of the file."""
        return {
            path.name: text.split()[-1].split(";")[0]
            for path in sorted((self.root / "ids").iterdir())
            if (text := path.read_text().strip())
        }

    def jobs(self) -> dict[str, set[str]]:
        """States of the jobs that came since this place was made, by id; the bystander left out."""
        return {
            job: states
            for job, states in self._rows().items()
            if job not in self.before and job != str(self.bystander)
        }

    def alive_jobs(self) -> dict[str, set[str]]:
        """Those of :meth:`jobs` that have not ended."""
        return {job: states for job, states in self.jobs().items() if states & ALIVE}

    def wait_jobs(self, n: int, state: str = "RUNNING") -> list[str]:
        """Wait until so many jobs are in a state."""

        def look() -> list[str]:
            found = [job for job, states in self.jobs().items() if state in states]
            return found if len(found) >= n else []

        return wait_for(look, f"{n} jobs {state}", tell=lambda: f"{self.jobs()}\n{self.tell()}")

    def assert_no_jobs(self) -> None:
        """No job of ours is alive, now; the bystander is."""
        assert not self.alive_jobs(), f"{self.alive_jobs()}\n{self.tell()}"
        self.lab.wait_state(self.bystander, "RUNNING")  # it may not have begun yet

    @property
    def outstanding(self) -> list[Path]:
        """Cancels that are recorded as outstanding."""
        return sorted((self.root / "state" / "allstop" / "jobs").glob("*"))

    @property
    def ledger(self) -> str:
        """The run's, as it lies on disk; empty: there is none."""
        path = self.root / "run" / "ledger"
        return path.read_text() if path.exists() else ""

    def assert_nothing_outstanding(self) -> None:
        """No cancel is outstanding, and no run is registered."""
        assert not self.outstanding, [path.read_text() for path in self.outstanding]
        assert not list((self.root / "state" / "allstop" / "runs").glob("*.json"))
        assert not list((self.root / "home").glob(".allstop/leases/*"))

    def facts(self, *arguments: str) -> Any:
        """What a command says as JSON, whatever its exit code."""
        said = self.command(*arguments, "--json")
        assert said.stdout, said.stderr
        return json.loads(said.stdout)

    def _rows(self) -> dict[str, set[str]]:
        said = self.lab.run("squeue", "-h", "-r", "-t", "all", "-o", "%F|%T", timeout_s=DEADLINE_S)
        assert said.returncode == 0, said.stderr
        rows: dict[str, set[str]] = {}
        for line in said.stdout.split():
            job, state = line.split("|")
            rows.setdefault(job, set()).add(state)
        return rows

    def tell(self) -> str:
        return "\n".join(_texts(self.root)) + "\n".join(s.tell() for s in self.started[-1:])

    def clear(self) -> list[str]:
        """Kill what is left, jobs too; return what it was."""
        for job in self.alive_jobs():
            self.lab.run("scancel", job)
        self.lab.run("scancel", str(self.bystander))
        return super().clear()


def verified(report: dict[str, Any]) -> dict[str, str]:
    """States of a report's jobs by id; all of them were seen to have ended."""
    assert all(job["verified"] for job in report["jobs"]), report["jobs"]
    assert len({job["token"] for job in report["jobs"]}) <= 1
    return {job["id"]: job["state"] for job in report["jobs"]}


def job(script: str, *options: str, to: str = "") -> str:
    """A line of shell that submits, and writes down what ``sbatch`` says."""
    words = shlex.join(["sbatch", "--output=/dev/null", *options, f"--wrap={script}"])
    return f"{words} > $IDS/{to};" if to else f"{words};"


def _texts(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("run/ledger")):
        yield path.read_text()
