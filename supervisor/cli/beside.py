"""What stands beside the options of a command line."""

from __future__ import annotations

from typing import NamedTuple


class Beside(NamedTuple):
    """What a command of ours is told that its options do not say.

    Attributes
    ----------
    command : list of str or None
        What followed ``--``.
    closed : frozenset of int
        Standard streams that were closed when we began.
    """

    command: list[str] | None
    closed: frozenset[int]
