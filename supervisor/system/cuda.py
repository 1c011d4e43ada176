"""NVIDIA's driver, by ctypes: the few calls that a stop flag on a device needs.

No framework is imported, so the same calls serve beside CuPy, PyTorch, Numba or none of
them. Only workers, tests, measurements and ``doctor``'s subprocess load the library: a
process that has initialised CUDA cannot fork workers that use it.

References
----------
NVIDIA, "CUDA Driver API": context, memory and stream management,
https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import functools
import os
import uuid
from enum import IntEnum
from typing import Any, Literal

from supervisor.errors import AllstopError

LIBRARY = "libcuda.so.1"

SUCCESS = 0
NOT_INITIALIZED = 3
_NOT_READY = 600
ALREADY_REGISTERED = 712

REGISTER_PORTABLE = 1
REGISTER_DEVICEMAP = 2
REGISTER_READ_ONLY = 8

_INVALID_VALUE = 1
_NON_BLOCKING = 1
_FORKED = (
    "CUDA cannot be used in this process: it was forked from one that had initialised CUDA. "
    "Let only the function that runs in a worker use the device: no module that it is sent "
    "with, and nothing before the sweep starts"
)

UNUSABLE = frozenset({4, 46, 100, 101, 201, 214, 220, 226, 700, 702, 709, 710, *range(714, 720)})
"""Codes after which this process cannot use its device any more: the device is absent, lost
or busy, or its context is broken: only a new process can use it again."""


class Attribute(IntEnum):
    """Device attributes, numbered as in ``cuda.h`` (``CU_DEVICE_ATTRIBUTE_…``)."""

    MULTIPROCESSOR_COUNT = 16
    MAX_THREADS_PER_MULTIPROCESSOR = 39
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76
    PAGEABLE_MEMORY_ACCESS = 88
    CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM = 91
    HOST_REGISTER_SUPPORTED = 99
    MAX_BLOCKS_PER_MULTIPROCESSOR = 106
    READ_ONLY_HOST_REGISTER_SUPPORTED = 113


class CudaError(AllstopError):
    """The driver refused a call.

    Attributes
    ----------
    call : str
        The driver's function.
    code : int
        Its result (``CUresult``).
    name : str
        The driver's name for the code, such as ``CUDA_ERROR_OUT_OF_MEMORY``.
    """

    def __init__(self, call: str, code: int, name: str, hint: str = "") -> None:
        super().__init__(f"{call}: {name} ({code})" + (f". {hint}" if hint else ""))
        self.call = call
        self.code = code
        self.name = name

    @property
    def unusable(self) -> bool:
        """Whether this process cannot use its device any more."""
        return self.code in UNUSABLE


def forked_error(call: str) -> CudaError:
    """Return the error for a process that was forked from one that had initialised CUDA."""
    return CudaError(call, NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", _FORKED)


def opened() -> bool:
    """Whether this process has initialised CUDA, so that it must not fork workers.

    Never loads the library and never initialises it; takes microseconds.
    """
    try:
        library = ctypes.CDLL(LIBRARY, mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    count = ctypes.c_int()
    code: int = library.cuDeviceGetCount(ctypes.byref(count))
    return code != NOT_INITIALIZED


@functools.cache
def find() -> Driver | None:
    """Load the driver's library; None where there is none. Initialises nothing."""
    try:
        return Driver(ctypes.CDLL(LIBRARY))
    except OSError:
        return None


class Driver:
    """The driver's calls, with results returned and errors raised.

    Every call may raise :class:`CudaError`. Those that need a context use the calling
    thread's; :meth:`context` makes sure that there is one.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Parameters
        ----------
        name : str
            As in the library, with its version's suffix.
        *arguments
            ctypes values: an int would be passed as 32 bits.

        Raises
        ------
        CudaError
            If it does not succeed, or this driver does not have it.
        """
        function = getattr(self._library, name, None)
        if function is None:
            raise CudaError(name, 500, "CUDA_ERROR_NOT_FOUND", "this driver is too old")
        code = function(*arguments)
        if code != SUCCESS:
            raise CudaError(name, code, self._name_of(code))

    def _name_of(self, code: int) -> str:
        name = ctypes.c_char_p()
        if self._library.cuGetErrorName(code, ctypes.byref(name)) == SUCCESS and name.value:
            return name.value.decode(errors="replace")
        return "unknown error"

    # -- contexts and devices ----------------------------------------------

    def initialise(self) -> None:
        """Initialise CUDA in this process; may be called again.

        Raises
        ------
        CudaError
            If there is no device, or this process was forked from one that had done it.
        """
        try:
            self.call("cuInit", ctypes.c_uint(0))
        except CudaError as error:
            if error.code == NOT_INITIALIZED:
                raise forked_error("cuInit") from None
            raise

    def context(self) -> int:
        """Return the calling thread's context.

        Where it has none, the first device's primary context becomes it: the one that
        CuPy, PyTorch and Numba use. It is never released; it ends with the process.
        """
        current = self._current()
        if not current:
            self.initialise()
            context = ctypes.c_void_p()
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(0))
            current = context.value or 0
            self.make_current(current)
        return current

    def _current(self) -> int:
        context = ctypes.c_void_p()
        try:
            self.call("cuCtxGetCurrent", ctypes.byref(context))
        except CudaError as error:
            if error.code != NOT_INITIALIZED:
                raise
        return context.value or 0

    def make_current(self, context: int) -> None:
        """Make ``context`` the calling thread's."""
        self.call("cuCtxSetCurrent", ctypes.c_void_p(context))

    def current_device(self) -> int:
        """Return the device of the calling thread's context."""
        device = ctypes.c_int()
        self.call("cuCtxGetDevice", ctypes.byref(device))
        return device.value

    def device_count(self) -> int:
        """Return the number of devices that this process may use."""
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def attribute(self, device: int, attribute: Attribute) -> int:
        """Return an attribute of a device; 0 where the driver does not know it."""
        value = ctypes.c_int()
        try:
            self.call(
                "cuDeviceGetAttribute",
                ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(device),
            )  # fmt: skip
        except CudaError as error:
            if error.code == _INVALID_VALUE:
                return 0  # a driver older than the attribute
            raise
        return value.value

    def uuid(self, device: int) -> str:
        """Return a device's name for ``CUDA_VISIBLE_DEVICES``: ``GPU-…``.

        Of a MIG slice it is the slice's own, which has the prefix ``MIG-`` elsewhere.
        """
        raw = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid_v2", raw, ctypes.c_int(device))
        return f"GPU-{uuid.UUID(bytes=bytes(raw))}"

    # -- memory --------------------------------------------------------------

    def register(
        self, address: int, size: int, flags: int = REGISTER_PORTABLE | REGISTER_DEVICEMAP
    ) -> None:
        """Pin ``size`` bytes of host memory and map them into the device's address space."""
        self.call(
            "cuMemHostRegister_v2",
            ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_uint(flags),
        )  # fmt: skip

    def unregister(self, address: int) -> None:
        """Undo :meth:`register`. A worker has no need to: the process ends with its pins."""
        self.call("cuMemHostUnregister", ctypes.c_void_p(address))

    def device_pointer(self, address: int) -> int:
        """Return where the device sees registered host memory."""
        pointer = ctypes.c_uint64()
        self.call(
            "cuMemHostGetDevicePointer_v2",
            ctypes.byref(pointer), ctypes.c_void_p(address), ctypes.c_uint(0),
        )  # fmt: skip
        return pointer.value

    def allocate(self, size: int) -> int:
        """Allocate device memory; it holds whatever was there before."""
        pointer = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value

    def allocate_host(self, size: int) -> int:
        """Allocate pinned host memory. May wait for running kernels."""
        address = ctypes.c_void_p()
        self.call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
        return address.value or 0

    # -- streams -------------------------------------------------------------

    def stream(self) -> int:
        """Make a stream that does not wait for the null stream, nor it for this one."""
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        return stream.value or 0

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from host to device memory; ``source`` must live until it is done."""
        self.call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(target), ctypes.c_void_p(source), ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )  # fmt: skip

    def is_done(self, kind: Literal["Event", "Stream"], handle: int) -> bool:
        """Whether what was queued before an event, or on a stream, is done."""
        try:
            self.call(f"cu{kind}Query", ctypes.c_void_p(handle))
        except CudaError as error:
            if error.code == _NOT_READY:
                return False
            raise
        return True

    def synchronise(self, stream: int) -> None:
        """Wait until everything queued on ``stream`` is done."""
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))
