"""``python -m tests.fuzz``: play rounds, print the score, fail on anything that must not be."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.engine import play


def main() -> int:
    rounds = int(os.environ.get("FUZZ_ROUNDS", "20000"))
    commands = int(os.environ.get("FUZZ_COMMANDS", str(max(1, rounds // 10))))
    seed = int(os.environ.get("FUZZ_SEED", "0"))
    root = Path(tempfile.mkdtemp(prefix="allstop-fuzz-")).resolve()
    try:
        scores = play(root, rounds, seed, commands)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    bad = [line for score in scores.values() for line in score.bad]
    print(*bad[:50], sep="\n")
    n = sum(score.rounds for score in scores.values())
    kinds = ("tracebacks", "wrong", "foreign")
    counts = {kind: sum(len(getattr(score, kind)) for score in scores.values()) for kind in kinds}
    print(
        f"{n:,} rounds, seeds {seed} to {seed + max(rounds, commands) - 1}: "
        f"{counts['tracebacks']} tracebacks, {counts['wrong']} wrong rows, "
        f"{counts['foreign']} foreign effects"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
