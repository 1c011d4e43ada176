"""A call that runs in a thread until its result is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Meanwhile(Generic[_T]):
    """A call that runs in a thread of its own until its result is needed.

    For calls that wait for the kernel while there is other work to do. Where no thread can
    be started, the call is made at once.

    Parameters
    ----------
    call : callable
        Takes nothing.
    """

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="allstop-meanwhile", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised by result()
            self._error = error

    def result(self) -> _T:
        """Wait until the call has ended; return its result or raise its error."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result
