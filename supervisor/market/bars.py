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
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from supervisor.errors import DataError, ProtocolError
from supervisor.market.trading_year import Year, year_of

_FIELDS = ("open", "high", "low", "close", "volume", "time")
_MAGIC = b"fs-bars\0"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQ")
_HEADER_BYTES = 4096  # a page, so that the columns are aligned
_TRAILER = struct.Struct("<8sI")
_TRAILER_MAGIC = b"fs-crc32"
"""In a file, the CRC of all before it: a flipped bit is another price, and other results."""
_NOTE = "\0"
"""Before each note, behind the source: older bars have none."""
_COPY_BYTES = 2**20
_BUFFER_BYTES = 2**18
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
    notes : tuple of str
        Which columns they were taken from, and what was done to them, for people.
    """

    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    time: NDArray[np.int64]
    source: str = "data"
    notes: tuple[str, ...] = ()

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
        return Bars, (*(getattr(self, name) for name in _FIELDS), self.source, self.notes)

    @property
    def nbytes(self) -> int:
        """Size of the six columns."""
        return 6 * 8 * len(self)

    @cached_property
    def bars_per_year(self) -> float:
        """What ratios are annualised with: counted by :func:`~.trading_year.year_of`.

        Daily bars give 365, hourly ones around the clock 8,760, whatever days are missing, as
        vectorbt does by default; 390 bars a session 98,280.
        """
        return self.year().bars

    def year(self, bars_per_year: float | None = None, year_days: int | None = None) -> Year:
        """Count the bars in a year, and say how; see :func:`~.trading_year.year_of`."""
        return year_of(self.time, bars_per_year, year_days)

    def annualised_with(self, bars_per_year: float) -> Bars:
        """The same bars, in the same memory, with another number of bars in a year."""
        # not counted where it was not: that takes a sort of all bars, in each process
        if self.__dict__.setdefault("bars_per_year", bars_per_year) == bars_per_year:
            return self
        columns: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        other = Bars(**columns, source=self.source, notes=self.notes)
        other.__dict__["bars_per_year"] = bars_per_year
        return other

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
        return _written([whole], len(self), _NOTE.join((self.source, *self.notes)))

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
    def from_file(cls, fd: int, *, unchecked: bool = False) -> Bars:
        """Copy bars from a file that holds what :func:`file_blocks` gives, and verify them.

        The copy is what :attr:`memfd` gives: handing it out costs no further one. It is the
        copy that is verified, so that no later change of the file shows.

        Parameters
        ----------
        fd : int
            The file.
        unchecked : bool
            Accept a file of before there were checksums: the caller verifies the digest.

        Raises
        ------
        ProtocolError
            If the file does not hold bars, or not as they were written.
        """
        image_bytes = _image_bytes(os.pread(fd, _HEADER.size, 0), os.fstat(fd).st_size)
        trailer = os.pread(fd, _TRAILER.size + 1, image_bytes)
        if not trailer and not unchecked:
            raise ProtocolError("the bars have no checksum")
        copy, crc = _copied(fd, image_bytes)
        bars = cls._owning(copy)
        if trailer and trailer != _TRAILER.pack(_TRAILER_MAGIC, crc):
            raise ProtocolError("the file has changed since it was written: no checksum match")
        return bars

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
        _image_bytes(header, size)
        _, _, name_bytes, n_bars = _HEADER.unpack_from(header)
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
        label = header[_HEADER.size : _HEADER.size + name_bytes].decode("utf-8", "replace")
        source, *notes = label.split(_NOTE)
        return cls(**columns, source=source, notes=tuple(notes))


def load_bars(
    source: str | os.PathLike[str] | Mapping[str, Any] | Bars | object,
    *,
    columns: str | Iterable[str] | Mapping[str, str] | None = None,
    symbol: str | None = None,
) -> Bars:
    """Read market data and check it; ``docs/data.md`` lists what is understood.

    Columns are found by their usual names in any case (``Close``, ``c``, ``Adj
    Close`` where there is no other, ``Gmt time``, ``open_time``, …), time also as
    a DataFrame's index or as an unnamed first column. Where several could be one, the first
    that has values is taken; :attr:`Bars.notes` says which. Only close and time are
    required: a missing open, high or low is taken from close, a missing volume
    is 0. Other columns are ignored. A time without a zone is UTC; a date column
    beside a time-of-day column makes a time. Rows that are newest first are reversed.

    Parameters
    ----------
    source : path, pandas DataFrame or Series, Arrow table, mapping of arrays, or Bars
        A file is ``.csv``, ``.txt``, ``.tsv``, ``.parquet`` or ``.feather``, the text also
        packed as ``.gz``, ``.bz2``, ``.xz``, ``.zst`` or ``.zip``. CSV is UTF-8,
        separated by comma, semicolon, tab or bar.
    columns : str, sequence or mapping, optional
        What the columns are, by position (``"time,open,high,low,close,volume"``, with ``-`` for
        one that is left out) or by name (``{"close": "Settle"}``, ``"close=Settle"``).
    symbol : str, optional
        The instrument, where the data has several.

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
    # workers map bars and never read a file
    from supervisor.market.asked import Asked, check_columns, check_symbol
    from supervisor.market.ohlcv import read_market

    asked = Asked(check_columns(columns) if columns else "", check_symbol(symbol) if symbol else "")
    market = read_market(source, asked)
    found: dict[str, Any] = {name: getattr(market, name) for name in _FIELDS}
    return Bars(**found, source=market.source, notes=market.notes)


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


def file_blocks(fd: int) -> Iterator[bytes]:
    """Yield what a file holds that keeps a memfd's bars: its bytes, then their checksum."""
    crc = 0
    for block in blocks(fd):
        crc = zlib.crc32(block, crc)
        yield block
    yield _TRAILER.pack(_TRAILER_MAGIC, crc)


def _image_bytes(header: bytes, size: int) -> int:
    """How many of `size` bytes the bars take that have this header.

    Raises
    ------
    ProtocolError
        If it is no header of bars, or they are cut short.
    """
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ProtocolError("the descriptor does not hold bars")
    _, version, _, n_bars = _HEADER.unpack_from(header)
    if version != _VERSION:
        raise ProtocolError(f"the bars are of version {version}, not {_VERSION}")
    image_bytes = int(_HEADER_BYTES + 6 * 8 * n_bars)
    if n_bars < 1 or size < image_bytes:
        raise ProtocolError(f"the bars are cut short: {n_bars} do not fit in {size} bytes")
    return image_bytes


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


def _copied(fd: int, n_bytes: int) -> tuple[int, int]:
    """Copy the beginning of a file into a new memfd and seal it; return that and the CRC.

    Through a small buffer: what was just read is still in the processor's cache for the CRC.
    """
    copy = _new_memfd()
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    crc = at = 0
    try:
        while at < n_bytes and (done := os.preadv(fd, [buffer[: n_bytes - at]], at)):
            crc = zlib.crc32(buffer[:done], crc)
            _write_at(copy, buffer[:done], at)
            at += done
        _seal(copy)
    except BaseException:
        os.close(copy)
        raise
    return copy, crc


def _new_memfd() -> int:
    return os.memfd_create("allstop-bars", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _seal(fd: int) -> None:
    with suppress(OSError):  # some sandboxes know no seals: then only good manners protect
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
