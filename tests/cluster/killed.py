"""Kills a client at random instants of a submission, and counts what is left of it.

``python -m tests.cluster.killed --rounds 100 --seed 1`` says how often the job was
there and nobody had learnt its id. Half of the instants are spread over all of the
submission, the others over the first few ms after the intent is on disk: there
``sbatch`` is at work.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from slurm import Client
from slurm.reconcile import cancel_outstanding
from slurm.records.book import Book
from slurm.records.outstanding import all_outstanding
from supervisor.records.ledger import read_ledger
from tests.cluster.daemon import new_directory
from tests.cluster.lab import Lab
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]

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


class Round(NamedTuple):
    """What one kill came to: the delay in s, jobs there, jobs with an id known, jobs left."""

    delay_s: float
    told: bool
    jobs: int
    known: int
    left: int
    complete: bool

    @property
    def kind(self) -> str:
        """By what the killed client had learnt, or left to be learnt."""
        if self.told:
            return "submitted"
        if not self.jobs:
            return "no job"
        return "job, id written down" if self.known else "job, no id"


def whole_s(lab: Lab) -> float:
    """How long a submission takes that nobody disturbs, in s."""
    took = []
    for _ in range(3):
        with Client(lease_s=0) as client:
            began = time.monotonic()
            client.submit(command=["true"])
            took.append(time.monotonic() - began)
    return sorted(took)[1]


def play(lab: Lab, dice: random.Random, longest_s: float) -> Round:
    """Submit, kill, work off."""
    of_sbatch = dice.random() < 0.5
    delay_s = dice.uniform(0, AROUND_SBATCH_S if of_sbatch else longest_s)
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
        if of_sbatch:
            wait_for(lambda: b"submit_intended" in ledger.read_bytes(), "the intent on disk")
        time.sleep(delay_s)  # the instant is what is tried out
        client.send_signal(signal.SIGKILL)
        told = client.stdout.readline().strip() != ""
    known, jobs, complete = 0, 0, True
    for debt in all_outstanding():
        known += len(Book.of(read_ledger(debt.ledger)).ids)
        cancelled = cancel_outstanding(debt)
        jobs += len(cancelled.jobs)
        complete = complete and cancelled.complete
    complete = complete and not list(all_outstanding())
    alive = lab.run("squeue", "-h", "-o", "%A").stdout.split()
    return Round(delay_s, told, jobs, known, len(alive), complete)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.killed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    dice = random.Random(options.seed)
    directory = new_directory()
    lab = Lab(directory / "lab")
    kinds: Counter[str] = Counter()
    bad = 0
    directory.joinpath("state").mkdir()
    os.environ |= {"SLURM_CONF": str(lab.slurm_conf), "XDG_STATE_HOME": str(directory / "state")}
    os.chdir(directory)
    lab.up()
    try:
        longest_s = whole_s(lab)
        print(f"a submission takes {longest_s * 1000:.0f} ms", flush=True)
        for _ in range(options.rounds):
            it = play(lab, dice, longest_s)
            kinds[it.kind] += 1
            if it.left or not it.complete:
                bad += 1
                print(it, flush=True)
    finally:
        lab.down()
    print(f"{options.rounds} rounds, {bad} with something left: {dict(kinds)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
