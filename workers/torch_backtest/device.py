"""The device a worker computes on, and what its errors mean."""

from __future__ import annotations

import torch

from supervisor.errors import ConfigError, DeviceLostError
from supervisor.system.install import advice

CONTEXT_BYTES = 512 << 20
"""What a CUDA context and PyTorch's kernels take beside what PyTorch counts: reports of other
projects say 0.3 to 0.5 GB."""

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def open_device(name: str, limit_bytes: int | None) -> torch.device:
    """Make this process compute on a device; called once, in the worker.

    Parameters
    ----------
    name : {"cpu", "cuda"}
        ``"cuda"`` is the first device that is visible.
    limit_bytes : int or None
        Device memory that this process may take, its context included.

    Raises
    ------
    ConfigError
        If this PyTorch has no CUDA, or the limit leaves nothing to compute with.
    DeviceLostError
        If there is no device, or it cannot be opened.
    """
    # sweeps have a worker per core; with two threads each, all wait for each other
    torch.set_num_threads(1)
    if name == "cpu":
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise ConfigError(
            f"PyTorch {torch.__version__} was built without CUDA: uninstall it, "
            f"then {advice('torch')}",
            key="device",
        )
    device = torch.device("cuda", 0)
    try:
        torch.zeros(1, device=device)
        total = torch.cuda.get_device_properties(device).total_memory
    except (RuntimeError, AssertionError) as error:
        raise DeviceLostError(f"PyTorch cannot open the GPU: {first_line(error)}") from None
    if limit_bytes is not None:
        torch.cuda.set_per_process_memory_fraction(fraction_of(limit_bytes, total), device)
    return device


def fraction_of(limit_bytes: int, total_bytes: int) -> float:
    """Share of a device's memory that tensors may take, if the process may take `limit_bytes`.

    Raises
    ------
    ConfigError
        If the context alone takes that much.
    """
    if limit_bytes <= CONTEXT_BYTES:
        raise ConfigError(
            f"a limit of {limit_bytes >> 20:,} MiB of GPU memory leaves nothing to compute with: "
            f"PyTorch itself takes about {CONTEXT_BYTES >> 20} MiB",
            key="vram_limit",
        )
    return min(1.0, (limit_bytes - CONTEXT_BYTES) / total_bytes)


def free_bytes(device: torch.device, limit_bytes: int | None) -> int:
    """Device memory that tensors can still take."""
    free, _ = torch.cuda.mem_get_info(device)
    left = free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if limit_bytes is not None:
        left = min(left, limit_bytes - CONTEXT_BYTES - torch.cuda.memory_allocated(device))
    return int(max(0, left))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an operator failed for want of memory, so that a smaller batch may not."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or getattr(error, "error_code", None) == _OUT_OF_MEMORY
        or "DefaultCPUAllocator" in str(error)  # on the CPU it is a plain RuntimeError
    )


def is_lost(error: RuntimeError) -> bool:
    """Whether CUDA failed: its context is then broken for this process, whatever comes next."""
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def first_line(error: BaseException) -> str:
    """What an error says, without the advice of many lines that PyTorch adds."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
