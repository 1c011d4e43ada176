"""Blocking on a word of shared memory, without a lock that a dead process could hold.

A futex wait belongs to the waiting thread alone: unlike with a semaphore, killing a waiter
or a waker at any instruction leaves no state behind for the others.

References
----------
futex(2); U. Drepper, "Futexes are tricky", 2011.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

from supervisor.errors import UnsupportedPlatformError

_FUTEX_WAKE = 1
_FUTEX_WAIT_BITSET = 9  # takes an absolute CLOCK_MONOTONIC deadline: EINTR cannot stretch it
_MATCH_ANY = 0xFFFFFFFF
_EVERYONE = 2**31 - 1

_SYSCALL_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_libc = ctypes.CDLL(None, use_errno=True)


def _number() -> int:
    machine = os.uname().machine
    number = _SYSCALL_NUMBERS.get(machine)
    if number is None:
        raise UnsupportedPlatformError(
            f"futex(2) has no known number on {machine}; known: {', '.join(_SYSCALL_NUMBERS)}"
        )
    return number


def wait(address: int, expected: int, deadline: float | None) -> bool:
    """Sleep while the 32-bit word at ``address`` equals ``expected``.

    Parameters
    ----------
    address : int
        Address of a 4-byte aligned word in memory mapped ``MAP_SHARED``.
    expected : int
        Value that means "keep sleeping".
    deadline : float or None
        ``time.monotonic()`` instant after which to give up, in s; None for never.

    Returns
    -------
    bool
        False when the deadline passed; True when it is time to look again
        (woken, value changed, or interrupted by a signal, whose Python handler
        has then run).
    """
    until = None
    if deadline is not None:
        whole, part = divmod(deadline, 1.0)
        until = ctypes.byref(_Timespec(int(whole), int(part * 1e9)))
    result = _libc.syscall(
        ctypes.c_long(_number()),
        ctypes.c_void_p(address),
        ctypes.c_int(_FUTEX_WAIT_BITSET),
        ctypes.c_uint32(expected),
        until,
        None,
        ctypes.c_uint32(_MATCH_ANY),
    )
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.ETIMEDOUT:
        return False
    if code in (errno.EAGAIN, errno.EINTR):
        return True
    raise OSError(code, os.strerror(code))


def wake_all(address: int) -> None:
    """Wake every waiter on the word at ``address``, in all processes."""
    _libc.syscall(
        ctypes.c_long(_number()),
        ctypes.c_void_p(address),
        ctypes.c_int(_FUTEX_WAKE),
        ctypes.c_int(_EVERYONE),
        None,
        None,
        ctypes.c_uint32(0),
    )


def monotonic_deadline(timeout: float | None) -> float | None:
    """Absolute deadline ``timeout`` seconds from now, or None for never."""
    return None if timeout is None else time.monotonic() + max(0.0, timeout)
