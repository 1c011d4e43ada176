"""Plays rounds, and keeps the score: tracebacks, wrong rows, foreign effects."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.errors import AllstopError
from tests.fuzz import commands, damage, sample, targets
from tests.fuzz.targets import Target, WrongError
from tests.fuzz.watch import Watch


@dataclass
class Score:
    """What came of the rounds.

    Attributes
    ----------
    rounds : int
        How many were played.
    refused : int
        Rounds in which a reader said that something is damaged.
    tracebacks, wrong, foreign : list of str
        What must not be: the round, and what happened.
    """

    rounds: int = 0
    refused: int = 0
    tracebacks: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    @property
    def bad(self) -> list[str]:
        """Everything that must not be."""
        return [
            f"{what}: {line}"
            for what, lines in (
                ("traceback", self.tracebacks),
                ("wrong", self.wrong),
                ("foreign effect", self.foreign),
            )
            for line in lines
        ]

    def line(self, name: str) -> str:
        """The score of one target, for people."""
        return (
            f"{name:>18}: {self.rounds:,} rounds, {self.refused:,} refused, "
            f"{len(self.tracebacks)} tracebacks, {len(self.wrong)} wrong, "
            f"{len(self.foreign)} foreign effects"
        )


class Game:
    """A sample, and the watch over what rounds do."""

    def __init__(self, here: sample.Sample) -> None:
        self.sample = here
        targets.prepare(here)
        here.whole = dict(here.files())
        self.watch = Watch(here.root)
        for target in targets.TARGETS:
            target.truth = target.read(here)

    def play(self, target: Target, seed: int) -> Score:
        """Damage one file, read it back, and put it right again."""
        score = Score(1)
        rng = random.Random(f"{target.name}/{seed}")
        name = rng.choice(self.sample.matching(target.files))
        hurt = rng.choice(target.damages)
        whole = self.sample.whole[name]
        raw = hurt(rng, whole)
        self.sample.put(name, raw)
        where = f"{target.name}, seed {seed} ({name})"
        try:
            with self.watch.looking(), contextlib.redirect_stderr(io.StringIO()):
                found = target.read(self.sample)
            if hurt is damage.of_bytes and target.differs(found, target.truth):
                score.wrong.append(where)
        except AllstopError as error:
            score.refused = 1
            if "\n" in str(error):
                score.wrong.append(f"{where}: a complaint of more than one line: {error}")
        except WrongError as error:
            score.wrong.append(f"{where}: {error}")
        except Exception:  # noqa: BLE001 - that is what is looked for
            score.tracebacks.append(f"{where}:\n{traceback.format_exc()}")
        score.foreign += [f"{where}: {effect}" for effect in self.watch.effects]
        self.sample.put(name, whole)
        return score

    def command(self, seed: int) -> Score:
        """Damage some files, and run one command on what is there, in this process."""
        score = Score(1)
        rng = random.Random(f"command/{seed}")
        before = self.sample.foreign
        done, forged = commands.damage_some(rng, self.sample)
        arguments = rng.choice(commands.COMMANDS)
        where = f"command, seed {seed}: allstop {' '.join(arguments)} after {done}"
        said = io.StringIO()
        try:
            with (
                self.watch.looking(),
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(said),
            ):
                commands.run(arguments, self.sample)
        except commands.RefusedError as error:
            score.refused = 1
            if "\n" in str(error):
                score.wrong.append(f"{where}: a complaint of more than one line: {error}")
        except Exception:  # noqa: BLE001 - that is what is looked for
            score.tracebacks.append(f"{where}:\n{traceback.format_exc()}")
        score.foreign += [f"{where}: {effect}" for effect in self.watch.effects]
        if self.sample.foreign != before:
            score.foreign.append(f"{where}: a foreign file was changed")
        if not forged:
            score.wrong += [f"{where}: {line}" for line in commands.wrong_rows(self.sample)]
        self.sample.undo()
        return score


def add(total: Score, one: Score) -> None:
    """Add one round's score."""
    total.rounds += one.rounds
    total.refused += one.refused
    total.tracebacks += one.tracebacks
    total.wrong += one.wrong
    total.foreign += one.foreign


@contextlib.contextmanager
def game(root: Path) -> Iterator[Game]:
    """Make a game below an empty directory."""
    with sample.at(root) as here:
        yield Game(here)


def play(root: Path, rounds: int, seed: int, commands_: int) -> dict[str, Score]:
    """Play ``rounds`` with each target, and ``commands_`` with whole commands."""
    scores: dict[str, Score] = {}
    with game(root) as here:
        for target in targets.TARGETS:
            total = scores.setdefault(target.name, Score())
            for at in range(seed, seed + rounds):
                add(total, here.play(target, at))
            print(total.line(target.name), file=sys.stderr, flush=True)
        total = scores.setdefault("commands", Score())
        for at in range(seed, seed + commands_):
            add(total, here.command(at))
        print(total.line("commands"), file=sys.stderr, flush=True)
    return scores
