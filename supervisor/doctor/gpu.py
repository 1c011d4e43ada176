"""NVIDIA GPUs: driver, devices, what limits their figures, and who holds their memory.

CUDA is tried in a short-lived process: this one neither loads its library nor makes a context.
Where there is no driver, only :func:`cuda` has something to say.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.doctor.ask import output_of, try_out
from supervisor.doctor.finding import Finding, Status
from supervisor.system import gpu_files
from supervisor.system.gpus import DeviceMemory, Gpu, ProcessList
from supervisor.system.nvml_errors import NvmlUnavailable, in_wsl

_MB = 2**20
_MPS = "nvidia-cuda-mps"
_UNEXPLAINED_BYTES = 2**30
"""More than an idle device uses by itself; an estimate."""

_CUDA_FIXES = {
    "CUDA_ERROR_NO_DEVICE": "see whether CUDA_VISIBLE_DEVICES hides the devices",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "reboot: the driver was updated while it was in use",
    "CUDA_ERROR_SYSTEM_NOT_READY": "start nvidia-fabricmanager",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "remove the cuda-compat libraries",
}
_CUDA_FIX = "as root: nvidia-modprobe -u -c0; then see dmesg for an Xid"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device with what NVML says of it; ``why``: what it does not say."""

    gpu: Gpu
    memory: DeviceMemory | None = None
    processes: ProcessList | None = None
    persistent: bool | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What NVML says of this machine; ``why`` and ``fix``: it says nothing."""

    driver: str = ""
    cuda: str = ""
    devices: list[DeviceFacts] = field(default_factory=list)
    divided: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    why: str = ""
    fix: str = ""


_lock = threading.Lock()
_surveys: list[Survey] = []


def survey() -> Survey:
    """Ask NVML, once for all checks: without a persistent driver that takes seconds."""
    with _lock:
        if not _surveys:
            _surveys.append(ask_nvml())
        return _surveys[0]


def ask_nvml() -> Survey:
    """Ask NVML for everything that the checks need."""
    from supervisor.system.nvml import Nvml

    try:
        nvml = Nvml.open()
    except NvmlUnavailable as error:
        return Survey(why=error.why, fix=error.fix)
    try:
        unreachable = nvml.unreachable()
        gpus, divided = nvml.devices(), nvml.divided()
        devices = []
        for gpu in gpus:
            try:
                told = nvml.memory(gpu.uuid), nvml.processes(gpu.uuid), nvml.persistent(gpu.uuid)
                devices.append(DeviceFacts(gpu, *told))
            except NvmlUnavailable as error:
                devices.append(DeviceFacts(gpu, why=error.why))
        return Survey(nvml.driver_version, nvml.cuda_version, devices, divided, unreachable)
    except NvmlUnavailable as error:
        return Survey(why=error.why, fix=error.fix)
    finally:
        with contextlib.suppress(NvmlUnavailable):
            nvml.close()


def driver_present() -> bool:
    """Whether there is any trace of an NVIDIA driver."""
    return gpu_files.present() or shutil.which("nvidia-smi") is not None


# -- checks --------------------------------------------------------------------------------------


def cuda() -> Finding:
    """Check the NVIDIA driver, and that CUDA starts."""
    works, said = try_out("cuda")
    if not works and not driver_present():
        return Finding("CUDA", Status.INFO, "no NVIDIA driver: runs compute on the CPU")
    found = survey()
    version = f"driver {found.driver}, which runs CUDA up to {found.cuda}" if found.driver else ""
    if not works and not said.startswith("CUDA_"):
        return Finding(
            "CUDA",
            Status.WARNING,
            "; ".join(filter(None, [version, f"CUDA cannot be tried: {said}"])),
            "install the driver, or start the container with --gpus all",
        )
    if not works:
        error = said.split()[0]
        what = "; ".join(filter(None, [version, f"CUDA does not start: {error}"]))
        return Finding("CUDA", Status.WARNING, what, _CUDA_FIXES.get(error, _CUDA_FIX))
    return Finding("CUDA", Status.OK, version or f"driver that runs CUDA up to {said}")


def devices() -> Finding | None:
    """Name each device, and the memory in use on it."""
    if not driver_present():
        return None
    found = survey()
    if found.why:
        return Finding("  GPUs", Status.WARNING, f"{found.why}: VRAM cannot be measured", found.fix)
    if not (found.devices or found.unreachable):
        return Finding(
            "  GPUs",
            Status.WARNING,
            "NVML shows no device that this user can compute on",
            "see nvidia-smi; or start the container with --gpus all",
        )
    facts = "; ".join([*map(_described, found.devices), *found.unreachable])
    if found.unreachable or any(one.why for one in found.devices):
        fix = "see dmesg for its Xid; reset the GPU or reboot"
        return Finding("  GPUs", Status.PROBLEM, facts, fix)
    return Finding("  GPUs", Status.OK, facts)


def _described(one: DeviceFacts) -> str:
    if one.memory is None:
        return f"{one.gpu.label}: {one.why}"
    figures = f"{one.memory.used_bytes / _MB:,.0f} of {one.memory.total_bytes / _MB:,.0f} MB used"
    kept = ", with what the driver keeps for itself" if one.memory.source == "v1" else ""
    return f"{one.gpu.label}: {figures}{kept}"


def persistence() -> Finding | None:
    """Check that the devices stay initialised while nothing uses them."""
    found = survey() if driver_present() else Survey()
    known = [one for one in found.devices if one.persistent is not None]
    if not known:
        return None
    off = sorted({one.gpu.index for one in known if not one.persistent})
    if not off:
        return Finding("  persistence", Status.OK, "persistence mode is on")
    return Finding(
        "  persistence",
        Status.WARNING,
        f"persistence mode is off on GPU {_numbers(off)}: each first use initialises it, which "
        "takes seconds",
        "as root: nvidia-smi -pm 1, or start nvidia-persistenced",
    )


def mig() -> Finding | None:
    """Name the GPUs that are divided, and the instances that can be used."""
    found = survey() if driver_present() else Survey()
    if not found.divided:
        return None
    usable = [one.gpu.uuid for one in found.devices if one.gpu.mig]
    what = f"divided (MIG): {', '.join(found.divided)}; usable instances: "
    if usable:
        return Finding("  MIG", Status.INFO, what + ", ".join(usable))
    return Finding(
        "  MIG",
        Status.WARNING,
        f"{what}none",
        "as root: nvidia-smi mig -cgi PROFILE -C makes one; or ask for access to one",
    )


def mps() -> Finding | None:
    """Check for MPS, under which a killed process may harm others on the same GPU."""
    if not driver_present():
        return None
    daemons = _running(_MPS)
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "")
    if not daemons and not (pipes and Path(pipes).is_dir()):
        return None
    where = [
        f"pid {', '.join(map(str, daemons))}" if daemons else "",
        pipes and f"pipes in {pipes}",
    ]
    return Finding(
        "  MPS",
        Status.WARNING,
        f"MPS is in use ({'; '.join(filter(None, where))}): killing one of its clients may end "
        "the work of the others",
        "use a longer --grace, so that no worker is killed; or end MPS: "
        "echo quit | nvidia-cuda-mps-control",
    )


def sandbox() -> Finding | None:
    """Name what hides other processes from the driver's figures."""
    if not driver_present():
        return None
    facts = []
    if in_wsl():
        facts.append("WSL: the driver tells no bytes per process")
    if _in_gvisor():
        facts.append("gVisor: the driver shows all processes of the sandbox as one")
    elif not gpu_files.sees_all_processes():
        facts.append("container: the driver lists only the container's own processes")
    if not facts:
        return None
    return Finding(
        "  GPU figures",
        Status.INFO,
        f"{'; '.join(facts)}: what others take on a GPU may not be told apart from a run's own",
    )


def holders() -> Finding | None:
    """Look for processes that hold GPU memory without an owner."""
    if not driver_present():
        return None
    seen = gpu_files.look_for_holders()
    users = [one for one in seen.holders if one.cuda]
    dead_runs = set(gpu_files.ownerless_runs())
    ours = [one for one in users if one.run_id in dead_runs]
    orphans = [one for one in users if one.orphan and one not in ours]
    name = "GPU holders"
    if ours:
        listed = ", ".join(f"{one.described()} of run {one.run_id}" for one in ours)
        fix = "allstop reap ends them"
        return Finding(name, Status.WARNING, f"left by dead runs: {listed}", fix)
    if orphans:
        listed = ", ".join(one.described() for one in orphans)
        pids = " ".join(str(one.who.pid) for one in orphans)
        fix = f"if they are yours and not wanted: kill {pids}"
        return Finding(name, Status.WARNING, f"their parents have probably died: {listed}", fix)
    if unexplained := _unexplained(users, hidden=seen.hidden):
        fix = "look on the host, or as root: a forked child may hold a dead parent's memory"
        return Finding(name, Status.WARNING, unexplained, fix)
    count = f"{len(users)} process{'es' * (len(users) != 1)} with CUDA open"
    return Finding(name, Status.OK, f"{count}, none without an owner")


def _unexplained(users: list[gpu_files.Holder], *, hidden: int) -> str:
    """Describe devices whose memory is in use although no process is seen on them."""
    found = [
        one
        for one in survey().devices
        if one.memory is not None
        and one.memory.used_bytes > _UNEXPLAINED_BYTES
        and not (one.processes and one.processes.bytes_of)
        and not any(user.may_hold(one.gpu.minor) for user in users)
    ]
    if not found:
        return ""
    unseen = f" ({hidden} processes could not be looked into)" if hidden else ""
    return f"memory in use, but no process is seen on {'; '.join(map(_described, found))}{unseen}"


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _running(name: str) -> list[int]:
    """Return the pids of the processes whose name begins like this."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if entry.read_text(errors="replace").startswith(name):
                found.append(int(entry.parent.name))
    return sorted(found)


def _in_gvisor() -> bool:
    code, said = output_of("dmesg")
    return code == 0 and "gVisor" in said


Check = Callable[[], Finding | None]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("CUDA", cuda),
    ("  GPUs", devices),
    ("  persistence", persistence),
    ("  MIG", mig),
    ("  MPS", mps),
    ("  GPU figures", sandbox),
    ("GPU holders", holders),
)
"""In the order in which they are shown."""
