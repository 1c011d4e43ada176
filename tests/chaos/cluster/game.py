"""Rounds with a cluster, as the engine plays them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.cluster.round import Round
from tests.chaos.cluster.scenario import scenario
from tests.chaos.cluster.site import Site


class ClusterGame:
    """Plays rounds on one cluster."""

    options = "--cluster"

    def __init__(self, site: Site) -> None:
        self._site = site

    def round(self, seed: int, root: Path) -> Round:
        """Make the round that a seed describes."""
        return Round(scenario(seed), root, self._site)


@contextlib.contextmanager
def games(jobs: int) -> Iterator[list[ClusterGame]]:
    """Start so many clusters; they are gone at the end."""
    with contextlib.ExitStack() as stack:
        yield [ClusterGame(stack.enter_context(Site.up())) for _ in range(jobs)]
