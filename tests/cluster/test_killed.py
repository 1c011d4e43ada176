"""A client that is killed at any instant of a submission leaves no job behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.client import ClientGame
from tests.chaos.engine import play
from tests.cluster.lab import Lab

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.parametrize("first", [0, 5])
def test_a_client_killed_at_any_instant_leaves_no_job(lab: Lab, here: Path, first: int) -> None:
    tally = play([ClientGame(lab)], range(first, first + 5), here)
    assert len(tally.outcomes) == 5
    assert not tally.failed, tally.stories()
