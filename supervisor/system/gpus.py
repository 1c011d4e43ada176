"""Devices, their memory and the processes on them, as values; what is not told is None."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Where a figure comes from."""

    PROCESS = "process"
    """The driver tells the bytes of each process."""
    DEVICE = "device"
    """Only the whole device's bytes are known."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device on which a process can compute.

    Attributes
    ----------
    uuid : str
        ``GPU-…`` or ``MIG-…``: the same for NVML, CUDA and ``CUDA_VISIBLE_DEVICES``.
    index : int
        Its place in NVML's order (PCI), from 0; a MIG instance has its GPU's.
    name : str
        The product's.
    total_bytes : int
        Its memory.
    mig : bool
        Whether it is a MIG instance.
    minor : int or None
        N of ``/dev/nvidiaN``; None: not known.
    """

    uuid: str
    index: int
    name: str
    total_bytes: int
    mig: bool = False
    minor: int | None = None

    @property
    def label(self) -> str:
        """The device as messages name it."""
        return f"GPU {self.index} ({self.name}, {self.uuid})"


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of a device, used by any process.

    Attributes
    ----------
    used_bytes : int
        What processes have allocated, their contexts included.
    total_bytes : int
        All of it.
    source : str
        ``v2``; or ``v1`` from a driver that does not have the newer call: then what the driver
        keeps for itself is counted as used, in each reading alike.
    """

    used_bytes: int
    total_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class ProcessList:
    """The processes that have a compute context on a device.

    Attributes
    ----------
    bytes_of : dict
        By pid, as this process's PID namespace knows it, the bytes in use; None: not told. A
        pid may be that of a dead process whose forked child keeps the context.
    source : Source
        ``process``: all bytes are known; ``device``: not all.
    why : str
        Why not; empty: they are.
    """

    bytes_of: dict[int, int | None]
    source: Source
    why: str = ""

    @property
    def listed(self) -> bool:
        """Whether the driver lists processes at all."""
        return self.source is Source.PROCESS or bool(self.bytes_of)
