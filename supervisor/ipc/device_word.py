"""The word that a kernel polls: where it is, and what writes it.

Each tier of :mod:`supervisor.ipc.device_flag` has its own: the flag's word itself, mapped into
the device; a word in device memory that a thread writes; or one that nothing writes.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from typing import NamedTuple

from supervisor.ipc import futex
from supervisor.system.cuda import Attribute, CudaError, Driver

NULL_STREAM = 0
_WORD_BYTES = 8


class Line(NamedTuple):
    """What there is to know of a stop flag's line.

    Attributes
    ----------
    memory : mmap
        The flag's shared memory, mapped.
    address : int
        Where this process has the stop word.
    futex_address : int
        Its half that waiters sleep on.
    generation : int
        Generation that the line belongs to.
    """

    memory: mmap.mmap
    address: int
    futex_address: int
    generation: int

    def is_set(self) -> bool:
        """Whether a stop was requested."""
        return ctypes.c_int64.from_address(self.address).value != 0


class Refused(Exception):
    """A tier is not possible here, for a reason that no call of the driver gives."""


# -- mapped ----------------------------------------------------------------------


def map_line(driver: Driver, device: int, line: Line, pages: dict[int, mmap.mmap]) -> int:
    """Register the one page that holds the line; return the word's device address."""
    if not driver.attribute(device, Attribute.HOST_REGISTER_SUPPORTED):
        raise Refused("the device does not support registered host memory")
    page = line.address - line.address % mmap.PAGESIZE
    if page not in pages:
        driver.register(page, mmap.PAGESIZE)
        pages[page] = line.memory
    return driver.device_pointer(page) + line.address - page


# -- vram ------------------------------------------------------------------------


class Word(NamedTuple):
    """A word in device memory, and what writes it."""

    pointer: int
    source: ctypes.c_int64
    stream: int


def zero_word(driver: Driver, stream: int) -> Word:
    """Make a word in device memory that holds 0, and a source to write it from.

    All is prepared here and was used once: while a kernel runs, an allocation may wait for it.
    """
    pointer = driver.allocate(_WORD_BYTES)
    source = _source(driver)
    driver.copy_to_device(pointer, ctypes.addressof(source), _WORD_BYTES, stream)
    driver.synchronise(stream)
    return Word(pointer, source, stream)


def _source(driver: Driver) -> ctypes.c_int64:
    """Make a word in host memory that holds 0: pinned, or where that is refused any."""
    try:
        source = ctypes.c_int64.from_address(driver.allocate_host(_WORD_BYTES))
    except CudaError as error:
        if error.unusable:
            raise
        return ctypes.c_int64(0)  # the driver then goes by way of pinned memory of its own
    source.value = 0
    return source


def follow(driver: Driver, context: int, line: Line) -> int:
    """Have a thread write a word in device memory once a stop is requested."""
    word = zero_word(driver, driver.stream())
    word.source.value = 1
    thread = threading.Thread(
        target=_write_on_stop,
        args=(driver, context, line, word),
        name="allstop-device-flag",
        daemon=True,
    )
    try:
        thread.start()
    except RuntimeError as error:
        raise Refused(str(error)) from None
    return word.pointer


def _write_on_stop(driver: Driver, context: int, line: Line, word: Word) -> None:
    driver.make_current(context)
    while not line.is_set():
        futex.wait(line.futex_address, 0, None)
    driver.copy_to_device(word.pointer, ctypes.addressof(word.source), _WORD_BYTES, word.stream)
