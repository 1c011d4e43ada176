"""What a round with a cluster does, drawn from its seed: jobs, target, moment and fault."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.cluster.place import job

ORDERLY = ("sigint", "sigint twice", "stop", "stop --now")
KILLS = ("front", "warden", "both", "group")
SUBMITTERS = ("shim", "sbatch")
TARGETS = (*KILLS, *SUBMITTERS, *ORDERLY)
OF_THE_CLUSTER = ("frozen", "munge frozen", "munge dead", "controller dead")
OF_THE_LINK = ("link cut", "link stalled", "link refused", "sshd dead", "sshd frozen")
FAULTS = ("none", *OF_THE_CLUSTER, *OF_THE_LINK)
MOMENTS = ("clock", "sbatch", "jobs", "command over")
REMOTE = 0.25
"""Share of the rounds that are a sweep over SSH; the others are a command on this machine."""
LONG_S = 10.0
"""How long one fault in six lasts."""
WAYS = {
    "plain": job("sleep 600"),
    "parsable": job("sleep 600", "--parsable"),
    "array": job("sleep 600", "--array=0-5"),
    "held": job("sleep 600", "--hold"),
    "deaf": job("trap '' TERM; sleep 600 & while :; do wait; done"),
    "absolute": "/usr/bin/sbatch -o /dev/null --wrap 'sleep 600';",
    "nested": job("sbatch -o /dev/null --wrap 'sleep 600'; sleep 600"),
    "waiting": job("sleep 600", "--wait") + "true;",
    "wave": "for i in 1 2 3 4 5 6 7 8; do " + job("sleep 600") + "done;",
    "crowd": "for i in 1 2 3 4 5 6; do " + job("sleep 600")[:-1] + "& done; wait;",
}


@dataclass(frozen=True)
class Scenario:
    """What is submitted, and what is done to which process or daemon, and when."""

    seed: int
    ways: tuple[str, ...]
    stays: bool
    target: str
    moment: str
    after_s: float
    fault: str
    fault_s: float
    containment: str
    remote: bool


def scenario(seed: int) -> Scenario:
    """Draw a round."""
    draw = random.Random(seed)
    if draw.random() < REMOTE:
        return _remote_scenario(seed, draw)
    moment = draw.choice(MOMENTS)
    stays = draw.random() < 0.6 and moment != "command over"
    spread_s = {"clock": 2.0, "sbatch": 0.02, "jobs": 0.5, "command over": 1.0}[moment]
    ways = draw.sample(sorted(WAYS), draw.randint(1, 4))
    if "waiting" in ways:  # it ends only with its job
        ways.remove("waiting")
        ways.append("waiting")
        moment = "clock" if moment == "command over" else moment
    return Scenario(
        seed, tuple(ways), stays, draw.choice(TARGETS), moment, draw.uniform(0, spread_s),
        draw.choice(("none", "none", "none", *OF_THE_CLUSTER)), _fault_s(draw),
        draw.choice(("auto", "auto", "subreaper")), remote=False,
    )  # fmt: skip


def _remote_scenario(seed: int, draw: random.Random) -> Scenario:
    moment = draw.choice(("clock", "sbatch", "jobs"))
    spread_s = {"clock": 3.0, "sbatch": 0.5, "jobs": 0.5}[moment]
    return Scenario(
        seed, (), True, draw.choice((*KILLS, *ORDERLY)), moment, draw.uniform(0, spread_s),
        draw.choice(("none", *OF_THE_CLUSTER, *OF_THE_LINK, *OF_THE_LINK)), _fault_s(draw),
        draw.choice(("auto", "auto", "subreaper")), remote=True,
    )  # fmt: skip


def _fault_s(draw: random.Random) -> float:
    return LONG_S if draw.random() < 1 / 6 else draw.uniform(0.1, 3.0)
