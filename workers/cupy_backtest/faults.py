"""What CUDA's errors mean for a worker: out of memory, the device is lost, or a fault of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from supervisor.errors import AllstopError, DeviceLostError
from supervisor.system import cuda
from workers.cupy_backtest.device import OutOfDeviceMemoryError

OUT_OF_MEMORY = 2

REASONS = {
    3: "CUDA could not be initialised in this process",
    35: "the NVIDIA driver is too old for this CuPy, or there is none",
    46: "the GPU is busy or not available (another process may hold it exclusively)",
    100: "there is no GPU that this process may use",
    101: "the GPU that was chosen does not exist any more",
    201: "the context on the GPU is gone",
    209: "the GPU is of a kind that the compiled code does not run on",
    214: "the GPU found a memory error that it cannot correct (ECC)",
    220: "the connection between GPUs failed (NVLink)",
    700: "a kernel accessed memory that is not its own; the context is broken",
    702: "a kernel was ended by the driver because it ran for too long",
    709: "the context on the GPU was destroyed",
    719: "a kernel failed; the context is broken",
    802: "the system's GPUs are not ready yet (the fabric manager may not run)",
    803: "the NVIDIA driver and its kernel module are of different releases",
    804: "the GPU does not support this CUDA release with this driver",
    805: "the MPS server cannot be reached",
    806: "the MPS server failed",
    807: "the MPS server is not ready",
    999: "the driver reports an unknown error",
}
"""In plain words, by the code: ``cudaError_t`` and ``CUresult`` number these alike."""

LOST = cuda.UNUSABLE | REASONS.keys()
"""Codes after which the device, or this process's context on it, is of no more use."""

_OF_THIS_PROCESS = frozenset({4, 201, 700, 702, 709, 710, *range(714, 720)})
"""Codes that say nothing against the device: a new process may use it."""


class UncorrectableError(Exception):
    """An error code of the runtime that was returned, not raised.

    Attributes
    ----------
    status : int
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA error {status}")
        self.status = status


def lost(code: int, said: str) -> DeviceLostError:
    """Describe a lost device.

    Parameters
    ----------
    code : int
        Of the driver or the runtime.
    said : str
        Their own words.
    """
    reason = REASONS.get(code, "the GPU, or this process's context on it, is broken")
    return DeviceLostError(f"{reason} [{said}]", gone=code not in _OF_THIS_PROCESS)


@contextmanager
def told_apart(doing: str, is_cuda: Callable[[BaseException], int | None]) -> Iterator[None]:
    """Turn the errors of a framework into ours; others pass.

    Parameters
    ----------
    doing : str
        What is being done, for the message: "allocate 12 MB".
    is_cuda : callable
        The CUDA code of an exception, None where it has none.

    Raises
    ------
    OutOfDeviceMemoryError
        If memory ran out.
    DeviceLostError
        If the device is of no more use to this process.
    """
    try:
        yield
    except AllstopError:
        raise
    except Exception as error:
        code = is_cuda(error)
        if code == OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError(f"out of GPU memory ({doing}): {error}") from None
        if code is not None and code in LOST:
            raise lost(code, f"{doing}: {error}") from None
        raise
