from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.cluster.game import ClusterGame
from tests.chaos.cluster.scenario import FAULTS, MOMENTS, TARGETS, WAYS, scenario
from tests.chaos.cluster.site import Site
from tests.chaos.engine import play
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
    games = [ClusterGame(Site(lab, sshd, proxy))]
    tally = play(games, range(FIRST_SEED, FIRST_SEED + ROUNDS), tmp_path)
    print(*tally.lines(), sep="\n")
    assert len(tally.outcomes) == ROUNDS
    assert not tally.failed, tally.stories()


def test_a_seed_tells_a_round_and_everything_is_drawn() -> None:
    drawn = [scenario(seed) for seed in range(500)]
    assert drawn == [scenario(seed) for seed in range(500)]
    assert {one.target for one in drawn} == set(TARGETS)
    assert {one.fault for one in drawn} == set(FAULTS)
    assert {one.moment for one in drawn} == set(MOMENTS)
    assert {way for one in drawn for way in one.ways} == set(WAYS)
