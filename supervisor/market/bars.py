"""Bars of one instrument: checked once, then shared read-only by every process.

The columns travel in a sealed memfd: it has no name that could be left behind,
and the kernel frees it with the last process that maps it.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DataError, ProtocolError

YEAR_S = 365 * 86_400
"""A year as vectorbt counts it by default (``year_freq='365 days'``)."""

_FIELDS = ("open", "high", "low", "close", "volume", "time")
_MAGIC = b"fs-bars\0"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQ")
_HEADER_BYTES = 4096  # a page, so that the columns are aligned
_COPY_BYTES = 2**20
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, eq=False)
class Bars:
    """Open, high, low, close and volume over time; arrays are read-only.

    Attributes
    ----------
    open, high, low, close, volume : ndarray of float64, shape (n_bars,)
        Prices in quote currency, positive; volume not negative.
    time : ndarray of int64, shape (n_bars,), in ns since the epoch, UTC
        Strictly increasing.
    source : str
        Where the bars come from, for people.
    """

    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    time: NDArray[np.int64]
    source: str = "data"

    def __post_init__(self) -> None:
        shape = (len(self.close),)
        for name in _FIELDS:
            dtype = np.int64 if name == "time" else np.float64
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype).view()
            if array.shape != shape:
                raise DataError(
                    f"{name} has shape {array.shape} where close has {shape}", path=self.source
                )
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """Return the number of bars."""
        return len(self.close)

    def __repr__(self) -> str:
        """Say what and how many, not every price."""
        return f"Bars({self.source!r}, {len(self):,} bars)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the columns alone: unpickled arrays are made read-only again."""
        return Bars, (*(getattr(self, name) for name in _FIELDS), self.source)

    @property
    def nbytes(self) -> int:
        """Size of the six columns."""
        return 6 * 8 * len(self)

    @cached_property
    def bars_per_year(self) -> float:
        """Bars in 365 days at the median spacing, as vectorbt annualises by default.

        The median makes weekends and holidays of daily or hourly data count for
        nothing: daily bars give 365, hourly ones 8,760, whatever days are missing.
        """
        spacing_ns = float(np.median(np.diff(self.time))) if len(self) > 1 else 0.0
        return YEAR_S * 1e9 / spacing_ns if spacing_ns > 0 else 365.0

    def digest(self) -> str:
        """Fingerprint of the columns (BLAKE2b, 64 hex digits); the source's name does not count."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        state = hashlib.blake2b(struct.pack("<Q", len(self)), digest_size=32)
        for name in _FIELDS:
            state.update(_bytes_of(getattr(self, name)))
        return state.hexdigest()

    @cached_property
    def memfd(self) -> int:
        """Descriptor of a :meth:`to_memfd` copy, made once and kept as long as these bars.

        Every run on the same bars hands out the same memory: starting the next
        one costs no copy. Not the caller's to close.
        """
        fd = self.to_memfd()
        weakref.finalize(self, os.close, fd)
        return fd

    def to_memfd(self) -> int:
        """Copy the bars into an anonymous file that no process can change any more.

        Returns
        -------
        int
            File descriptor, close-on-exec. The caller closes it; mappings outlive it.
        """
        whole = {field: getattr(self, field) for field in _FIELDS}
        return _written([whole], len(self), self.source)

    @classmethod
    def from_slices(
        cls, slices: Iterable[Mapping[str, NDArray[Any]]], n_bars: int, source: str
    ) -> Bars:
        """Make bars slice by slice in the memory that :attr:`memfd` hands out.

        There is no other copy: half the memory, and fresh memory is what takes the time.

        Parameters
        ----------
        slices : iterable of mapping
            The six columns of consecutive bars, `n_bars` of them in all.
        n_bars : int
            At least 1.
        source : str
            Where the bars come from, for people.
        """
        return cls._owning(_written(slices, n_bars, source))

    @classmethod
    def from_file(cls, fd: int) -> Bars:
        """Copy bars from a file that holds what a :meth:`to_memfd` does.

        The copy is what :attr:`memfd` gives: handing it out costs no further one.

        Raises
        ------
        ProtocolError
            If the file does not hold bars.
        """
        copy = _new_memfd()
        try:
            size, at = os.fstat(fd).st_size, 0
            while at < size and (done := os.sendfile(copy, fd, at, size - at)):
                at += done
            _seal(copy)
        except BaseException:
            os.close(copy)
            raise
        return cls._owning(copy)

    @classmethod
    def _owning(cls, fd: int) -> Bars:
        """Map bars, and take the descriptor over as their :attr:`memfd`."""
        try:
            bars = cls.from_fd(fd)
        except BaseException:
            os.close(fd)
            raise
        bars.__dict__["memfd"] = fd
        weakref.finalize(bars, os.close, fd)
        return bars

    @classmethod
    def from_fd(cls, fd: int) -> Bars:
        """Map bars that :meth:`to_memfd` wrote, without a copy.

        The descriptor may be closed afterwards.

        Raises
        ------
        ProtocolError
            If the file does not hold bars.
        """
        header = os.pread(fd, _HEADER_BYTES, 0)
        size = os.fstat(fd).st_size
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise ProtocolError("the descriptor does not hold bars")
        _, version, name_bytes, n_bars = _HEADER.unpack_from(header)
        if version != _VERSION:
            raise ProtocolError(f"the bars are of version {version}, not {_VERSION}")
        if n_bars < 1 or size < _HEADER_BYTES + 6 * 8 * n_bars:
            raise ProtocolError(f"the bars are cut short: {n_bars} do not fit in {size} bytes")
        # private, though no process writes: before Linux 6.7 a sealed file cannot be mapped shared
        whole = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        columns: dict[str, Any] = {
            field: np.frombuffer(
                whole,
                dtype="<i8" if field == "time" else "<f8",
                count=n_bars,
                offset=_HEADER_BYTES + at * 8 * n_bars,
            )
            for at, field in enumerate(_FIELDS)
        }
        source = header[_HEADER.size : _HEADER.size + name_bytes].decode("utf-8", "replace")
        return cls(**columns, source=source)


def load_bars(source: str | os.PathLike[str] | Mapping[str, Any] | Bars | object) -> Bars:
    """Read market data and check it.

    Columns are found by their usual names in any case (``Close``, ``c``, ``Adj
    Close`` where there is no other, ``Gmt time``, ``open_time``, …), time also as
    a DataFrame's index or as an unnamed first column. Only close and time are
    required: a missing open, high or low is taken from close, a missing volume
    is 0. Other columns are ignored. A time without a zone is UTC; a date column
    beside a time-of-day column makes a time.

    Parameters
    ----------
    source : path, pandas DataFrame, Arrow table, mapping of arrays, or Bars
        A file is ``.csv``, ``.csv.gz`` or ``.parquet``. CSV is UTF-8 with a
        header, separated by comma, semicolon, tab or bar.

    Returns
    -------
    Bars
        A copy: later changes of ``source`` do not show.

    Raises
    ------
    DataError
        Naming the file and the row, if something is missing, no number, not
        positive, out of order or twice.
    """
    if isinstance(source, Bars):
        return source
    from supervisor.market.ohlcv import read_market  # workers map bars and never read a file

    market = read_market(source)
    columns: dict[str, Any] = {name: getattr(market, name) for name in _FIELDS}
    return Bars(**columns, source=market.source)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Give the array's bytes in little-endian order; no copy on the usual machines."""
    if not len(array):
        return memoryview(b"")
    return array.astype(array.dtype.newbyteorder("<"), copy=False).data.cast("B")


def blocks(fd: int) -> Iterator[bytes]:
    """Yield the bytes of a file, piece by piece."""
    at = 0
    while block := os.pread(fd, _COPY_BYTES, at):
        yield block
        at += len(block)


def _written(slices: Iterable[Mapping[str, NDArray[Any]]], n_bars: int, source: str) -> int:
    """Write columns, slice after slice, into a new memfd and seal it."""
    fd = _new_memfd()
    try:
        name = source.encode(errors="surrogateescape")[: _HEADER_BYTES - _HEADER.size]
        header = _HEADER.pack(_MAGIC, _VERSION, len(name), n_bars) + name
        _write_at(fd, memoryview(header), 0)
        start = 0
        for columns in slices:
            for at, field in enumerate(_FIELDS):
                offset = _HEADER_BYTES + 8 * (at * n_bars + start)
                _write_at(fd, _bytes_of(columns[field]), offset)
            start += len(columns["close"])
        _seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _new_memfd() -> int:
    return os.memfd_create("allstop-bars", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _seal(fd: int) -> None:
    with suppress(OSError):  # some sandboxes know no seals: then only good manners protect
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
