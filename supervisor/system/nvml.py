"""NVML, the driver's management library: the devices, and the bytes in use on them.

NVML makes no CUDA context and allocates nothing on a device, unlike ``cudaMemGetInfo``, so it
may be asked by a process that only watches. Each call may block for as long as the driver tears
down another process: ask from a thread that nothing waits for without a limit.

Only the front, ``lifecycle`` and ``doctor`` use this module: whatever is forked must not have
the library loaded.

References
----------
NVML API Reference, ``nvmlDeviceGetMemoryInfo_v2``, ``nvmlDeviceGetComputeRunningProcesses``;
open-gpu-kernel-modules, ``gpu_rmapi.c`` (which pids are listed), ``os-interface.c``.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from supervisor.system import nvml_errors
from supervisor.system.gpus import DeviceMemory, Gpu, ProcessList, Source
from supervisor.system.install import advice
from supervisor.system.nvml_errors import GpuLost, NvmlUnavailable

__all__ = [
    "DeviceMemory",
    "Gpu",
    "GpuLost",
    "Nvml",
    "NvmlUnavailable",
    "ProcessList",
    "Source",
    "within",
]

_MIG_ON = 1

_RIGHT_BYTES = 565
"""From this driver branch on the bytes of each process are right inside containers, too."""


class Nvml:
    """The driver's management library, open. Safe to use from several threads.

    Parameters
    ----------
    pynvml : module
        The binding, initialised; see :meth:`open`.
    """

    def __init__(self, pynvml: ModuleType) -> None:
        self._nvml = pynvml
        self._handles: dict[str, Any] = {}
        self._version1 = False

    @classmethod
    def open(cls) -> Nvml:
        """Load and initialise the library: some milliseconds, seconds if no GPU is initialised.

        Raises
        ------
        NvmlUnavailable
            If it cannot be used; ``why`` and ``fix`` say what is missing.
        """
        try:
            import pynvml
        except ImportError:
            raise NvmlUnavailable(
                "the Python package nvidia-ml-py is not installed", advice("cuda13")
            ) from None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise nvml_errors.unavailable(error) from None
        return cls(pynvml)

    def close(self) -> None:
        """Give the library back; it stays loaded."""
        self._handles.clear()
        self._ask("nvmlShutdown")

    @property
    def driver_version(self) -> str:
        """The driver's version, such as ``580.142``."""
        return str(self._ask("nvmlSystemGetDriverVersion"))

    @property
    def cuda_version(self) -> str:
        """The newest CUDA that the driver runs, such as ``13.0``."""
        number = int(self._ask("nvmlSystemGetCudaDriverVersion_v2"))
        return f"{number // 1000}.{number % 1000 // 10}"

    def devices(self) -> list[Gpu]:
        """Return the devices on which a process can compute.

        A GPU that is divided (MIG) stands for its instances, which are listed in its place; of
        those, only the ones that this user may use. A device that does not answer is left out, see
        :meth:`unreachable`.
        """
        found: list[Gpu] = []
        for index, handle in self._gpus():
            with contextlib.suppress(NvmlUnavailable):
                found += self._gpu(index, handle)
        return found

    def unreachable(self) -> list[str]:
        """Return a line for each GPU that does not answer, with the reason."""
        said = []
        for index in range(int(self._ask("nvmlDeviceGetCount"))):
            try:
                self._gpu(index, self._ask("nvmlDeviceGetHandleByIndex", index))
            except NvmlUnavailable as error:
                said.append(f"GPU {index}: {error.why}")
        return said

    def divided(self) -> list[str]:
        """Return the names of the GPUs that are in MIG mode."""
        names = []
        for _, handle in self._gpus():
            with contextlib.suppress(GpuLost):
                if self._in_mig_mode(handle):
                    names.append(str(self._ask("nvmlDeviceGetName", handle)))
        return names

    def memory(self, uuid: str) -> DeviceMemory:
        """Return a device's memory; microseconds.

        Raises
        ------
        GpuLost, NvmlUnavailable
            If the device, or the driver, does not answer.
        """
        handle = self._handle(uuid)
        read = self._nvml.nvmlDeviceGetMemoryInfo
        if not self._version1:
            try:
                told = read(handle, version=self._nvml.nvmlMemory_v2)
                return DeviceMemory(int(told.used), int(told.total), "v2")
            except AttributeError:  # a binding without the constant
                self._version1 = True
            except self._nvml.NVMLError as error:
                if error.value not in nvml_errors.LACKING:
                    raise nvml_errors.unavailable(error, uuid) from None
                self._version1 = True
        told = self._ask("nvmlDeviceGetMemoryInfo", handle, uuid=uuid)
        return DeviceMemory(int(told.used), int(told.total), "v1")

    def used_bytes(self, uuid: str) -> int:
        """Return the bytes in use on a device, by all processes; see :meth:`memory`."""
        return self.memory(uuid).used_bytes

    def processes(self, uuid: str) -> ProcessList:
        """Return the processes on a device: milliseconds, during which others' allocations wait.

        Ask at most twice a second.

        Raises
        ------
        GpuLost, NvmlUnavailable
            If the device, or the driver, does not answer.
        """
        handle = self._handle(uuid)
        for version in ("_v3", "_v2"):
            read = getattr(self._nvml, f"nvmlDeviceGetComputeRunningProcesses{version}", None)
            if read is None:
                continue
            try:
                told = read(handle)
            except self._nvml.NVMLError as error:
                if error.value == nvml_errors.NO_FUNCTION:
                    continue
                if error.value in nvml_errors.LACKING:
                    return ProcessList({}, Source.DEVICE, nvml_errors.not_listed(error.value))
                raise nvml_errors.unavailable(error, uuid) from None
            return self._judged([(int(one.pid), one.usedGpuMemory) for one in told])
        return ProcessList({}, Source.DEVICE, nvml_errors.not_listed(nvml_errors.NO_FUNCTION))

    def _judged(self, told: list[tuple[int, int | None]]) -> ProcessList:
        bytes_of: dict[int, int | None] = {}
        for pid, used in told:
            # a process may be listed twice, with the same bytes
            before = bytes_of.get(pid)
            bytes_of[pid] = used if before is None else max(before, used or 0)
        if any(used is None for used in bytes_of.values()):
            where = " under WSL" if nvml_errors.in_wsl() else ""
            why = f"the driver does not tell the bytes of a process{where}"
            return ProcessList(bytes_of, Source.DEVICE, why)
        if any(used == 0 for used in bytes_of.values()):
            version = self.driver_version
            branch = int((re.match(r"\d+", version) or ["0"])[0])
            known = "in containers, " if branch < _RIGHT_BYTES else ""
            why = f"driver {version} tells 0 bytes for processes that hold some"
            why += f" ({known}fixed in {_RIGHT_BYTES})" if known else ""
            return ProcessList(dict.fromkeys(bytes_of), Source.DEVICE, why)
        return ProcessList(bytes_of, Source.PROCESS)

    def persistent(self, uuid: str) -> bool | None:
        """Whether a device stays initialised while nothing uses it; None: not told."""
        try:
            handle = self._handle(uuid)
            return bool(self._ask("nvmlDeviceGetPersistenceMode", handle, uuid=uuid))
        except GpuLost:
            raise
        except NvmlUnavailable:
            return None

    # -- devices ---------------------------------------------------------------------------------

    def _gpus(self) -> Iterator[tuple[int, Any]]:
        for index in range(int(self._ask("nvmlDeviceGetCount"))):
            with contextlib.suppress(NvmlUnavailable):  # lost, or not this container's
                yield index, self._ask("nvmlDeviceGetHandleByIndex", index)

    def _gpu(self, index: int, handle: Any) -> list[Gpu]:
        minor = self._minor(handle)
        if not self._in_mig_mode(handle):
            return [self._described(index, handle, minor, mig=False)]
        instances = []
        for number in range(int(self._ask("nvmlDeviceGetMaxMigDeviceCount", handle))):
            try:
                instance = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except self._nvml.NVMLError as error:
                if error.value in (nvml_errors.NOT_FOUND, *nvml_errors.LACKING):
                    continue  # no instance there, or none of this user's
                raise nvml_errors.unavailable(error) from None
            instances.append(self._described(index, instance, minor, mig=True))
        return instances

    def _described(self, index: int, handle: Any, minor: int | None, *, mig: bool) -> Gpu:
        uuid = str(self._ask("nvmlDeviceGetUUID", handle))
        self._handles[uuid] = handle
        name = str(self._ask("nvmlDeviceGetName", handle, uuid=uuid))
        return Gpu(uuid, index, name, self.memory(uuid).total_bytes, mig, minor)

    def _in_mig_mode(self, handle: Any) -> bool:
        try:
            current, _ = self._ask("nvmlDeviceGetMigMode", handle)
        except GpuLost:
            raise
        except NvmlUnavailable:
            return False  # a GPU that cannot be divided
        return int(current) == _MIG_ON

    def _minor(self, handle: Any) -> int | None:
        try:
            return int(self._ask("nvmlDeviceGetMinorNumber", handle))
        except GpuLost:
            raise
        except NvmlUnavailable:
            return None

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            found = self._ask("nvmlDeviceGetHandleByUUID", uuid, uuid=uuid)
            self._handles[uuid] = found
        return self._handles[uuid]

    def _ask(self, call: str, *arguments: Any, uuid: str = "") -> Any:
        function = getattr(self._nvml, call, None)
        if function is None:
            raise nvml_errors.old_binding(call)
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            raise nvml_errors.unavailable(error, uuid) from None


def within(patience_s: float, call: Callable[[], None]) -> None:
    """Make a call in a thread, which is left alone if it does not return in time.

    Raises
    ------
    NvmlUnavailable
        If it raised that, or did not return: the driver may be tearing down a process.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=run, name="allstop-vram", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise NvmlUnavailable("no thread can be started to ask NVML") from None
    thread.join(patience_s)
    if thread.is_alive():
        raise NvmlUnavailable(f"NVML has not answered within {patience_s:.1f} s")
    if raised:
        raise raised[0]
