"""``python -m tests.chaos``: play rounds, and say what they amount to."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.driver import play, replay
from tests.chaos.round import Outcome
from tests.support.dispositions import as_from_a_terminal


def main() -> int:
    options = _options()
    as_from_a_terminal()
    seeds = range(options.seed, options.seed + options.rounds)
    if options.only is not None:
        seeds = range(options.only, options.only + 1)
    root = Path(tempfile.mkdtemp(prefix="allstop-chaos-"))

    def tell(outcome: Outcome) -> None:
        if options.only is not None and not outcome.violation:
            print(outcome.scenario)
        if outcome.violation:
            seed = outcome.scenario.seed
            print(f"VIOLATION, seed {seed}: {outcome.violation}\n{outcome.story}")
            print(f"replay: {replay(seed)}\nfiles: {root / f'seed-{seed}'}", flush=True)
        elif options.verbose:
            print(f"{outcome.round_s:6.2f} s  seed {outcome.scenario.seed}", flush=True)

    tally = play(seeds, root, jobs=options.jobs, budget_s=options.budget_s, tell=tell)
    if not tally.outcomes:
        print("no round was played")
        return 2
    print(*tally.lines(), sep="\n")
    if not tally.failed:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if tally.failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--only", type=int, metavar="SEED", help="play this one round")
    parser.add_argument("--budget-s", type=float, default=float("inf"), metavar="T",
                        help="begin no round after so many seconds")  # fmt: skip
    parser.add_argument("--jobs", type=int, help="rounds at a time [one more than cores]")
    parser.add_argument("--verbose", action="store_true", help="a line for every round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
