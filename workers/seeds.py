"""Random numbers: each combination has its own, whichever process computes it, and when.

Before each call of a user's function the generators of this process are set anew, from the
run's seed and the combination's index alone: Python's ``random``, NumPy's ``np.random``,
Numba's two of the same names, and PyTorch's. So rows differ from one another, do not depend on
workers, chunks and order, and a resumed run draws what an uninterrupted one does. The
derivation is written down in ``docs/adr/0017-seeds.md``, and is part of what a seed means.

The first four are Mersenne Twisters: 624 words each. Seeding them by their own functions
takes longer (8 µs together) than a short function does, so keys are drawn for several
combinations at once, and copied to where the generators keep their state (1 µs).
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from workers.twisters import (
    KEY_WORDS,
    NumbaTwister,
    NumpyTwister,
    PythonTwister,
    Twister,
    helperlib,
)

LOADING = 2**33
"""In the place of an index while the function is loaded: no grid has as many combinations."""

_BLOCK = 8
"""Combinations whose keys are drawn at once."""
_KEY_DRAWS = KEY_WORDS // 2
_MASK_SEED = 0x616C6C73746F70
_LOCK_OF_COMPILER = "numba:compiler_lock"
"""Numba's event: whatever it compiles, or loads compiled, it takes a lock first."""

_FAMILIES = 4
"""``np.random``, ``random``, and those of Numba: each has a mask that its keys are XORed with,
for they must not draw the same numbers."""


class Saved(NamedTuple):
    """A checkpoint's state, and those of the generators with which the function goes on."""

    state: object
    generators: dict[str, Any]


def generator(seed: int, index: int) -> np.random.Generator:
    """Make the generator of one combination, which a function has as ``stop.rng``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))


class Seeds:
    """Sets this process's generators for one combination after the other.

    Numba and PyTorch are not imported for this: they are seeded once something has
    imported them, in the middle of a call too.

    Parameters
    ----------
    seed : int
        The run's, at least 0.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._draws = np.random.PCG64(np.random.SeedSequence(seed))
        self._origin = self._draws.state
        masks = np.random.PCG64(_MASK_SEED).random_raw(_FAMILIES * _KEY_DRAWS)
        self._masks = masks.view(np.uint32).reshape(_FAMILIES, KEY_WORDS)
        self._block = -1
        self._at = 0
        self._twisters: list[Twister] = []
        self._add([NumpyTwister(), PythonTwister()])
        self._words = np.zeros(0, np.uint64)
        self._torch: Any = None
        self._numba: list[Twister] = []
        """Numba's generators, until it has compiled something."""
        self._watch = _Watch({"numba": self._meet_numba, "torch": self._meet_torch})

    def begin(self, index: int) -> None:
        """Set the generators for combination ``index``."""
        block, at = divmod(index, _BLOCK)
        if block != self._block:
            self._draw(block)
        self._at = at
        keys = self._lines[at]
        for twister, start, stop in self._places:
            twister.begin(keys[start:stop])
        if self._torch is not None:
            self._seed_torch()

    def end(self) -> None:
        """Watch imports no longer."""
        self._watch.end()

    def states(self) -> dict[str, Any]:
        """Return the generators' states, in the middle of a combination."""
        states = {twister.name: twister.state() for twister in self._twisters}
        if self._torch is not None:
            states["torch"] = self._torch.get_rng_state().numpy()
            if self._torch.cuda.is_initialized():
                states["cuda"] = [state.numpy() for state in self._torch.cuda.get_rng_state_all()]
        return states

    def restore(self, states: dict[str, Any]) -> None:
        """Set the generators to states that :meth:`states` gave, here or in another process."""
        if any(name.startswith("numba") for name in states):
            import numba  # noqa: F401 - so that it is met

            self._take_numba()
        if "torch" in states:
            import torch

            torch.set_rng_state(torch.from_numpy(states["torch"]))
            if "cuda" in states:
                torch.cuda.set_rng_state_all([torch.from_numpy(s) for s in states["cuda"]])
        for twister in self._twisters:
            if twister.name in states:
                twister.restore(states[twister.name])

    def _draw(self, block: int) -> None:
        """Draw the keys of a block of combinations, wherever in the grid it lies."""
        if block != self._block + 1 or block == 0:  # otherwise the source stands there already
            self._draws.state = self._origin
            self._draws.advance(block * _BLOCK * _KEY_DRAWS)
        self._block = block
        self._words = self._draws.random_raw(_BLOCK * _KEY_DRAWS)
        keys = self._words.view(np.uint32).reshape(_BLOCK, KEY_WORDS)
        for mask, place in zip(self._masks, self._key_places, strict=False):
            np.bitwise_xor(keys, mask, out=place)

    def _add(self, twisters: Sequence[Twister]) -> None:
        """Take further generators, and make room for the keys of all."""
        self._twisters += twisters
        edges = [0, *accumulate(twister.size for twister in self._twisters)]
        self._places = list(zip(self._twisters, edges, edges[1:], strict=False))
        room = np.zeros((_BLOCK, edges[-1]), np.uint32)
        self._key_places = []
        for twister, start, _ in self._places:
            room[:, start + twister.position_at] = KEY_WORDS
            key = start + twister.key_at
            self._key_places.append(room[:, key : key + KEY_WORDS])
        self._lines = [memoryview(line.data).cast("B").cast("I") for line in room]

    def _meet_numba(self) -> None:
        """Set its generators from when it compiles something: before, nothing can use them."""
        from numba.core import event

        library = helperlib()
        twisters: list[Twister] = [
            NumbaTwister("numba.numpy", library.rnd_get_np_state_ptr()),
            NumbaTwister("numba.random", library.rnd_get_py_state_ptr()),
        ]

        self._numba = twisters

        class FirstCompiled(event.Listener):  # type: ignore[misc]
            def on_start(_, _event: Any) -> None:
                self._take_numba()

            def on_end(_, _event: Any) -> None:
                """Nothing happens then."""

        event.register(_LOCK_OF_COMPILER, FirstCompiled())

    def _take_numba(self) -> None:
        twisters, self._numba = self._numba, []
        if not twisters:
            return
        self._add(twisters)
        if self._block >= 0:  # in the middle of a call
            self._draw(self._block)
            for twister, start, stop in self._places[-len(twisters) :]:
                twister.begin(self._lines[self._at][start:stop])

    def _meet_torch(self) -> None:
        self._torch = sys.modules["torch"]
        with contextlib.suppress(AttributeError):
            # where a call opens CUDA, it gets that call's seed
            self._torch.cuda._lazy_call(self._seed_gpus, seed_all=True)
        if self._block >= 0:
            self._seed_torch()

    def _seed_torch(self) -> None:
        """Set its generators, by calls that take less than ``torch.manual_seed``'s 150 µs."""
        self._torch.default_generator.manual_seed(self._torch_seed())
        if self._torch.cuda.is_initialized():
            self._seed_gpus()

    def _torch_seed(self) -> int:
        return int(self._words[self._at * _KEY_DRAWS]) >> 1

    def _seed_gpus(self) -> None:
        self._torch.cuda.manual_seed_all(self._torch_seed())


class _Watch(MetaPathFinder):
    """Tells when a library is loaded: at once, or as soon as its import has ended.

    A function that imports it when it is first called must not draw from a generator as it
    was made: that would make its first row another one in every worker.
    """

    def __init__(self, then: dict[str, Callable[[], None]]) -> None:
        self._then = then
        for name in [name for name in then if name in sys.modules]:
            self._then.pop(name)()
        if self._then:
            sys.meta_path.insert(0, self)

    def end(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find it as without us, and have us called once it is loaded."""
        then = self._then.pop(name, None)
        spec = importlib.util.find_spec(name) if then else None
        if then is None or spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_tell(module: Any) -> None:
            load(module)
            then()

        spec.loader.exec_module = load_and_tell  # type: ignore[method-assign]
        return spec
