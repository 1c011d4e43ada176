"""How kernels are compiled and, above all, how quickly they are loaded again.

Numba's own disk cache imports the whole of Numba's type system before it hands
out the first cached function: 0.2 s, and 0.3 s more where SciPy is installed.
A function that is already machine code needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_SOURCES = Path(__file__).parent.parent


def kernel(function: Callable[..., Any]) -> Any:
    """Compile an entry point on first call, or load it in milliseconds if it was before.

    Parameters must be what the first call passes: each further combination of
    types costs seconds of compilation. See :func:`helper` for what a kernel
    must not do.
    """
    dispatcher = helper(function)
    dispatcher._cache = _KernelCache(function)
    return dispatcher


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that only kernels call.

    The GIL is released, and there is no Numba runtime (``_nrt=False``): arrays
    are neither made nor counted. Counting references is an atomic operation
    each time an array is handed on, which would take a third of the speed.
    """
    return njit(nogil=True, _nrt=False)(function)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """A function's disk cache that is quick to load, and stale when *any* kernel changes.

    Numba looks only at the file a function stands in, while ours inline
    helpers from several.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        sources = [_SOURCES / "poll.py"]
        for room in ("kernels", "indicators"):
            sources += sorted((_SOURCES / room).glob("*.py"))
        stats = [path.stat() for path in sources]
        self._cache_file._source_stamp = tuple((s.st_mtime_ns, s.st_size) for s in stats)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As Numba's, less ``target_context.refresh()``: a miss does that on compiling."""
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)
