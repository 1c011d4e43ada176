"""From a kernel's source to machine code, by Numba and LLVM; takes seconds."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from numba import njit, typeof


def helper(function: Callable[..., Any]) -> Any:
    """Compile a function that only kernels call.

    There is no Numba runtime (``_nrt=False``): arrays are neither made nor
    counted. Counting references is an atomic operation each time an array is
    handed on, which would take a third of the speed.
    """
    return njit(nogil=True, _nrt=False)(function)


def object_code(
    home: str, name: str, arguments: tuple[Any, ...], machine: llvm.TargetMachine
) -> bytes:
    """Compile a kernel for the types of some arguments.

    Parameters
    ----------
    home, name : str
        Module of :mod:`workers.kernels.source`, and function in it.
    arguments : tuple
        What the kernel is called with.
    machine : TargetMachine
        What to compile for.

    Returns
    -------
    bytes
        A relocatable object file that needs no more than the C library, and
        exports the function as `name` with Numba's native calling convention.
    """
    module = importlib.import_module(f"workers.kernels.source.{home}")
    compiled = njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        getattr(module, name)
    )
    signature = tuple(map(typeof, arguments))
    compiled.compile(signature)
    unit = llvm.parse_assembly(compiled.inspect_llvm(signature))
    (entry,) = (
        function
        for function in unit.functions
        if not function.is_declaration and function.linkage == llvm.Linkage.external
    )
    entry.name = name
    return bytes(machine.emit_object(unit))
