"""``python -m tests.chaos``: play rounds, print a summary, fail on any violation."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos.engine import Game, Outcome, play, replay
from tests.support.dispositions import as_from_a_terminal


def main() -> int:
    options = _options()
    as_from_a_terminal()
    seeds = range(options.seed, options.seed + options.rounds)
    if options.only is not None:
        seeds = range(options.only, options.only + 1)
    root = Path(tempfile.mkdtemp(prefix="allstop-chaos-"))
    with _games(options, root, len(seeds)) as games:
        tally = play(
            games, seeds, root, budget_s=options.budget_s,
            tell=lambda outcome: _tell(outcome, options, games[0].options, root),
        )  # fmt: skip
    if not tally.outcomes:
        print("no round was played")
        return 2
    print(*tally.lines(), sep="\n")
    if not tally.failed:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if tally.failed else 0


@contextlib.contextmanager
def _games(options: argparse.Namespace, root: Path, rounds: int) -> Iterator[Sequence[Game]]:
    """Make as many games as rounds are to be played at a time."""
    if options.cluster:
        from tests.chaos.cluster import game

        with game.games(min(options.jobs or 2, rounds)) as games:
            yield games
    elif options.client:
        from tests.chaos import client

        with client.games() as games:
            yield games
    else:
        from tests.chaos.local.game import games as local_games

        yield local_games(root, options.jobs)


def _tell(outcome: Outcome, options: argparse.Namespace, game: str, root: Path) -> None:
    if outcome.violation:
        print(f"VIOLATION, seed {outcome.seed}: {outcome.violation}\n{outcome.story}")
        print(f"replay: {replay(game, outcome.seed)}")
        print(f"files: {root / f'seed-{outcome.seed}'}", flush=True)
    elif options.only is not None:
        print(outcome.what)
    elif options.verbose:
        print(f"{outcome.round_s:6.2f} s  {outcome.what.splitlines()[0]}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cluster", action="store_true", help="runs that have jobs on a cluster")
    kind.add_argument("--client", action="store_true", help="a SLURM client amid a submission")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--only", type=int, metavar="SEED", help="play this one round")
    parser.add_argument("--budget-s", type=float, default=float("inf"), metavar="T",
                        help="begin no round after so many seconds")  # fmt: skip
    parser.add_argument("--jobs", type=int, metavar="N",
                        help="rounds at a time [one more than cores; with --cluster 2, and as "
                        "many clusters; with --client always 1]")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="a line for every round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
