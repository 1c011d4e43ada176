"""A client that is killed at any instant of a submission leaves no job behind."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest

from tests.cluster.killed import play, whole_s
from tests.cluster.lab import Lab

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

longest_s = functools.cache(whole_s)


@pytest.mark.parametrize("seed", range(10))
def test_a_client_killed_at_any_instant_leaves_no_job(lab: Lab, here: Path, seed: int) -> None:
    it = play(lab, random.Random(seed), longest_s(lab))
    assert it.complete, it
    assert it.left == 0, it
