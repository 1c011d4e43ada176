"""Compiled functions, loaded in a millisecond once they are machine code.

A kernel allocates nothing and knows neither Python's objects nor Numba's
runtime. So what Numba makes of it is plain machine code, which LLVM's loader
can place and ``ctypes`` call: only compiling needs Numba, whose import alone
takes as long as everything else before a first result.

References
----------
Numba developer manual, "Notes on stack frames and the native calling
convention": a kernel returns a status and takes a place for its result, a place
for an exception, then its arguments with arrays and tuples taken apart.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from workers.code_cache import CodeCache, key_of_facts, key_of_files

_HERE = Path(__file__).parent
_SOURCES = (*sorted((_HERE / "source").glob("*.py")), _HERE / "blocks.py", _HERE / "scratch.py",
            _HERE / "compiler.py", _HERE.parent / "poll.py")  # fmt: skip
_CACHE = CodeCache(_HERE, ".o")
_OK = 0

Kind = tuple[Any, ...]
"""What is compiled separately: an array's element type and dimensions, a tuple's parts."""


class Kernel:
    """A function of :mod:`workers.kernels.source`; releases the GIL while it runs.

    Compiled when it is first called and not cached yet, which takes seconds.
    Each further combination of argument types is compiled anew.

    Parameters
    ----------
    home, name : str
        Module in :mod:`workers.kernels.source`, and function in it.
    """

    def __init__(self, home: str, name: str) -> None:
        self.home = home
        self.name = name
        self._loaded: dict[Kind, _Entry] = {}

    def __call__(self, *arguments: Any) -> bool:
        """Call with C-contiguous writable arrays, tuples of such, integers and floats.

        Raises
        ------
        RuntimeError
            If the kernel raised: it divided by zero, say.
        """
        kind, values = _taken_apart(arguments)
        entry = self._loaded.get(kind)
        if entry is None:
            entry = self._loaded[kind] = self._load(kind, arguments)
        return entry(values)

    def _load(self, kind: Kind, arguments: tuple[Any, ...]) -> _Entry:
        key = f"{self.home}.{self.name}", _source_key(), _machine_key(repr(kind))
        code = _CACHE.read(*key)
        if code is None:
            from workers.kernels.compiler import object_code

            code = object_code(self.home, self.name, arguments, _machine())
            _CACHE.write(*key, code)
        return _Entry(self.name, kind, code)

    def __repr__(self) -> str:
        return f"<Kernel {self.home}.{self.name}>"


class _Entry:
    """A kernel's machine code in this process, for one kind of arguments."""

    def __init__(self, name: str, kind: Kind, code: bytes) -> None:
        self._name = name
        # an engine of its own: kernels bring their own copies of helpers of the same name
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        places = (ctypes.c_void_p, ctypes.c_void_p)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, *places, *_c_types(kind))
        self._call: Callable[..., int] = prototype(self._engine.get_function_address(name))

    def __call__(self, values: list[Any]) -> bool:
        result, exception = ctypes.c_int64(), ctypes.c_void_p()
        status = self._call(ctypes.byref(result), ctypes.byref(exception), *values)
        if status != _OK:
            raise RuntimeError(f"kernel {self._name} failed with status {status}")
        return bool(result.value & 1)


# -- arguments ---------------------------------------------------------------


def _taken_apart(arguments: tuple[Any, ...]) -> tuple[Kind, list[Any]]:
    """Kinds and machine values of arguments, as Numba's calling convention orders them."""
    values: list[Any] = []
    return tuple([_take_apart(argument, values) for argument in arguments]), values


def _take_apart(argument: Any, values: list[Any]) -> Any:
    if isinstance(argument, np.ndarray):
        if not argument.flags.carray:
            raise TypeError("kernels take C-contiguous writable arrays only")
        # no owner to be counted: the caller holds the array while the kernel runs
        values += (None, None, argument.size, argument.itemsize, argument.ctypes.data)
        values += argument.shape
        values += argument.strides
        return argument.dtype, argument.ndim
    if isinstance(argument, tuple):
        return tuple([_take_apart(part, values) for part in argument])
    values.append(argument)
    return "float" if isinstance(argument, (float, np.floating)) else "int"


def _c_types(kind: Any) -> Iterator[Any]:
    if kind == "float":
        yield ctypes.c_double
    elif kind == "int":
        yield ctypes.c_int64
    elif isinstance(kind[0], np.dtype):
        yield from (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        yield ctypes.c_void_p
        yield from [ctypes.c_int64] * (2 * kind[1])
    else:
        for part in kind:
            yield from _c_types(part)


# -- the machine -------------------------------------------------------------


def _machine() -> llvm.TargetMachine:
    """Describe the processor, anew each time: an engine owns and frees what it is given."""
    cpu, features = _processor()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=features, opt=3, codemodel="jitdefault", jit=True
    )


@functools.cache
def _processor() -> tuple[str, str]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


# -- the cache ---------------------------------------------------------------


@functools.cache
def _source_key() -> str:
    """Changes when *any* source does: kernels inline helpers of several files."""
    return key_of_files(_SOURCES)


def _machine_key(kind: str) -> str:
    """Changes with the processor, the compiler, and the kinds of arguments."""
    return key_of_facts(*_compiler_facts(), kind)


@functools.cache
def _compiler_facts() -> tuple[str, ...]:
    numba = importlib.util.find_spec("numba")  # found, not imported
    version = Path(numba.origin or "").with_name("_version.py") if numba else None
    return (
        os.uname().machine,
        llvm.get_default_triple(),
        *_processor(),
        llvmlite.__version__,
        version.read_text() if version and version.is_file() else "",
    )
