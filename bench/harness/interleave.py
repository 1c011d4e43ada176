"""Interleaved rounds, A B C A B C …: disturbances of the machine affect all arms alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bench.harness.errors import NotMeasuredError

T = TypeVar("T")


@dataclass
class Arm(Generic[T]):
    """The values of one arm.

    Attributes
    ----------
    seen : list of T
        A value per round, in the order of the rounds.
    not_measured : str
        Why it was abandoned; then :attr:`seen` is empty.
    """

    seen: list[T] = field(default_factory=list)
    not_measured: str = ""


def interleave(
    rounds: int, arms: Mapping[str, Callable[[], T]], *, warm_up: bool = False
) -> dict[str, Arm[T]]:
    """Run every arm once per round, in turn.

    An arm that raises :class:`~bench.harness.errors.NotMeasuredError` takes no further
    part; the others continue.

    Parameters
    ----------
    rounds : int
        Number of rounds.
    arms : mapping of str to callable
        What to run, in this order.
    warm_up : bool
        Run one more round first, and discard its values.
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
