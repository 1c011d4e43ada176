from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.chaos import (
    FAULTS,
    MOMENTS,
    TARGETS,
    WAYS,
    Site,
    lines,
    play,
    replay,
    scenario,
)
from tests.cluster.lab import Lab
from tests.cluster.proxy import Proxy
from tests.cluster.sshd import Sshd

ROUNDS = int(os.environ.get("ALLSTOP_CHAOS_ROUNDS", "3"))
FIRST_SEED = int(os.environ.get("ALLSTOP_CHAOS_SEED", "1"))


@pytest.mark.chaos
@pytest.mark.slurm
@pytest.mark.timeout(120 + 100 * ROUNDS)
@pytest.mark.ssh
def test_random_kills_leave_no_job(
    lab: Lab, sshd: Sshd, proxy: Proxy, tmp_path: Path, no_leaks: None
) -> None:
    site = Site(lab, sshd, proxy)
    outcomes = play(range(FIRST_SEED, FIRST_SEED + ROUNDS), tmp_path, [site])
    print(*lines(outcomes), sep="\n")
    assert len(outcomes) == ROUNDS
    failed = [outcome for outcome in outcomes if outcome.violation]
    assert not failed, "\n\n".join(
        f"{o.violation}\n{o.story}\nreplay: {replay(o.scenario.seed)}" for o in failed
    )


def test_a_seed_tells_a_round_and_everything_is_drawn() -> None:
    drawn = [scenario(seed) for seed in range(500)]
    assert drawn == [scenario(seed) for seed in range(500)]
    assert {one.target for one in drawn} == set(TARGETS)
    assert {one.fault for one in drawn} == set(FAULTS)
    assert {one.moment for one in drawn} == set(MOMENTS)
    assert {way for one in drawn for way in one.ways} == set(WAYS)
