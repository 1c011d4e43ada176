"""Where a run computes: which stack, and which GPU for each worker.

A device's text (:mod:`supervisor.records.placement`) is resolved here, on the machine that
computes: for a sweep on a cluster inside the job, not on the login node. GPUs are found with
NVML, which opens none of them; whether CuPy and PyTorch are installed is looked up without
importing them. So neither the front nor the warden ever has a CUDA context, which a forked
worker could not use.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from supervisor.errors import ConfigError
from supervisor.lifecycle import checks, device_speed
from supervisor.records.placement import AUTO, DeviceRequest, Stack, Where, parse_device
from supervisor.records.plan import Plan, Source
from supervisor.system.install import advice

VISIBLE = "CUDA_VISIBLE_DEVICES"


class GpuLike(Protocol):
    """A GPU, or an instance of one, as NVML lists it."""

    @property
    def uuid(self) -> str:
        """``GPU-…`` or ``MIG-…``."""
        ...

    @property
    def index(self) -> int:
        """Its number in the order of the PCI bus."""
        ...

    @property
    def name(self) -> str:
        """Its product name."""
        ...


class NoGpuError(Exception):
    """There is no GPU that the run could use; the text says why, in half a line."""


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
    return Placed(_on_gpus(plan, Stack.CUPY, gpus, f"as asked: {_named(gpus)}, by CuPy"))


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
    why = f"as asked: {_named(gpus)}, by the function itself"
    return Placed(_on_gpus(plan, Stack.NUMBA, gpus, why))


def _place_torch(plan: Plan, asked: DeviceRequest, cores: int) -> Placed:
    _need(Stack.TORCH, asked.text)
    if asked.where is Where.CPU:
        return Placed(_on_cpu(plan, cores, "as asked: PyTorch on the CPU", Stack.TORCH))
    try:
        if cpu_only_torch():
            raise NoGpuError("the installed PyTorch is a build for the CPU only")  # noqa: TRY301
        gpus = choose(asked, find_gpus(), os.environ.get(VISIBLE))
    except NoGpuError as why:
        if asked.where is Where.GPU:
            raise _no_gpu(asked.text, why) from None
        return Placed(_on_cpu(plan, cores, f"PyTorch on the CPU: {why}", Stack.TORCH))
    why_there = f"as asked: {_named(gpus)}, by PyTorch"
    return Placed(_on_gpus(plan, Stack.TORCH, gpus, why_there))


def _place_auto(plan: Plan, left: int, cores: int) -> Placed:
    pays, why = _pays(plan, left, cores)
    if not pays:
        return Placed(_on_cpu(plan, cores, f"the CPU: {why}"))
    try:
        gpus = choose(parse_device(AUTO), find_gpus(), os.environ.get(VISIBLE))
    except NoGpuError as none:
        return Placed(_on_cpu(plan, cores, f"the CPU: {none}"))
    if not installed(Stack.CUPY):
        note = (
            f"computed on the CPU although there is {_named(gpus)}: CuPy is not installed; "
            f"{advice(_CUDA_EXTRA)} installs it"
        )
        return Placed(_on_cpu(plan, cores, "the CPU: CuPy is not installed"), (note,))
    chosen = _on_gpus(plan, Stack.CUPY, gpus, f"{_named(gpus)}, by CuPy: {why}")
    return Placed(replace(chosen, fallback_workers=cores))


def _pays(plan: Plan, left: int, workers: int) -> tuple[bool, str]:
    """Whether a GPU is expected to be faster than the CPU, its start included, and why."""
    work = float(left) * plan.n_bars
    speed = device_speed.recall()
    if speed.gpu_start_s is None:
        pays = work >= device_speed.LEAST_WORK
        least = -(-device_speed.LEAST_WORK // plan.n_bars)
        return pays, (
            f"{left:,} combinations of {plan.n_bars:,} bars, and a GPU is expected to pay from "
            f"{least:,} on (an estimate: no GPU has been measured on this machine)"
        )
    cpu_s = speed.cpu_s(plan.strategy, work, workers)
    least_s = device_speed.START_FACTOR * speed.gpu_start_s
    return cpu_s > least_s, (
        f"an estimated {cpu_s:.3g} s on {workers} core{'s' * (workers > 1)}, and a GPU pays from "
        f"{least_s:.3g} s on (its worker took {speed.gpu_start_s:.3g} s to start)"
    )


# -- which GPUs ------------------------------------------------------------


def find_gpus() -> list[GpuLike]:
    """Return the machine's GPUs as NVML lists them.

    Raises
    ------
    NoGpuError
        If NVML cannot say.
    """
    from supervisor.system.vram import Nvml, NvmlUnavailable

    try:
        nvml = Nvml.open()
    except NvmlUnavailable as error:
        raise NoGpuError(str(error)) from None
    try:
        return list(nvml.devices())
    except NvmlUnavailable as error:
        raise NoGpuError(str(error)) from None
    finally:
        nvml.close()


def choose(asked: DeviceRequest, gpus: Sequence[GpuLike], visible: str | None) -> list[GpuLike]:
    """Choose the GPUs that were asked for among those that are there.

    Parameters
    ----------
    asked : DeviceRequest
        What was asked for.
    gpus : sequence of GpuLike
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
        raise NoGpuError(f"{VISIBLE}={visible} hides every GPU")
    chosen: list[GpuLike] = []
    for item in asked.gpus:
        there = [gpu for gpu in gpus if _is(gpu, item)]
        if not there:
            raise NoGpuError(f"there is no GPU {item}; there are {_listed(gpus)}")
        found = [gpu for gpu in there if gpu in seen]
        if not found:
            raise NoGpuError(f"{VISIBLE}={visible} hides GPU {item}")
        if len(found) > 1:
            raise NoGpuError(f"GPU {item} may be any of {_listed(found)}")
        chosen += found
    if len({gpu.uuid for gpu in chosen}) < len(chosen):
        raise NoGpuError(f"{asked.text} names a GPU twice")
    return chosen or seen


def seen_by_cuda(gpus: Sequence[GpuLike], visible: str | None) -> list[GpuLike]:
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
    left: list[GpuLike] = []
    for word in visible.split(","):
        item: int | str = int(word) if word.strip().isdecimal() else word.strip()
        found = [gpu for gpu in gpus if _is(gpu, item)]
        if len(found) != 1 or found[0] in left:
            break
        left += found
    return left


def _is(gpu: GpuLike, item: int | str) -> bool:
    if isinstance(item, int):
        return gpu.index == item
    return len(item) > len("GPU-") and gpu.uuid.startswith(item)


def _asked_gpus(asked: DeviceRequest) -> list[GpuLike]:
    try:
        return choose(asked, find_gpus(), os.environ.get(VISIBLE))
    except NoGpuError as why:
        raise _no_gpu(asked.text, why) from None


def _no_gpu(text: str, why: NoGpuError) -> ConfigError:
    return ConfigError(f"device {text}: {why}; give --device cpu to compute on the CPU",
                       key="device")  # fmt: skip


def _named(gpus: Sequence[GpuLike]) -> str:
    if len(gpus) == 1:
        return f"{gpus[0].name} ({gpus[0].uuid})"
    names = sorted({gpu.name for gpu in gpus})
    return f"{len(gpus)} GPUs ({', '.join(names)})"


def _listed(gpus: Sequence[GpuLike]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)


# -- which libraries -------------------------------------------------------

_CUDA_EXTRA = "cuda13"
_MODULE = {Stack.CUPY: ("cupy", "CuPy", _CUDA_EXTRA), Stack.TORCH: ("torch", "PyTorch", "torch")}


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
    _, name, extra = _MODULE[stack]
    raise ConfigError(
        f"device {text} needs {name}, which is not installed: {advice(extra)}", key="device"
    )


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


def _on_gpus(plan: Plan, stack: Stack, gpus: Sequence[GpuLike], why: str) -> Plan:
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
