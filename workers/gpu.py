"""A worker's GPU: the environment that gives it one, and whether it still works."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping

from supervisor.system import cuda, private_dir
from supervisor.system.cuda import CudaError

_NO_CONTEXT = 201
_LOST = frozenset({46, 100, 101, 214, 220, 226})
"""Codes by which the driver says that the device itself fails, for other processes too; the
others of :data:`supervisor.system.cuda.UNUSABLE` are of this process's context."""


def own_device(device: str, limit_bytes: int | None, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give a worker one GPU; set before CUDA is initialised.

    Parameters
    ----------
    device : str
        The GPU's UUID: the worker sees it as device 0, and no other.
    limit_bytes : int or None
        Memory of it that CuPy's pool may take. PyTorch has no such variable.
    given : mapping
        The environment so far: a cache directory of CuPy's that the user chose stays.

    References
    ----------
    CUDA C++ Programming Guide, "CUDA Environment Variables"; CuPy, "Environment variables".
    """
    variables = {"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if limit_bytes is not None:
        variables["CUPY_GPU_MEMORY_LIMIT"] = str(limit_bytes)
    # torch.compile would start a pool of processes that outlives a call and holds memory
    variables.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if "CUPY_CACHE_DIR" not in given:
        kernels = _kernel_cache()
        # its default directory is not checked: rather none
        variables |= {"CUPY_CACHE_DIR": kernels} if kernels else {"CUPY_CACHE_IN_MEMORY": "1"}
    return variables


def _kernel_cache() -> str:
    """Return a directory that only this user can write, for kernels; empty: there is none."""
    with contextlib.suppress(OSError, RuntimeError, private_dir.UntrustedPlaceError):
        return str(private_dir.make(private_dir.cache_home() / "cupy"))
    return ""


def broken() -> CudaError | None:
    """Return why this process cannot use its GPU any more; None: it can, or has opened none.

    An error in a kernel shows in every later call of the process, so all that it computes from
    then on would fail too. Waits for nothing.
    """
    if not cuda.opened():
        return None
    driver = cuda.find()
    if driver is None:
        return None
    try:
        driver.call("cuStreamQuery", ctypes.c_void_p(None))
    except CudaError as error:
        return error if error.unusable and error.code != _NO_CONTEXT else None
    return None


def is_lost(error: CudaError) -> bool:
    """Whether an error of the driver's means that the device fails, not only this process."""
    return error.code in _LOST
