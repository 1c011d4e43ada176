"""Rounds in which a client of SLURM is killed at a random instant of a submission.

Half of the instants are spread over all of the submission, the others over the first few
ms after the intent is on disk: there ``sbatch`` is at work. The summary says how often the
job was there and the client had not learnt its id.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from slurm import Client
from slurm.reconcile import cancel_outstanding
from slurm.records.book import Book
from slurm.records.outstanding import all_outstanding
from supervisor.records.ledger import read_ledger
from tests.chaos import engine
from tests.chaos.engine import ViolationError
from tests.cluster.daemon import new_directory
from tests.cluster.lab import Lab
from tests.support.cli import ROOT
from tests.support.waiting import let_pass, wait_for

CLIENT = """
import sys
from slurm import Client
client = Client(lease_s=0)
print(client._keeper.path, flush=True)
sys.stdin.readline()
print(client.submit(command=["sleep", "600"]), flush=True)
sys.stdin.readline()
"""

AROUND_SBATCH_S = 0.02
"""After the intent is written down: starting ``sbatch`` takes 2 ms, its work 5."""


@dataclass(frozen=True)
class Scenario:
    """When the client is killed: a share of the submission, or of the time around ``sbatch``."""

    seed: int
    of_sbatch: bool
    share: float


def scenario(seed: int) -> Scenario:
    """Draw a round."""
    dice = random.Random(seed)
    return Scenario(seed, dice.random() < 0.5, dice.random())


class Round(engine.Round):
    """Plays one scenario; works in this process's environment and current directory."""

    def __init__(self, scenario: Scenario, lab: Lab, longest_s: float) -> None:
        super().__init__(scenario.seed, str(scenario))
        self._scenario = scenario
        self._lab = lab
        whole_s = AROUND_SBATCH_S if scenario.of_sbatch else longest_s
        self._delay_s = scenario.share * whole_s

    def carry_out(self) -> None:
        """Submit, kill, cancel what the client left; see that no job is left."""
        learnt = self._kill_amid_submission()
        began = time.monotonic()
        known, jobs = self._cancel_outstanding()
        self.outcome.end_s = time.monotonic() - began
        self.outcome.counts[f"clients killed: {_kind(learnt, jobs, known)}"] += 1
        self.outcome.deeds.append("SIGKILL to the client")
        if left := self._left():
            raise ViolationError(f"jobs left: {left}")

    def tell(self) -> str:
        """Describe the jobs that the controller knows."""
        return self._lab.run("squeue", "--states=all").stdout

    def clear(self) -> None:
        """Cancel what is left."""
        if left := self._left():
            self._lab.run("scancel", *left)

    def _kill_amid_submission(self) -> bool:
        """Return whether the client had learnt the job's id."""
        with subprocess.Popen(
            [sys.executable, "-P", "-c", CLIENT], env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as client, ExitStack() as then:  # fmt: skip
            then.callback(client.kill)
            assert client.stdin
            assert client.stdout
            ledger = Path(client.stdout.readline().strip())
            client.stdin.write("\n")
            client.stdin.flush()
            if self._scenario.of_sbatch:
                wait_for(lambda: b"submit_intended" in ledger.read_bytes(), "the intent on disk")
            let_pass(self._delay_s)
            client.kill()
            self.note(f"killed after {1000 * self._delay_s:.1f} ms")
            return client.stdout.readline().strip() != ""

    def _cancel_outstanding(self) -> tuple[int, int]:
        """Cancel all that is outstanding; return how many ids were known, and jobs there."""
        known, jobs = 0, 0
        for outstanding in all_outstanding():
            known += len(Book.of(read_ledger(outstanding.ledger)).ids)
            cancelled = cancel_outstanding(outstanding)
            jobs += len(cancelled.jobs)
            if not cancelled.complete:
                raise ViolationError(f"the cancel is not complete: {cancelled}")
        if remaining := list(all_outstanding()):
            raise ViolationError(f"still outstanding: {remaining}")
        return known, jobs

    def _left(self) -> list[str]:
        return self._lab.run("squeue", "-h", "-o", "%A").stdout.split()


def _kind(learnt: bool, jobs: int, known: int) -> str:
    """Name what the killed client had learnt, or left to be learnt."""
    if learnt:
        return "submitted"
    if not jobs:
        return "no job"
    return "job, id written down" if known else "job, no id"


class ClientGame:
    """Plays rounds on one cluster, which ``SLURM_CONF`` names."""

    options = "--client"

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    @functools.cached_property
    def _longest_s(self) -> float:
        """How long an undisturbed submission takes, in s."""
        took = []
        for _ in range(3):
            with Client(lease_s=0) as client:
                began = time.monotonic()
                client.submit(command=["true"])
                took.append(time.monotonic() - began)
        return sorted(took)[1]

    def round(self, seed: int, root: Path) -> Round:
        """Make the round that a seed describes."""
        return Round(scenario(seed), self._lab, self._longest_s)


@contextlib.contextmanager
def games() -> Iterator[list[ClientGame]]:
    """Start a cluster and speak to it from now on: one round at a time."""
    directory = new_directory()
    lab = Lab(directory / "lab")
    directory.joinpath("state").mkdir()
    os.environ |= {"SLURM_CONF": str(lab.slurm_conf), "XDG_STATE_HOME": str(directory / "state")}
    os.chdir(directory)
    lab.up()
    try:
        yield [ClientGame(lab)]
    finally:
        lab.down()
