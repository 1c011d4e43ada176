"""A time limit for calls of paramiko's that have none: closing their channel ends them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import paramiko


class Alarm:
    """Calls a function when the block takes too long.

    Parameters
    ----------
    act : callable
        Called from a thread of its own: closes what the block waits for.
    limit_s : float
        How long the block may take, in s.

    Attributes
    ----------
    rang : bool
        Whether it took longer.
    """

    def __init__(self, act: Callable[[], object], limit_s: float) -> None:
        self._act = act
        self.rang = False
        self._timer = threading.Timer(limit_s, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> Alarm:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._act()
