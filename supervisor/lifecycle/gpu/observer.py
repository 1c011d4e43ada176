"""VRAM of a run's devices: read before, and until it is back; and who holds what is not.

The calls are made where the caller is: see :mod:`supervisor.front.vram` for the thread of a run
that lives, and :mod:`supervisor.lifecycle.gpu.dead_run` for one that is dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from supervisor.lifecycle.gpu import release
from supervisor.lifecycle.gpu.release import Before, Comparison, Held, Now, Whose
from supervisor.records.report import GpuMemory
from supervisor.system import gpu_files
from supervisor.system.gpus import Gpu, ProcessList, Source
from supervisor.system.nvml import Nvml
from supervisor.system.nvml_errors import NvmlUnavailable
from supervisor.system.process import Identity, descendants

LIST_EVERY_S = 0.5
"""Listing a device's processes makes everybody's allocations on it wait for milliseconds."""

_LOOK_EVERY_S = 0.01


@dataclass(slots=True)
class WatchedDevice:
    """A device that a run uses, over time.

    Attributes
    ----------
    before : Before
        Before the run's first process.
    peak_bytes : int
        Largest reading.
    after_bytes : int or None
        Latest reading since the run's end; None: there is none.
    found : Comparison or None
        What that reading says.
    back_at : float or None
        ``time.monotonic()`` instant at which it was back.
    note : str
        Why it cannot be measured any more.
    lost : bool
        The driver does not reach it any more.
    in_use : bool
        A process of the run was seen on it.
    list_at : float
        ``time.monotonic()`` instant from which its processes may be listed again.
    listed_at_bytes : int or None
        Its used bytes when they were listed last, or before the run; None: the run may have
        been on it already when it was first read.
    listed : tuple or None
        That list since the run's end, and whose each process is; None: not listed since.
    """

    before: Before
    peak_bytes: int
    after_bytes: int | None = None
    found: Comparison | None = None
    back_at: float | None = None
    note: str = ""
    lost: bool = False
    in_use: bool = False
    list_at: float = 0.0
    listed_at_bytes: int | None = 0
    listed: tuple[ProcessList, dict[int, Whose]] | None = None

    def __post_init__(self) -> None:
        self.listed_at_bytes = self.before.used_bytes

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.lost or self.back_at is not None

    def report(self, since: float | None) -> GpuMemory:
        """Return its figures; ``since``: ``time.monotonic()`` instant of the request to end."""
        gpu, after = self.before.gpu, self.after_bytes
        notes = [self.note, self.found.why if self.found else ""]
        settled = None if since is None or self.back_at is None else self.back_at - since
        return GpuMemory(
            uuid=gpu.uuid,
            index=gpu.index,
            name=gpu.name,
            baseline_bytes=self.before.used_bytes,
            peak_bytes=self.peak_bytes,
            after_bytes=after,
            freed_bytes=None if after is None else max(0, self.peak_bytes - after),
            back=self.found.back if self.found else None,
            settled_s=None if settled is None else round(max(0.0, settled), 6),
            source=str(self.found.source if self.found else Source.DEVICE),
            note="; ".join(filter(None, notes)),
        )

    def unmeasured(self, why: str) -> GpuMemory:
        """Return what is known of it, after it could not be read."""
        report = self.report(None)
        report.after_bytes = report.freed_bytes = report.back = None
        report.note = why
        return report


@dataclass(slots=True)
class Observer:
    """Reads the devices of one run.

    Attributes
    ----------
    nvml : Nvml
        The library, open.
    run_id : str
        The run.
    ours : dict of Identity
        By pid, processes of the run that were seen on a device; they may have died since.
    """

    nvml: Nvml
    run_id: str
    ours: dict[int, Identity] = field(default_factory=dict)

    def baseline(self, gpu: Gpu) -> Before:
        """Read a device before the run uses it."""
        used = self.nvml.used_bytes(gpu.uuid)
        others, why = release.others_of(*self.list_processes(gpu))
        return Before(gpu, used, others, why)

    def list_processes(self, gpu: Gpu) -> tuple[ProcessList, dict[int, Whose]]:
        """List a device's processes, and whose each is."""
        processes = self.nvml.processes(gpu.uuid)
        return processes, {pid: self.whose(pid) for pid in processes.bytes_of}

    def whose(self, pid: int) -> Whose:
        """Tell whose a listed pid is. NVML may name the dead: its number proves nothing."""
        seen, now = self.ours.get(pid), Identity.of(pid)
        if seen is not None and now in (None, seen):
            return Whose.OURS  # dead: a forked child holds what was its
        if now is None:
            return Whose.NAMELESS
        return Whose.OURS if gpu_files.run_id_of(now) == self.run_id else Whose.FOREIGN

    def sample(self, device: WatchedDevice, warden: int) -> None:
        """Read a device while the run runs, and look whether the run's processes are on it.

        The list is asked for only after the figure has moved: a process that begins to use a
        device takes memory first.
        """
        gpu = device.before.gpu
        try:
            used = self.nvml.used_bytes(gpu.uuid)
            device.peak_bytes = max(device.peak_bytes, used)
            now = time.monotonic()
            last = device.listed_at_bytes
            moved = last is None or abs(used - last) > release.SLACK_BYTES
            if moved and warden and now >= device.list_at:
                device.list_at, device.listed_at_bytes = now + LIST_EVERY_S, used
                device.in_use |= self._find_ours(gpu, warden)
        except NvmlUnavailable as error:
            device.lost, device.note = True, error.why

    def _find_ours(self, gpu: Gpu, warden: int) -> bool:
        processes = self.nvml.processes(gpu.uuid)
        below = {who.pid: who for who in map(Identity.of, descendants(warden)) if who is not None}
        seen = {pid: below[pid] for pid in processes.bytes_of if pid in below}
        self.ours |= seen
        if seen or any(self.whose(pid) is Whose.OURS for pid in processes.bytes_of):
            return True
        unknown = not processes.listed or any(Identity.of(p) is None for p in processes.bytes_of)
        if not unknown:
            return False
        # the driver names no process here: descriptors tell at least that one uses a GPU
        return any(one.may_hold(gpu.minor) for one in gpu_files.look_for_holders([*below]).holders)

    def look(self, device: WatchedDevice) -> None:
        """Read a device after the run's end, and judge whether it is back."""
        now = time.monotonic()
        try:
            new = device.listed is None or now >= device.list_at
            if new:
                self._list_again(device, now)
            found = self._judge(device)
            if found.back and not new:
                # an old list: other processes may have freed since what the run still holds
                self._list_again(device, now)
                found = self._judge(device)
        except NvmlUnavailable as error:
            device.lost, device.note, device.found = True, error.why, None
            return
        device.found = found
        if found.back:
            device.back_at = time.monotonic()

    def _list_again(self, device: WatchedDevice, now: float) -> None:
        device.list_at = now + LIST_EVERY_S
        device.listed = self.list_processes(device.before.gpu)

    def _judge(self, device: WatchedDevice) -> Comparison:
        if device.listed is None:
            raise ValueError("the device's processes were not listed")
        used = device.after_bytes = self.nvml.used_bytes(device.before.gpu.uuid)
        device.peak_bytes = max(device.peak_bytes, used)
        return release.compare(device.before, Now(used, *device.listed))

    def see_back(self, devices: Sequence[WatchedDevice], until: float) -> None:
        """Look at devices until all are back, or the ``time.monotonic()`` instant has come."""
        pause = threading.Event()
        while waiting := [device for device in devices if not device.settled]:
            last = time.monotonic() >= until
            for device in waiting:
                if last:
                    device.list_at = 0.0
                self.look(device)
            if last:
                return
            pause.wait(_LOOK_EVERY_S)


def find_holders(devices: Sequence[WatchedDevice], run_id: str, waited_s: float) -> list[Held]:
    """Find who holds what is missing on the devices that are not back."""
    missing = [(one, one.found) for one in devices if one.found and not one.found.back]
    if not missing:
        return []
    seen = gpu_files.look_for_holders()
    states = [(one, gpu_files.state_of(one)) for one in seen.holders]
    return [
        release.who_holds(
            device.before,
            found,
            run_id,
            states,
            waited_s=waited_s,
            hidden=seen.hidden,
            namespace_only=not gpu_files.sees_all_processes(),
        )
        for device, found in missing
    ]
