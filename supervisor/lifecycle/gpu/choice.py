"""Which of the machine's GPUs a run means, and may have.

NVML lists them without opening one; ``CUDA_VISIBLE_DEVICES`` of the caller hides some.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from supervisor.records.device import DeviceRequest
from supervisor.system.gpus import Gpu

VISIBLE = "CUDA_VISIBLE_DEVICES"

_INDEX = re.compile(r"\d{1,4}", re.ASCII)

PATIENCE_S = 30.0
"""For NVML to list the GPUs: without a persistent driver it initialises one after the other, in
seconds each. It may also never answer."""

_NONSENSE = (OSError, AttributeError, TypeError, ValueError)
"""What an old binding, or an answer that is none, raises."""


class NoGpuError(Exception):
    """There is no GPU that the run could use; the text says why, in half a line."""


class HiddenGpuError(NoGpuError):
    """The caller's environment hides it."""


def asked_gpus(asked: DeviceRequest) -> list[Gpu]:
    """Return the GPUs of this machine that were asked for.

    Raises
    ------
    NoGpuError
        If there are none, or one that was named is not there.
    """
    return choose(asked, find_gpus(), os.environ.get(VISIBLE))


def find_gpus() -> list[Gpu]:
    """Return the machine's GPUs as NVML lists them.

    Raises
    ------
    NoGpuError
        If NVML cannot say.
    """
    from supervisor.system.nvml import Nvml, within
    from supervisor.system.nvml_errors import NvmlUnavailable

    found: list[Gpu] = []

    def ask() -> None:
        nvml = Nvml.open()
        try:
            found.extend(nvml.devices())
        finally:
            nvml.close()

    try:
        within(PATIENCE_S, ask)
    except NvmlUnavailable as error:
        raise NoGpuError(f"{error} ({error.fix})" if error.fix else str(error)) from None
    except _NONSENSE as error:
        raise NoGpuError(f"NVML cannot be understood: {error}") from None
    return found


def choose(asked: DeviceRequest, gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Choose the GPUs that were asked for among those that are there.

    Parameters
    ----------
    asked : DeviceRequest
        What was asked for.
    gpus : sequence of Gpu
        The machine's GPUs.
    visible : str or None
        ``CUDA_VISIBLE_DEVICES`` of the caller.

    Raises
    ------
    NoGpuError
        If one that was asked for is not there or is hidden, or there is none at all.
    """
    if not gpus:
        raise NoGpuError("no GPU was found")
    seen = seen_by_cuda(gpus, visible)
    if not seen:
        raise HiddenGpuError(f"{VISIBLE}={visible} hides every GPU")
    chosen: list[Gpu] = []
    for item in asked.gpus:
        there = [gpu for gpu in gpus if _is(gpu, item)]
        if not there:
            raise NoGpuError(f"there is no GPU {item}; there are {_listed(gpus)}")
        found = [gpu for gpu in there if gpu in seen]
        if not found:
            raise HiddenGpuError(f"{VISIBLE}={visible} hides GPU {item}")
        if len(found) > 1:
            raise NoGpuError(f"GPU {item} may be any of {_listed(found)}")
        chosen += found
    if len({gpu.uuid for gpu in chosen}) < len(chosen):
        raise NoGpuError(f"{asked.text} names a GPU twice")
    return chosen or seen


def seen_by_cuda(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order.

    Numbers are taken in the order of the PCI bus, the only one that NVML knows. CUDA's own
    order differs where a machine has unlike GPUs and ``CUDA_DEVICE_ORDER`` does not say
    ``PCI_BUS_ID``.

    References
    ----------
    CUDA C++ Programming Guide, "CUDA Environment Variables": UUIDs may be shortened, and what
    follows the first invalid entry is invisible.
    """
    if visible is None:
        return list(gpus)
    left: list[Gpu] = []
    for word in visible.split(","):
        name = word.strip()
        found = [gpu for gpu in gpus if _is(gpu, int(name) if _INDEX.fullmatch(name) else name)]
        if len(found) != 1 or found[0] in left:
            break
        left += found
    return left


def _is(gpu: Gpu, item: int | str) -> bool:
    if isinstance(item, int):
        return gpu.index == item
    return len(item) > len("GPU-") and gpu.uuid.startswith(item)


def named(gpus: Sequence[Gpu]) -> str:
    """Return GPUs as messages name them."""
    if len(gpus) == 1:
        return f"{gpus[0].name} ({gpus[0].uuid})"
    names = sorted({gpu.name for gpu in gpus})
    return f"{len(gpus)} GPUs ({', '.join(names)})"


def _listed(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
