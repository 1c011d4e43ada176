"""What a command is started with besides its options."""

from __future__ import annotations

from typing import NamedTuple


class Invocation(NamedTuple):
    """What a command is started with besides its options.

    Attributes
    ----------
    command : list of str or None
        What followed ``--``.
    closed : frozenset of int
        Standard streams that were closed when this process began.
    """

    command: list[str] | None
    closed: frozenset[int]
