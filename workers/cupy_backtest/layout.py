"""What kernels are passed, as NumPy sees it: the structs of ``source/layout.cuh``, byte for byte.

A pointer is a ``u8`` that holds a device address. ``tests/unit/test_cupy_device.py`` compares
every offset with what a C++ compiler says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from workers.cupy_backtest.device import Buffer

Struct = NDArray[np.void]
"""One struct, shape (): passed to a kernel by value."""

Fields = Sequence[tuple[str, str]]


def _struct(fields: Fields) -> np.dtype[np.void]:
    return np.dtype(list(fields), align=True)


TABLES = _struct(
    [
        *((name, "u8") for name in ("close", "entries", "exits", "spans", "falls", "tiles")),
        *((name, "f8") for name in ("entry_factor", "exit_factor")),
        *((name, "f8") for name in ("unit_sum", "unit_squares", "bars_per_year")),
        *((name, "i4") for name in ("n_bars", "n_tiles", "n_blocks", "unused")),
    ]
)
STOP = _struct([("flag", "u8"), ("seen", "u8"), ("unfinished", "u8")])
BATCH = _struct([("rows", "u8"), ("n", "i4"), ("unused", "i4")])
CROSSES = _struct(
    [
        *((name, "u8") for name in ("sums", "ranges", "fast", "slow", "fast_at", "slow_at")),
        *((name, "i4") for name in ("front", "reach", "n_windows", "unused")),
    ]
)
RANGES = _struct(
    [
        *((name, "u8") for name in ("sums", "windows", "ranges")),
        *((name, "i4") for name in ("front", "n_bars", "n_tiles", "n_windows")),
    ]
)
SIGNALS = _struct(
    [
        *((name, "u8") for name in ("enter", "leave", "enter_at", "leave_at")),
        *((name, "i4") for name in ("n_enter", "n_leave")),
    ]
)
LEVELS = _struct(
    [
        *((name, "u8") for name in ("prices", "windows", "bounds", "above", "words")),
        *((name, "i4") for name in ("n_bars", "n_rows")),
    ]
)
BANDS = _struct(
    [
        *((name, "u8") for name in ("prices", "windows", "shifts", "widths")),
        *((name, "u8") for name in ("numerators", "denominators", "above", "words")),
        *((name, "i4") for name in ("n_bars", "n_rows")),
    ]
)
LADDER = _struct([("ladder", "u8"), ("n_bars", "i4"), ("level", "i4")])
BREAKOUTS = _struct(
    [
        *((name, "u8") for name in ("close", "ladder", "windows", "words")),
        *((name, "i4") for name in ("n_bars", "n_rows")),
    ]
)

STRUCTS = {
    "Tables": TABLES,
    "Stop": STOP,
    "Batch": BATCH,
    "Crosses": CROSSES,
    "Ranges": RANGES,
    "Signals": SIGNALS,
    "Levels": LEVELS,
    "Bands": BANDS,
    "Ladder": LADDER,
    "Breakouts": BREAKOUTS,
}
"""Each struct by the name that it has in ``layout.cuh``."""

KERNELS = {
    "sweep_crosses": (TABLES, STOP, CROSSES, BATCH),
    "sweep_crosses_far": (TABLES, STOP, CROSSES, BATCH),
    "sweep_crosses_wide": (TABLES, STOP, CROSSES, BATCH),
    "fill_ranges": (STOP, RANGES),
    "sweep_signals": (TABLES, STOP, SIGNALS, BATCH),
    "fill_bands": (STOP, BANDS),
    "fill_rsi": (STOP, LEVELS),
    "raise_ladder": (STOP, LADDER),
    "fill_breakouts": (STOP, BREAKOUTS),
}
"""What each kernel takes, in order."""

SOURCES = {
    "crosses": ("sweep_crosses", "sweep_crosses_far", "sweep_crosses_wide", "fill_ranges"),
    "signals": ("sweep_signals",),
    "fills": ("fill_bands", "fill_rsi", "raise_ladder", "fill_breakouts"),
}
"""Which kernels each file of ``source/`` has."""

STAGED = frozenset({"sweep_crosses"})
"""Kernels that are launched with dynamic shared memory."""

RANGE_BYTES = 8
"""Bytes of a ``Range``: two float32."""

MOST_THREADS = 256
"""Threads of a block: kernels are compiled for no more."""


def struct(dtype: np.dtype[np.void], **fields: Buffer | int | float) -> Struct:
    """One struct with these fields; those that are left out are 0, a null pointer among them.

    Parameters
    ----------
    dtype : dtype
        One of :data:`STRUCTS`.
    **fields : Buffer, int or float
        A buffer stands for its address.
    """
    made = np.zeros((), dtype)
    for name, value in fields.items():
        made[name] = _plain(value)
    return made


def _plain(value: Buffer | int | float) -> Any:
    return value if isinstance(value, (int, float, np.number)) else value.address
