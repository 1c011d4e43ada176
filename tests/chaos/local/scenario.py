"""What a round does, drawn from its seed: workload, run, and the blows to its processes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.local.workload import Behaviour, Hold


class Deed(StrEnum):
    """What is done to a process."""

    KILL = "SIGKILL"
    INT = "SIGINT"
    TERM = "SIGTERM"
    HUP = "SIGHUP"
    SUSPEND = "SIGSTOP"
    STOP = "stop"
    STOP_NOW = "stop --now"
    DRAIN = "stop --drain"


class Target(StrEnum):
    """To whom; of workers and their children one is picked."""

    FRONT = "front"
    WARDEN = "warden"
    BOTH = "front and warden at once"
    GROUP = "the front's process group"
    WORKER = "a worker"
    WORKERS = "all workers"
    GRANDCHILD = "a child of a worker"


class Phase(StrEnum):
    """How far an attempt has come."""

    SPAWNED = "spawned"
    STARTER = "the front has a child"
    ASKED = "front.run_requested"
    BEGUN = "warden.run_started"
    WORKING = "warden.worker_started"
    ROWS = "a journal has grown"
    INPUTS = "inputs.json is there"
    LOST = "warden.worker_reaped"
    DRAINING = '"state": "draining"'
    FLAGGED = '"state": "flagged"'
    TERMINATED = '"state": "terminated"'
    KILLED = '"state": "killed"'
    ENDED = "warden.run_ended"
    FINISHING = "front.finishing"
    SETTLED = "front.memory_settled"
    COMPACTING = "results.parquet is being written"
    RESULTS = "results.parquet is there"
    REPORT = "report.json is there"
    FRONT_GONE = "the front is gone"


@dataclass(frozen=True)
class Blow:
    """One thing that is done, some time after a phase has been reached.

    Attributes
    ----------
    delay_s : float
        From the phase to the deed: the random instant.
    pick : float
        Which of several is meant, as a share of their number.
    """

    phase: Phase
    delay_s: float
    deed: Deed
    target: Target = Target.FRONT
    pick: float = 0.0

    def __str__(self) -> str:
        whom = "" if self.deed in FROM_OUTSIDE else f" to {self.target}"
        return f"{1000 * self.delay_s:.1f} ms after [{self.phase}]: {self.deed}{whom}"


class Damage(StrEnum):
    """Damage to the journals between two attempts."""

    NONE = "none"
    TORN = "the last bytes of a journal are lost"
    DOUBLED = "rows are in two journals"


@dataclass(frozen=True)
class Attempt:
    """A run or a resume of it, what is done to it, and the damage to its files afterwards."""

    blows: tuple[Blow, ...]
    damage: Damage = Damage.NONE
    by_order: bool = False
    """Resumed by ``run --resume``, not by ``resume``."""


@dataclass(frozen=True)
class Scenario:
    """A round: attempts that are disturbed, then one that is left alone."""

    seed: int
    built_in: bool
    behaviour: Behaviour
    hold: Hold
    fails: bool
    n: int
    data: int
    step_s: float
    workers: int
    containment: str
    grace_s: float
    terminate_s: float
    attempts: tuple[Attempt, ...]

    @property
    def key(self) -> tuple[bool, bool, int, int]:
        """What the results depend on, and nothing else."""
        return self.built_in, self.fails, self.n, self.data

    @property
    def what(self) -> str:
        """The workload in some words."""
        if self.built_in:
            return f"built-in, {self.workers} workers, {self.containment}"
        fails = ", some fail" if self.fails else ""
        return (
            f"{self.behaviour}, holds: {self.hold}{fails}, {self.n} combinations of "
            f"{1000 * self.step_s:g} ms, {self.workers} workers, {self.containment}, "
            f"grace {self.grace_s:g} s, terminate {self.terminate_s:g} s"
        )

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.what}"]
        for number, attempt in enumerate(self.attempts, 1):
            lines.append(f"  attempt {number}{' by run --resume' * attempt.by_order}:")
            lines += [f"    {blow}" for blow in attempt.blows] or ["    nothing"]
            if attempt.damage is not Damage.NONE:
                lines.append(f"    then {attempt.damage}")
        return "\n".join(lines)


FROM_OUTSIDE = (Deed.STOP, Deed.STOP_NOW, Deed.DRAIN)
_EARLY = (Phase.SPAWNED, Phase.STARTER, Phase.ASKED, Phase.BEGUN, Phase.WORKING)
_AT_WORK = (Phase.WORKING, Phase.ROWS, Phase.ROWS, Phase.INPUTS, Phase.LOST)
_LATE = (
    Phase.ENDED, Phase.FINISHING, Phase.SETTLED, Phase.COMPACTING, Phase.RESULTS, Phase.REPORT,
)  # fmt: skip
_RUNGS = (Phase.FLAGGED, Phase.TERMINATED, Phase.KILLED)
_VICTIMS = (
    Target.FRONT, Target.FRONT, Target.WARDEN, Target.WARDEN, Target.BOTH, Target.BOTH,
    Target.GROUP, Target.WORKER, Target.WORKERS, Target.GRANDCHILD,
)  # fmt: skip
_ASKING = (Deed.INT, Deed.TERM, Deed.HUP, Deed.STOP, Deed.STOP, Deed.STOP_NOW, Deed.DRAIN)


def scenario(seed: int, strengths: tuple[str, ...]) -> Scenario:
    """Draw a round.

    Parameters
    ----------
    seed : int
        All there is to know.
    strengths : tuple of str
        The containments that this machine offers.
    """
    chance = random.Random(seed)
    built_in = chance.random() < 0.15
    behaviour = Behaviour.STEADY if built_in else chance.choice(list(Behaviour))
    hold = Hold.NONE if built_in or chance.random() < 0.4 else chance.choice(list(Hold)[1:])
    return Scenario(
        seed=seed,
        built_in=built_in,
        behaviour=behaviour,
        hold=hold,
        fails=not built_in and chance.random() < 0.2,
        n=40_000 if built_in else chance.choice((30, 120)),
        data=chance.randrange(2),
        step_s=chance.choice((0.001, 0.004)),
        workers=chance.choice((1, 2, 2, 3)),
        containment=chance.choice(("auto", *strengths)),
        grace_s=chance.choice((0.05, 0.2)),
        terminate_s=chance.choice((0.05, 0.15)),
        attempts=tuple(_attempt(chance) for _ in range(chance.choice((1, 1, 1, 1, 1, 2, 2, 3)))),
    )


def _attempt(chance: random.Random) -> Attempt:
    draw = chance.choice((_single, _single, _single, _stop_and_strike, _stop_and_strike, _suspend,
                          _storm, _twice, _finisher, _nothing))  # fmt: skip
    damage = chance.choice((*[Damage.NONE] * 4, Damage.TORN, Damage.DOUBLED))
    return Attempt(draw(chance), damage, by_order=chance.random() < 0.3)


def _phase(chance: random.Random) -> Phase:
    return chance.choice(chance.choice((_EARLY, _AT_WORK, _AT_WORK, _LATE)))


def _delay(chance: random.Random) -> float:
    return round(chance.choice((0.0, chance.uniform(0, 0.004), chance.uniform(0, 0.06))), 5)


def _kill(chance: random.Random, phase: Phase) -> Blow:
    return Blow(phase, _delay(chance), Deed.KILL, chance.choice(_VICTIMS), chance.random())


def _ask(chance: random.Random, phase: Phase) -> Blow:
    return Blow(phase, _delay(chance), chance.choice(_ASKING))


def _single(chance: random.Random) -> tuple[Blow, ...]:
    phase = _phase(chance)
    return (_kill(chance, phase) if chance.random() < 0.75 else _ask(chance, phase),)


def _stop_and_strike(chance: random.Random) -> tuple[Blow, ...]:
    rung = chance.choice((*_RUNGS, *_LATE, Phase.DRAINING))
    return _ask(chance, chance.choice((*_AT_WORK, *_EARLY))), _kill(chance, rung)


def _suspend(chance: random.Random) -> tuple[Blow, ...]:
    phase = _phase(chance)
    target = chance.choice((Target.FRONT, Target.WARDEN, Target.WORKER))
    begun = Blow(phase, _delay(chance), Deed.SUSPEND, target, chance.random())
    then = chance.choice((_ask, _ask, _kill))
    return begun, then(chance, Phase.SPAWNED)


def _storm(chance: random.Random) -> tuple[Blow, ...]:
    first = _phase(chance)
    draws = [_kill, _kill, _ask]
    return tuple(
        chance.choice(draws)(chance, first if turn == 0 else Phase.SPAWNED)
        for turn in range(chance.randrange(2, 5))
    )


def _twice(chance: random.Random) -> tuple[Blow, ...]:
    asked = [chance.choice((Deed.INT, Deed.TERM, Deed.HUP)) for _ in range(2)]
    return (
        Blow(_phase(chance), _delay(chance), asked[0]),
        Blow(Phase.SPAWNED, _delay(chance), asked[1]),
    )


def _finisher(chance: random.Random) -> tuple[Blow, ...]:
    """The front dies, and then the warden that does its work."""
    second = chance.choice((Phase.FRONT_GONE, *_RUNGS, Phase.ENDED, Phase.COMPACTING))
    return (
        Blow(_phase(chance), _delay(chance), Deed.KILL, Target.FRONT),
        Blow(second, _delay(chance), Deed.KILL, Target.WARDEN),
    )


def _nothing(chance: random.Random) -> tuple[Blow, ...]:
    return ()
