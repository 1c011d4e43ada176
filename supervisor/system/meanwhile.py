"""What is done meanwhile: a call in a thread, whose result is asked for later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Meanwhile(Generic[_T]):
    """A call in a thread of its own, from now until its result is asked for.

    For what waits for the kernel, while there is something else to do. Where no thread
    is to be had, the call is made here and now.

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
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error

    def result(self) -> _T:
        """Wait for the call's end; return or raise what came of it."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result
