"""The chaos engine: plays seeded rounds, collects violations and reports them.

A *game* knows what a round is: :mod:`tests.chaos.local` plays runs on this machine,
:mod:`tests.chaos.cluster` runs that have jobs on a cluster, :mod:`tests.chaos.client` a
client of SLURM that is killed while it submits. All that they share is here.
"""

from __future__ import annotations

import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.chaos.verdict import check_verdict


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass
class Outcome:
    """Result of a round.

    Attributes
    ----------
    what : str
        The scenario as text.
    violation : str
        The promise that was broken; empty: none was.
    story : str
        What helps to understand a violation.
    round_s : float
        Duration of the round.
    end_s : float
        Longest time from the last blow of an attempt until nothing was left of it.
    deeds : list of str
        The blows that reached a process.
    traits : dict
        Features of the scenario by which the summary counts rounds.
    counts : Counter
        What else happened, and how often.
    """

    seed: int
    what: str = ""
    violation: str = ""
    story: str = ""
    round_s: float = 0.0
    end_s: float = 0.0
    deeds: list[str] = field(default_factory=list)
    traits: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


class Round(ABC):
    """One scenario, played in a directory of its own."""

    def __init__(self, seed: int, what: str) -> None:
        self.outcome = Outcome(seed, what)
        self._log: list[str] = []
        self._began = time.monotonic()

    def play(self) -> Outcome:
        """Play the scenario; a violation is in the outcome."""
        try:
            self.carry_out()
        except AssertionError as violation:
            self.outcome.violation = str(violation) or type(violation).__name__
        except Exception as error:  # noqa: BLE001 - a fault of the round itself must show as well
            self.outcome.violation = f"{type(error).__name__}: {error}"
        finally:
            if self.outcome.violation:
                self.outcome.story = "\n".join([self.outcome.what, *self._log, self.tell()])
            self.clear()
        self.outcome.round_s = time.monotonic() - self._began
        return self.outcome

    @abstractmethod
    def carry_out(self) -> None:
        """Start, strike, watch and check; raises :class:`ViolationError` or AssertionError."""

    @abstractmethod
    def tell(self) -> str:
        """Describe the state of a round that saw a violation."""

    @abstractmethod
    def clear(self) -> None:
        """Remove everything that the round started, even if the product did not."""

    def note(self, what: str) -> None:
        """Add a line to the story."""
        self._log.append(f"{time.monotonic() - self._began:8.3f} s  {what}")

    def check_report(self, run_dir: Path) -> None:
        """Check the verdict of a run that has ended, whichever process wrote it."""
        if wrong := check_verdict(run_dir):
            raise ViolationError("; ".join(wrong))


class Game(Protocol):
    """Makes rounds of one kind; plays one at a time."""

    options: str
    """By which ``python -m tests.chaos`` plays this game."""

    def round(self, seed: int, root: Path) -> Round:
        """Make the round that a seed describes, in an empty directory."""
        ...


@dataclass
class Tally:
    """Outcomes of all rounds."""

    options: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def failed(self) -> list[Outcome]:
        """Rounds that saw a promise broken."""
        return [outcome for outcome in self.outcomes if outcome.violation]

    def lines(self) -> Iterator[str]:
        """The summary."""
        seeds = [outcome.seed for outcome in self.outcomes]
        yield (f"{len(seeds)} rounds in {self.elapsed_s:.0f} s, seeds {min(seeds)} to {max(seeds)}")
        yield from self._deeds()
        slowest = max(self.outcomes, key=lambda outcome: outcome.end_s)
        yield (
            f"worst time from the last blow until nothing was left: {slowest.end_s:.2f} s "
            f"(seed {slowest.seed}); "
            f"longest round {max(outcome.round_s for outcome in self.outcomes):.1f} s"
        )
        counts: Counter[str] = Counter()
        for outcome in self.outcomes:
            counts.update(outcome.counts)
        yield from (f"{times} {what}" for what, times in sorted(counts.items()))
        yield from self._violations()

    def _deeds(self) -> Iterator[str]:
        deeds = Counter(deed for outcome in self.outcomes for deed in outcome.deeds)
        yield f"{sum(deeds.values())} blows that reached a process:"
        yield from (f"  {times:5d}  {deed}" for deed, times in deeds.most_common())
        for trait in self.outcomes[0].traits:
            counted = Counter(outcome.traits[trait] for outcome in self.outcomes)
            yield f"by {trait}: " + ", ".join(f"{n} {name}" for name, n in counted.most_common())

    def _violations(self) -> Iterator[str]:
        yield f"{len(self.failed)} violations"
        for outcome in self.failed:
            yield f"  seed {outcome.seed}: {outcome.violation.splitlines()[0]}"
            yield f"    {replay(self.options, outcome.seed)}"

    def stories(self) -> str:
        """Everything about the rounds that saw a violation."""
        return "\n\n".join(
            f"{one.violation}\n{one.story}\nreplay: {replay(self.options, one.seed)}"
            for one in self.failed
        )


def replay(options: str, seed: int) -> str:
    """Command that plays a round once more."""
    return " ".join(["python -m tests.chaos", *options.split(), f"--only {seed}"])


def play(
    games: Sequence[Game],
    seeds: Iterable[int],
    root: Path,
    *,
    budget_s: float = float("inf"),
    tell: Callable[[Outcome], None] = lambda _outcome: None,
) -> Tally:
    """Play rounds until all are played or the time is up.

    Parameters
    ----------
    games : sequence of Game
        All of one kind; each plays one round at a time, beside the others.
    seeds : iterable of int
        One for each round.
    root : Path
        Rounds have their directories in it; those of rounds with a violation stay.
    budget_s : float
        No round begins after so many seconds.
    tell : callable
        Called with each outcome as its round ends.

    Raises
    ------
    Exception
        The first fault of the engine or of a game; a round's own is in its outcome.
    """
    began = time.monotonic()
    tally = Tally(games[0].options)
    queue, lock = iter(seeds), threading.Lock()

    def work(game: Game) -> None:
        while time.monotonic() - began < budget_s:
            with lock:
                seed = next(queue, None)
            if seed is None:
                return
            outcome = _play_one(game, seed, root)
            with lock:
                tally.outcomes.append(outcome)
                tell(outcome)

    with ThreadPoolExecutor(len(games)) as pool:
        for future in [pool.submit(work, game) for game in games]:
            future.result()
    tally.elapsed_s = time.monotonic() - began
    return tally


def _play_one(game: Game, seed: int, root: Path) -> Outcome:
    place = root / f"seed-{seed}"
    place.mkdir()
    outcome = game.round(seed, place).play()
    if not outcome.violation:
        shutil.rmtree(place, ignore_errors=True)
    return outcome
