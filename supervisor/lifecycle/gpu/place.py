"""Where a run computes: which stack, and which GPU for each worker.

A device's text (:mod:`supervisor.records.device`) is resolved here, on the machine that
computes: for a sweep on a cluster inside the job, not on the login node. GPUs are found with
NVML, which opens none of them; whether CuPy and PyTorch are installed is looked up without
importing them. So neither the front nor the warden ever has a CUDA context, which a forked
worker could not use.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace

from supervisor.errors import ConfigError
from supervisor.lifecycle import checks
from supervisor.lifecycle.gpu import speed
from supervisor.lifecycle.gpu.choice import HiddenGpuError, NoGpuError, asked_gpus, named
from supervisor.records.device import AUTO, DeviceRequest, Stack, Where, parse_device
from supervisor.records.plan import Plan, Source
from supervisor.system import gpu_files
from supervisor.system.gpus import Gpu
from supervisor.system.install import advice


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a run computes.

    Attributes
    ----------
    plan : Plan
        With ``stack``, ``devices`` and what follows from them.
    notes : tuple of str
        Remarks for the report: why a GPU that is there is not used.
    """

    plan: Plan
    notes: tuple[str, ...] = ()


def place(plan: Plan, left: int, cores: int) -> Placed:
    """Choose stack and devices for what a plan asks for.

    Parameters
    ----------
    plan : Plan
        The plan; its ``device`` is what was asked for.
    left : int
        Combinations that are still to be computed.
    cores : int
        Workers, if it is computed on the CPU. On GPUs there is one each, or as many as were
        asked for.

    Raises
    ------
    ConfigError
        If a GPU or a library was asked for and is not there. Never for ``auto``.
    """
    asked = parse_device(plan.device)
    if plan.source is not Source.BUILT_IN:
        return _place_function(plan, asked, cores)
    if asked.text == AUTO:
        return _place_auto(plan, left, cores)
    if asked.stack is Stack.TORCH:
        return _place_torch(plan, asked, cores)
    if asked.where is Where.CPU:
        return Placed(_on_cpu(plan, cores, "as asked: cpu"))
    _need(Stack.CUPY, asked.text)
    gpus = _asked_gpus(asked)
    return Placed(_on_gpus(plan, Stack.CUPY, gpus, f"as asked: {named(gpus)}, by CuPy"))


def refuse_for_function(asked: DeviceRequest, source: Source) -> None:
    """Refuse a device that a strategy function cannot have.

    Raises
    ------
    ConfigError
        For ``torch``, which stands for our own PyTorch backtests.
    """
    if source is Source.BUILT_IN or asked.stack is not Stack.TORCH:
        return
    instead = asked.text.partition(":")[2] or "cuda"
    raise ConfigError(
        f"device {asked.text} is for the built-in strategies; a function chooses PyTorch "
        f"itself: give --device {instead}, and it computes on "
        f"{'the CPU' if instead == 'cpu' else 'the GPU that its worker is given'}",
        key="device",
    )


def _place_function(plan: Plan, asked: DeviceRequest, cores: int) -> Placed:
    if asked.where is not Where.GPU:
        return Placed(_on_cpu(plan, cores, "the function chooses for itself"))
    gpus = _asked_gpus(asked)
    why = f"as asked: {named(gpus)}, by the function itself"
    return Placed(_on_gpus(plan, Stack.NUMBA, gpus, why))


def _place_torch(plan: Plan, asked: DeviceRequest, cores: int) -> Placed:
    _need(Stack.TORCH, asked.text)
    if asked.where is Where.CPU:
        return Placed(_on_cpu(plan, cores, "as asked: PyTorch on the CPU", Stack.TORCH))
    try:
        if cpu_only_torch():
            raise NoGpuError("the installed PyTorch is a build for the CPU only")  # noqa: TRY301
        gpus = asked_gpus(asked)
    except NoGpuError as why:
        if asked.where is Where.GPU:
            raise _no_gpu(asked, why) from None
        return Placed(_on_cpu(plan, cores, f"PyTorch on the CPU: {why}", Stack.TORCH))
    why_there = f"as asked: {named(gpus)}, by PyTorch"
    return Placed(_on_gpus(plan, Stack.TORCH, gpus, why_there))


def _place_auto(plan: Plan, left: int, cores: int) -> Placed:
    pays, why = _pays(plan, left, cores)
    if not pays:
        return Placed(_on_cpu(plan, cores, f"the CPU: {why}"))
    try:
        gpus = asked_gpus(parse_device(AUTO))
    except HiddenGpuError as hidden:
        return Placed(_on_cpu(plan, cores, f"the CPU: {hidden}"))
    except NoGpuError as none:
        on_cpu = _on_cpu(plan, cores, f"the CPU: {none}")
        if not gpu_files.present():
            return Placed(on_cpu)
        return Placed(on_cpu, (f"computed on the CPU although this machine has a GPU: {none}",))
    if not installed(Stack.CUPY):
        note = (
            f"computed on the CPU although there is {named(gpus)}: CuPy is not installed: "
            f"{_how_to_install(Stack.CUPY)}"
        )
        return Placed(_on_cpu(plan, cores, "the CPU: CuPy is not installed"), (note,))
    chosen = _on_gpus(plan, Stack.CUPY, gpus, f"{named(gpus)}, by CuPy: {why}")
    return Placed(replace(chosen, fallback_workers=cores))


def _pays(plan: Plan, left: int, workers: int) -> tuple[bool, str]:
    """Whether a GPU is expected to be faster than the CPU, its start included, and why."""
    work = float(left) * plan.n_bars
    known = speed.recall()
    if known.gpu_start_s is None:
        pays = work >= speed.LEAST_WORK
        least = -(-speed.LEAST_WORK // plan.n_bars)
        return pays, (
            f"{left:,} combinations of {plan.n_bars:,} bars, and a GPU is expected to pay from "
            f"{least:,} on (an estimate: no GPU has been measured on this machine)"
        )
    cpu_s = known.cpu_s(plan.strategy, work, workers)
    least_s = speed.START_FACTOR * known.gpu_start_s
    return cpu_s > least_s, (
        f"an estimated {cpu_s:.3g} s on {workers} core{'s' * (workers > 1)}, and a GPU pays from "
        f"{least_s:.3g} s on (its worker took {known.gpu_start_s:.3g} s to start)"
    )


def _asked_gpus(asked: DeviceRequest) -> list[Gpu]:
    try:
        return asked_gpus(asked)
    except NoGpuError as why:
        raise _no_gpu(asked, why) from None


def _no_gpu(asked: DeviceRequest, why: NoGpuError) -> ConfigError:
    instead = "torch:cpu" if asked.stack is Stack.TORCH else "cpu"
    return ConfigError(
        f"device {asked.text}: {why}; give --device {instead} to compute on the CPU", key="device"
    )


# -- which libraries -------------------------------------------------------

_MODULE = {Stack.CUPY: ("cupy", "CuPy", "cuda13"), Stack.TORCH: ("torch", "PyTorch", "torch")}


def installed(stack: Stack) -> bool:
    """Whether a stack's library is installed; it is not imported."""
    return stack not in _MODULE or importlib.util.find_spec(_MODULE[stack][0]) is not None


def cpu_only_torch() -> bool:
    """Whether the installed PyTorch says in its version that it is built without CUDA."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _need(stack: Stack, text: str) -> None:
    if installed(stack):
        return
    raise ConfigError(
        f"device {text} needs {_MODULE[stack][1]}, which is not installed: "
        f"{_how_to_install(stack)}",
        key="device",
    )


def _how_to_install(stack: Stack) -> str:
    older = "; for a driver of CUDA 12, cuda12 in its place" if stack is Stack.CUPY else ""
    return advice(_MODULE[stack][2]) + older


# -- the plan --------------------------------------------------------------


def _on_cpu(plan: Plan, cores: int, why: str, stack: Stack = Stack.NUMBA) -> Plan:
    return replace(
        plan,
        workers=cores,
        stack=stack,
        devices=(),
        spare_devices=(),
        device_why=why,
        fallback_workers=0,
    )


def _on_gpus(plan: Plan, stack: Stack, gpus: Sequence[Gpu], why: str) -> Plan:
    """Give each worker a GPU, in turn; one worker per GPU where their number was left to us."""
    uuids = [gpu.uuid for gpu in gpus][: checks.MAX_WORKERS]
    workers = plan.workers_asked or len(uuids)
    return replace(
        plan,
        workers=workers,
        stack=stack,
        devices=tuple(uuids[slot % len(uuids)] for slot in range(workers)),
        spare_devices=tuple(uuids[workers:]),
        device_why=why,
        fallback_workers=0,
    )
