"""Reading the stop flag from compiled code, in a way no optimiser may remove.

LLVM lifts a plain ``line[0]`` out of any loop that does not write to memory:
the kernel then reads the flag once and never hears the stop. An *atomic* load
may not be lifted, and on every 64-bit machine it costs what a plain one costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numpy.typing import NDArray


def stop_requested(line: NDArray[np.int64]) -> bool:
    """Whether a stop was requested; for ``@njit`` functions and plain Python alike.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag's line in shared memory (``StopFlag.array``).

    Notes
    -----
    Costs about a nanosecond where it stands in a loop of its own, but keeps
    LLVM from vectorising the loop that contains it: poll in an outer loop,
    around a compiled step of a few microseconds.

    References
    ----------
    .. [1] LLVM Language Reference, "Atomic Memory Ordering Constraints",
       https://llvm.org/docs/LangRef.html#ordering
    """
    return bool(line[0] != 0)


@overload(stop_requested, inline="never")
def _stop_requested(line: Any) -> Any:
    if not (isinstance(line, types.Array) and line.dtype == types.int64):
        return None

    def compiled(line: Any) -> Any:
        return load_acquire(line, 0) != 0

    return compiled


@intrinsic
def load_acquire(typingctx: Any, words: Any, index: Any) -> Any:
    """Atomic load of ``words[index]``: what was published before it is visible after it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, args), "acquire", 8)

    return types.int64(words, types.intp), codegen


@intrinsic
def store_release(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """Atomic store to ``words[index]``: publishes everything written before it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = _word(context, builder, signature, args)
        builder.store_atomic(args[2], word, "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


def _word(context: Any, builder: Any, signature: Any, args: Any) -> ir.Value:
    """Address of element ``args[1]`` of the contiguous int64 array ``args[0]``."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return cgutils.gep(builder, array.data, args[1])
