"""One stretch of addresses, whose first part is shared with forked processes.

References
----------
mmap(2), ``MAP_FIXED`` over a reservation of one's own.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def shared_then_private(n_shared: int, n_private: int) -> tuple[NDArray[np.int64], int]:
    """Map zeros: words shared with every process forked later, then words of each one's own.

    Pages that were never touched take no memory. The mapping goes with the last
    array that views it.

    Parameters
    ----------
    n_shared, n_private : int
        Words of eight bytes.

    Returns
    -------
    words : ndarray of int64
        Both parts, and what aligns the second one in between.
    private_at : int
        Index of the first private word.
    """
    shared_bytes = -(-8 * n_shared // mmap.PAGESIZE) * mmap.PAGESIZE
    size = max(shared_bytes + 8 * n_private, 8)
    base = _map(None, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1)
    buffer: Any = (ctypes.c_int64 * (size // 8)).from_address(base)
    weakref.finalize(buffer, _libc.munmap, base, size)
    if shared_bytes:
        fd = os.memfd_create("allstop-bank", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, shared_bytes)
            _map(base, shared_bytes, mmap.MAP_SHARED | _MAP_FIXED, fd)
        finally:
            os.close(fd)
    return np.frombuffer(buffer, np.int64), shared_bytes // 8


def _map(address: int | None, size: int, flags: int, fd: int) -> int:
    base: int | None = _libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    if base is None or base == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return base
