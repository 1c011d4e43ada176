"""The Mersenne Twisters of a process, and where each keeps its state."""

from __future__ import annotations

import _random
import ctypes
import random
from typing import Any, Protocol

import numpy as np

KEY_WORDS = 624
"""32-bit words of a Mersenne Twister's key; it twists them before its next draw where its
position is this too."""

_source = np.random.get_bit_generator  # type: ignore[attr-defined]
"""Returns the bit generator behind NumPy's own functions."""


class Twister(Protocol):
    """One generator of this process.

    Attributes
    ----------
    name : str
        By which a checkpoint has its state.
    size : int
        32-bit words of its state, as they are written.
    position_at, key_at : int
        Where among them its position is, and where its key begins.
    """

    name: str
    size: int
    position_at: int
    key_at: int

    def begin(self, words: memoryview) -> None:
        """Set the generator: as if nothing had been drawn since it got this key."""
        ...

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class NumpyTwister:
    """The generator behind ``np.random.rand`` and its like, SciPy, scikit-learn and pandas.

    Notes
    -----
    NumPy gives the address of the state of a bit generator for such uses. The second number
    of a pair of normal ones lies elsewhere; it is dropped by ``seed``, which is called only
    where something was drawn.
    """

    name = "numpy"
    size = KEY_WORDS + 1
    position_at, key_at = KEY_WORDS, 0

    def __init__(self) -> None:
        self._attach(_source())

    def _attach(self, source: Any) -> None:
        self._source = source
        self._first = -1
        self._words: memoryview | None = None
        if isinstance(source, np.random.MT19937):
            self._words = _words_at(source.ctypes.state_address, self.size)
            if not np.array_equal(self._words[:KEY_WORDS], source.state["state"]["key"]):
                self._words = None

    def begin(self, words: memoryview) -> None:
        source = _source()
        if source is not self._source:
            self._attach(source)
        state = self._words
        if state is None:
            self._begin_slowly(words)
            return
        if state[KEY_WORDS] != KEY_WORDS or state[0] != self._first:
            np.random.seed(0)
        state[:] = words
        self._first = state[0]

    def _begin_slowly(self, words: memoryview) -> None:
        if isinstance(self._source, np.random.MT19937):
            np.random.seed(np.array(words[:8]))
        else:  # the user has put another in its place
            np.random.set_state(type(self._source)(np.array(words[:8])).state)

    def state(self) -> Any:
        return np.random.get_state(legacy=False)

    def restore(self, state: Any) -> None:
        np.random.set_state(state)


class PythonTwister:
    """The generator behind the functions of the module ``random``.

    Notes
    -----
    CPython keeps position and key right behind an object's head (``Modules/_randommodule.c``).
    Whether that is so here is seen by comparing, otherwise ``random.seed`` serves.
    """

    name = "random"
    size = KEY_WORDS + 1
    position_at, key_at = 0, 1

    def __init__(self) -> None:
        self._one: Any = random._inst
        self._words: memoryview | None = None
        head = object.__basicsize__
        if _random.Random.__basicsize__ >= head + 4 * self.size:
            words = _words_at(id(self._one) + head, self.size)
            *key, position = random.getstate()[1]
            if words.tolist() == [position, *key]:
                self._words = words

    def begin(self, words: memoryview) -> None:
        if self._words is None:
            random.seed(words[1:9].tobytes())
            return
        self._words[:] = words
        self._one.gauss_next = None

    def state(self) -> Any:
        return random.getstate()

    def restore(self, state: Any) -> None:
        random.setstate(state)


class NumbaTwister:
    """A generator of compiled code: ``np.random`` or ``random`` in a function under ``@njit``.

    Each thread has its own; this is that of the thread that calls the function.

    Notes
    -----
    Numba's ``rnd_state_t`` (``numba/_random.c``): position, key, and whether the second number
    of a pair of normal ones is kept.
    """

    size = KEY_WORDS + 2
    position_at, key_at = 0, 1

    def __init__(self, name: str, pointer: int) -> None:
        self._library = helperlib()
        self.name = name
        self._pointer = pointer
        words = _words_at(pointer, self.size)
        position, key = self._library.rnd_get_state(pointer)
        same = words[: self.size - 1].tolist() == [position, *key]
        self._words = words if same else None

    def begin(self, words: memoryview) -> None:
        if self._words is None:
            self._library.rnd_seed(self._pointer, words[1])
        else:
            self._words[:] = words

    def state(self) -> Any:
        return self._library.rnd_get_state(self._pointer)

    def restore(self, state: Any) -> None:
        self._library.rnd_set_state(self._pointer, state)


def helperlib() -> Any:
    from numba import _helperlib as library

    return library


def _words_at(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_uint32 * size).from_address(address)).cast("B").cast("I")
