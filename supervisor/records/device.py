"""Which device a run asks for: the texts that ``--device`` takes, and what each of them means.

Only the text is read here. Which of the machine's GPUs it stands for is found out where the
run computes (:mod:`supervisor.lifecycle.gpu.place`): a login node has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from supervisor.errors import ConfigError, brief

KNOWN = (
    "auto", "cpu", "cuda", "cuda:0", "cuda:0,1", "cuda:GPU-…",
    "torch", "torch:cpu", "torch:cuda", "torch:cuda:0",
)  # fmt: skip
"""Every way of writing a device, for messages."""

AUTO = "auto"

_INDEX = re.compile(r"\d{1,4}", re.ASCII)
_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{1,80}", re.ASCII)


class Stack(StrEnum):
    """What computes the built-in strategies."""

    NUMBA = "numba"
    """Compiled loops on the CPU."""
    CUPY = "cupy"
    """CUDA kernels; their rows are those of Numba, bit for bit."""
    TORCH = "torch"
    """PyTorch, on the CPU or on GPUs; its rows equal the others' to 1e-9."""

    @property
    def exact(self) -> bool:
        """Whether rows are bit for bit those of the CPU's kernels, so that a run may mix them."""
        return self is not Stack.TORCH


class Where(StrEnum):
    """What kind of device a run asks for."""

    ANY = "any"
    """A GPU where there is one, and for ``auto`` where it pays; otherwise the CPU."""
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a device's text asks for.

    Attributes
    ----------
    text : str
        As it was written.
    stack : Stack or None
        What computes; None: left to us (``auto``).
    where : Where
        On what kind of device.
    gpus : tuple of int or str
        Which GPUs: indices as NVML and ``nvidia-smi`` count, in the order of the PCI bus, or
        UUIDs or the beginnings of one. Empty: every visible one.
    """

    text: str
    stack: Stack | None
    where: Where
    gpus: tuple[int | str, ...] = ()


_PLAIN = {
    AUTO: (None, Where.ANY),
    "cpu": (Stack.NUMBA, Where.CPU),
    "cuda": (Stack.CUPY, Where.GPU),
    "torch": (Stack.TORCH, Where.ANY),
    "torch:cpu": (Stack.TORCH, Where.CPU),
    "torch:cuda": (Stack.TORCH, Where.GPU),
}


def parse_device(value: object, name: str = "device") -> DeviceRequest:
    """Read a device as a user writes it.

    Parameters
    ----------
    value : object
        The text; see :data:`KNOWN`.
    name : str
        What the user calls it, for the message.

    Raises
    ------
    ConfigError
        If it is none of :data:`KNOWN`; lists them.
    """
    if not isinstance(value, str):
        raise _unknown(value, name)
    if value in _PLAIN:
        return DeviceRequest(value, *_PLAIN[value])
    for prefix in ("torch:cuda:", "cuda:"):
        if value.startswith(prefix):
            stack, where = _PLAIN[prefix[:-1]]
            gpus = tuple(_gpu(item, value, name) for item in value[len(prefix) :].split(","))
            if len(set(gpus)) < len(gpus):
                raise ConfigError(f"{name} {brief(value)} names a GPU twice", key="device")
            return DeviceRequest(value, stack, where, gpus)
    raise _unknown(value, name)


def _gpu(item: str, value: str, name: str) -> int | str:
    if _INDEX.fullmatch(item):
        return int(item)
    if _UUID.fullmatch(item):
        return item
    raise _unknown(value, name)


def _unknown(value: object, name: str) -> ConfigError:
    known = ", ".join(KNOWN)
    return ConfigError(f"{name} must be one of {known}, not {brief(value)}", key="device")
