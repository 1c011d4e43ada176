"""Reading the stop flag from compiled code, in a way no optimiser may remove.

LLVM lifts a plain ``line[0]`` out of any loop that does not write to memory:
the kernel then reads the flag once and never sees the stop. An *atomic* load
may not be lifted, and on every 64-bit machine it costs what a plain one costs.
On a GPU the same holds, and a *volatile* load is the one that may not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import infer_global, make_intrinsic_template
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

_I64 = ir.IntType(64)


def stop_requested(line: NDArray[np.int64]) -> bool:
    """Whether a stop was requested; for ``@njit`` and ``@cuda.jit`` functions and plain Python.

    Parameters
    ----------
    line : ndarray of int64, shape (8,)
        The stop flag's line in shared memory (``StopFlag.array``). In a ``@cuda.jit``
        function the device address instead: ``numpy.uint64(stop.device_pointer)``.

    Notes
    -----
    Costs about a nanosecond where it stands in a loop of its own, but keeps
    LLVM from vectorising the loop that contains it: poll in an outer loop,
    around a compiled step of a few microseconds.

    On a GPU each call is a read over PCIe, a microsecond or two. Let one thread of a block
    ask, and all leave by its answer: ``if
    cuda.syncthreads_or(np.int32(cuda.threadIdx.x == 0 and stop_requested(flag))): return``.

    References
    ----------
    .. [1] LLVM Language Reference, "Atomic Memory Ordering Constraints",
       https://llvm.org/docs/LangRef.html#ordering
    .. [2] PTX ISA, "ld.volatile",
       https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-ld
    """
    return bool(line[0] != 0)


@overload(stop_requested, inline="never")
def _stop_requested(line: Any) -> Any:
    if not (isinstance(line, types.Array) and line.dtype == types.int64):
        return None

    def compiled(line: Any) -> Any:
        return load_acquire(line, 0) != 0

    return compiled


def _on_device(typingctx: Any, flag: Any) -> Any:
    """Type and compile a call from a ``@cuda.jit`` function."""
    is_address = isinstance(flag, types.Integer) and flag.bitwidth == 64
    if not is_address and not (isinstance(flag, types.Array) and flag.dtype == types.int64):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = args[0]
        if not is_address:
            words = context.make_array(signature.args[0])(context, builder, address)
            address = builder.ptrtoint(words.data, _I64)
        load = ir.FunctionType(_I64, [_I64])
        # LLVM's own volatile load would do, were there one that llvmlite can write
        asm = ir.InlineAsm(load, "ld.volatile.global.u64 $0, [$1];", "=l,l", side_effect=True)
        return builder.icmp_unsigned("!=", builder.call(asm, [address]), _I64(0))

    return types.boolean(flag), codegen


# As @intrinsic does, but for the name that CPU code uses too, and without importing numba.cuda:
# its own registry takes this in when the first kernel is compiled. @overload would need a device
# to compile for, even where a kernel is only compiled to PTX.
infer_global(
    stop_requested,
    types.Function(
        make_intrinsic_template(
            stop_requested, _on_device, "stop_requested", kwargs={"target": "cuda"}
        )
    ),
)


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
