"""Rounds A B C A B C …: what disturbs the machine disturbs every arm alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bench.harness.errors import NotMeasuredError

T = TypeVar("T")


@dataclass
class Arm(Generic[T]):
    """What one arm gave.

    Attributes
    ----------
    seen : list of T
        A value per round; the same round stands at the same place in every arm.
    not_measured : str
        Why it was given up; :attr:`seen` is then empty.
    """

    seen: list[T] = field(default_factory=list)
    not_measured: str = ""


def interleave(
    rounds: int, arms: Mapping[str, Callable[[], T]], *, warm_up: bool = False
) -> dict[str, Arm[T]]:
    """Run every arm once per round, in turn.

    An arm that raises :class:`~bench.harness.errors.NotMeasuredError` takes no further
    part; the others go on.

    Parameters
    ----------
    rounds : int
        How often.
    arms : mapping of str to callable
        What to run, in this order.
    warm_up : bool
        Run one more round first, and forget what it gave.
    """
    found: dict[str, Arm[T]] = {name: Arm() for name in arms}
    for turn in range(-1 if warm_up else 0, rounds):
        for name, run in arms.items():
            arm = found[name]
            if arm.not_measured:
                continue
            try:
                value = run()
            except NotMeasuredError as error:
                arm.not_measured = str(error)
                arm.seen.clear()
            else:
                if turn >= 0:
                    arm.seen.append(value)
    return found
