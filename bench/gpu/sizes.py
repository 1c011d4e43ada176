"""Sizes of the GPU measurements: all settings in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

GB = 10**9
_KEEP_FREE = 4 * GB
"""Bytes of a device that are never asked for: contexts, and other users of it."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes; the defaults are those of the published figures.

    Attributes
    ----------
    shots : int
        Stops of a running kernel, per tier.
    overhead_rounds : int
        Interleaved rounds of a kernel with and without its poll.
    tile_us : tuple of float
        Work between two polls, in µs.
    nvml_calls, nvml_lists : int
        Calls of NVML's memory query and of its process list.
    combos : tuple of int
        Combinations at which the rate is taken.
    rate_rounds : int
        Evaluations per rate; the fastest counts as the device's, the median is given.
    hold_gb : tuple of int
        VRAM that a worker holds when it ends, in GB (10**9 bytes).
    deaf_gb, pinned_gb : int
        The same for a kernel that never polls; pinned host memory in the run that has some.
    endings : int
        Rounds of each way to end.
    kills : tuple of int, (first, beyond the last)
        Which of the planned kills are made.
    parallel : int
        Workers that are killed together.
    torch_combos : int
        Combinations at which PyTorch's rate is taken.
    """

    shots: int = 300
    overhead_rounds: int = 9
    tile_us: tuple[float, ...] = (10.0, 100.0, 300.0)
    nvml_calls: int = 1000
    nvml_lists: int = 50
    combos: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    rate_rounds: int = 3
    hold_gb: tuple[int, ...] = (1, 20, 70)
    deaf_gb: int = 20
    pinned_gb: int = 8
    endings: int = 3
    kills: tuple[int, int] = (0, 200)
    parallel: int = 4
    torch_combos: int = 4_000

    @classmethod
    def quick(cls) -> Self:
        """Sizes for a check that every step works, without figures to quote."""
        return cls(
            shots=20,
            overhead_rounds=2,
            tile_us=(10.0,),
            nvml_calls=50,
            nvml_lists=3,
            combos=(1_000, 10_000),
            rate_rounds=1,
            hold_gb=(1,),
            deaf_gb=1,
            pinned_gb=1,
            endings=1,
            kills=(0, 8),
            torch_combos=200,
        )


def fitting(hold_gb: Sequence[int], free_bytes: int) -> tuple[int, ...]:
    """Return the sizes that a device's free memory has room for; at least half of it, once.

    Examples
    --------
    >>> fitting((1, 20, 70), 139 * GB)
    (1, 20, 70)
    >>> fitting((1, 20, 70), 24 * GB)
    (1, 20)
    >>> fitting((20, 70), 8 * GB)
    (4,)
    """
    room = max(0, free_bytes - _KEEP_FREE) // GB
    return tuple(size for size in hold_gb if size <= room) or (max(1, room),)
