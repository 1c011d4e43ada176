"""Why NVML, the NVIDIA driver's management library, does not answer, and how to fix that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supervisor.errors import AllstopError
from supervisor.system.install import advice

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, NO_DRIVER = 3, 4, 6, 9
NO_LIBRARY, NO_FUNCTION, LOST, RESET_REQUIRED, MISMATCH = 12, 13, 15, 16, 18
"""Codes of ``nvmlReturn_t``."""

LACKING = (NOT_SUPPORTED, NO_PERMISSION, NO_FUNCTION)
"""A figure that this driver does not tell, or not this user."""

_WSL_LIBRARIES = "/usr/lib/wsl/lib"


class NvmlUnavailable(AllstopError):
    """NVML cannot be asked, or does not answer.

    Parameters
    ----------
    why : str
        What is missing, as the end of a sentence.
    fix : str
        What to do about it; empty: nothing is known.
    """

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


class GpuLost(NvmlUnavailable):
    """The driver no longer reaches a device: it fell off the bus, or needs a reset.

    Parameters
    ----------
    uuid : str
        The device; empty: not known.
    """

    def __init__(self, uuid: str) -> None:
        super().__init__(
            f"the driver has lost {f'GPU {uuid}' if uuid else 'a GPU'}",
            "see dmesg for its Xid; reset the GPU or reboot",
        )
        self.uuid = uuid


def in_wsl() -> bool:
    """Whether this is Windows' subsystem for Linux, whose driver tells less."""
    try:
        return "microsoft" in Path("/proc/version").read_text().lower()
    except OSError:
        return False


def not_listed(code: int) -> str:
    """Say why the processes on a device are not known."""
    if code == NO_PERMISSION:
        return "this user may not see which processes use the device"
    return "the driver does not list the processes of this device"


def old_binding(call: str) -> NvmlUnavailable:
    """Say that the Python package lacks a function."""
    return NvmlUnavailable(
        f"the installed nvidia-ml-py is too old: it has no {call}",
        advice("cuda13"),
    )


def unavailable(error: Any, uuid: str = "") -> NvmlUnavailable:
    """Say what an error of NVML's means, and what to do about it."""
    match error.value:
        case code if code in (LOST, RESET_REQUIRED):
            return GpuLost(uuid)
        case code if code == NO_LIBRARY and in_wsl():
            return NvmlUnavailable(
                "libnvidia-ml.so.1 was not found (WSL)",
                f"install NVIDIA's driver for Windows; add {_WSL_LIBRARIES} to LD_LIBRARY_PATH",
            )
        case code if code == NO_LIBRARY:
            return NvmlUnavailable(
                "libnvidia-ml.so.1 was not found: no NVIDIA driver is installed here",
                "install the driver, or start the container with --gpus all",
            )
        case code if code == NO_DRIVER:
            return NvmlUnavailable(
                "the NVIDIA kernel driver is not loaded", "modprobe nvidia; see dmesg"
            )
        case code if code == MISMATCH:
            return NvmlUnavailable(
                "the driver's library and its kernel module have different versions",
                "reboot, or reload the module: the driver was updated while it was in use",
            )
        case code if code == NOT_FOUND:
            return NvmlUnavailable(f"there is no GPU {uuid}", "nvidia-smi -L lists those there are")
        case code if code == NO_PERMISSION:
            return NvmlUnavailable(
                "this user may not open the GPU's device files", "see ls -l /dev/nvidia*"
            )
    return NvmlUnavailable(f"NVML answers: {error}")
