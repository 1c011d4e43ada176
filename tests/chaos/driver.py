"""Many rounds, some at a time, and what they amount to."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.containment import cgroup
from supervisor.containment.unavailable import UnavailableError
from tests.chaos.round import Expected, Outcome, Round
from tests.chaos.scenario import scenario


def strengths() -> tuple[str, ...]:
    """Containments that this machine offers."""
    found = ["subreaper"]
    try:
        cgroup.available()
    except UnavailableError:
        pass
    else:
        found.append("cgroup")
    for options in (["--pid", "--fork", "--mount-proc"], ["-U", "-p", "-f", "--mount-proc"]):
        if subprocess.run(["unshare", *options, "true"], capture_output=True).returncode == 0:
            return (*found, "pid-namespace")
    return tuple(found)


@dataclass
class Tally:
    """What some rounds amount to."""

    outcomes: list[Outcome] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def failed(self) -> list[Outcome]:
        """Rounds that saw a promise broken."""
        return [outcome for outcome in self.outcomes if outcome.violation]

    def lines(self) -> Iterator[str]:
        """The summary."""
        n = len(self.outcomes)
        seeds = [outcome.scenario.seed for outcome in self.outcomes]
        yield f"{n} rounds in {self.elapsed_s:.0f} s, seeds {min(seeds)} to {max(seeds)}"
        deeds = Counter(deed for outcome in self.outcomes for deed in outcome.deeds)
        yield f"{sum(deeds.values())} blows that reached somebody:"
        yield from (f"  {times:5d}  {deed}" for deed, times in deeds.most_common())
        slowest = max(self.outcomes, key=lambda outcome: outcome.end_s)
        yield (
            f"worst time from the last blow until nothing was left: {slowest.end_s:.2f} s "
            f"(seed {slowest.scenario.seed}); "
            f"longest round {max(outcome.round_s for outcome in self.outcomes):.1f} s"
        )
        yield (
            f"{sum(o.reaped for o in self.outcomes)} times reap was needed and enough; "
            f"{sum(o.doubled for o in self.outcomes)} rows twice in journals, once in results; "
            f"{sum(o.retried for o in self.outcomes)} times combinations tried again; "
            f"{sum(o.documented for o in self.outcomes)} escapees without environment under a "
            "killed subreaper, as documented"
        )
        if self.failed:
            yield f"{len(self.failed)} VIOLATIONS:"
            for outcome in self.failed:
                yield f"  seed {outcome.scenario.seed}: {outcome.violation.splitlines()[0]}"
                yield f"    {replay(outcome.scenario.seed)}"
        else:
            yield "0 violations: 0 processes, 0 segments, 0 lost or doubled rows, 0 hangs"


def replay(seed: int) -> str:
    """Command that does a round once more."""
    return f"python -m tests.chaos --only {seed}"


def play(
    seeds: Iterable[int],
    root: Path,
    *,
    jobs: int | None = None,
    budget_s: float = float("inf"),
    tell: Callable[[Outcome], None] = lambda _outcome: None,
) -> Tally:
    """Play rounds, ``jobs`` at a time, until all are played or the time is up.

    Parameters
    ----------
    seeds : iterable of int
        One a round.
    root : Path
        Where rounds have their directories; those of failed rounds stay.
    tell : callable
        Told of each round as it ends.
    """
    began = time.monotonic()
    tally = Tally()
    expected, offered, queue = Expected(root), strengths(), iter(seeds)
    jobs = jobs or 1 + len(os.sched_getaffinity(0))
    pending: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            while len(pending) < jobs and time.monotonic() - began < budget_s:
                seed = next(queue, None)
                if seed is None:
                    break
                pending.add(pool.submit(_play_one, seed, offered, root, expected))
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                tally.outcomes.append(future.result())
                tell(tally.outcomes[-1])
    tally.elapsed_s = time.monotonic() - began
    return tally


def _play_one(seed: int, offered: tuple[str, ...], root: Path, expected: Expected) -> Outcome:
    place = root / f"seed-{seed}"
    place.mkdir()
    outcome = Round(scenario(seed, offered), place, expected).play()
    if not outcome.violation:
        shutil.rmtree(place, ignore_errors=True)
    return outcome
