"""Whether there is a GPU, and what this machine is: asked of NVML, which opens no context."""

from __future__ import annotations

from typing import Any

from bench.harness.machine import describe_machine, version_of

_PACKAGES = (
    "cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "numba", "numba-cuda", "cuda-bindings",
    "nvidia-ml-py", "llvmlite", "typer", "dill",
)  # fmt: skip


def why_none() -> str:
    """Return why there is no GPU to measure, in one sentence; empty where there is one."""
    from supervisor.system.nvml import Nvml
    from supervisor.system.nvml_errors import NvmlUnavailable

    try:
        nvml = Nvml.open()
    except NvmlUnavailable as error:
        return str(error)
    try:
        return "" if nvml.devices() else "NVML lists no device"
    finally:
        nvml.close()  # open, it would keep the device initialised: a step measures that


def describe() -> dict[str, Any]:
    """Return the machine as in CPU measurements, with its device, driver and GPU libraries."""
    machine = describe_machine()
    machine["versions"] |= {name: version_of(name) for name in _PACKAGES}
    return machine | {"gpu": _device()}


def _device() -> dict[str, Any]:
    """Answers of NVML itself; what it does not answer is left out."""
    try:
        import pynvml as nvml
    except ImportError:
        return {}
    answers: dict[str, Any] = {}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return {}
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    asked = {
        "name": lambda: nvml.nvmlDeviceGetName(handle),
        "driver": nvml.nvmlSystemGetDriverVersion,
        "cuda": nvml.nvmlSystemGetCudaDriverVersion_v2,
        "devices": nvml.nvmlDeviceGetCount,
        "total_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total,
        "persistence_mode": lambda: nvml.nvmlDeviceGetPersistenceMode(handle),
        "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "sm_clock_max_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "pcie_generation": lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
        "pcie_width": lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
    }
    for name, ask in asked.items():
        try:
            answer = ask()
        except nvml.NVMLError:
            continue
        answers[name] = answer.decode() if isinstance(answer, bytes) else answer
    nvml.nvmlShutdown()
    return answers
