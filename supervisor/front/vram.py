"""VRAM of a run's devices, watched from a thread: before, peak, and until it is back.

A call to NVML may block while the driver tears down another process. So a thread makes them all,
and nothing waits for it without a limit: a stop is neither delayed nor kept from its end.

A run whose plan names its devices is watched on those. One of a user's function or of a command
may use any: it is reported on those on which one of its processes was seen. No other run loads
NVML.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.records.command import AnyPlan
from supervisor.records.events import EventLog
from supervisor.records.plan import Plan, Source
from supervisor.records.report import GpuMemory
from supervisor.system import gpu_files

if TYPE_CHECKING:
    from supervisor.lifecycle.gpu.observer import Observer, WatchedDevice

BASELINE_S = 3.0
"""How long a run that uses a GPU waits for its baseline: without a persistent driver, the first
call initialises the GPU."""

_SAMPLE_EVERY_S = 0.1
_FACT_EVERY_S = 0.5
_GRACE_S = 1.0
"""For a call that was made before a deadline to return after it."""

_NOT_USED = "the run used no GPU"


@dataclass
class Outcome:
    """What was found on the devices that a run has used.

    Attributes
    ----------
    gpus : list of GpuMemory
        The devices.
    note : str
        Why there is none, or what could not be measured.
    errors : list of str
        Remarks for the report: what is not back, and who holds it.
    survivors : list of str
        Processes that are proven to be of the run and hold VRAM still.
    """

    gpus: list[GpuMemory] = field(default_factory=list)
    note: str = _NOT_USED
    errors: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)


class VramWatch:
    """Watches the devices that a run uses.

    Parameters
    ----------
    plan : Plan or CommandPlan
        The run's.
    events : EventLog
        Receives baselines, samples, and what was found at the end.
    nudge : callable
        Wakes the run's loop. From any thread.
    """

    def __init__(self, plan: AnyPlan, events: EventLog, nudge: Callable[[], None]) -> None:
        self._run_id, self._events, self._nudge = plan.run_id, events, nudge
        self._planned = frozenset(getattr(plan, "devices", ()))
        self._spare = frozenset(getattr(plan, "spare_devices", ()))
        self._any = not isinstance(plan, Plan) or plan.source is not Source.BUILT_IN
        self._lock, self._closed = threading.Lock(), False
        self._warden = 0
        self._devices: dict[str, WatchedDevice] = {}
        self._used: set[str] = set()
        self._note = _NOT_USED
        self._ready, self._ending, self._done = (threading.Event() for _ in range(3))
        self._asking_since = self._baseline_at = 0.0
        self._until, self._facts_at = 0.0, 0.0
        self._held: list[str] = []
        self._survivors: list[str] = []
        self._ready_by = float("inf")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch, if the run may use a GPU and this machine has one; return at once."""
        if not (self._planned or self._any) or not gpu_files.present():
            self._note = "no NVIDIA driver is loaded" if self._planned else _NOT_USED
            return
        self._ready_by = time.monotonic() + BASELINE_S
        self._asking_since = time.monotonic()
        thread = threading.Thread(target=self._watch, name="allstop-vram", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._note = "no thread can be started to measure it"
        else:
            self._thread = thread

    def watch(self, warden: int) -> None:
        """Look for the run's processes below the warden of this pid."""
        self._warden = warden

    @property
    def ready(self) -> bool:
        """Whether the run may begin: its devices were read, or that takes too long."""
        waits = self._thread is not None and bool(self._planned)
        return not waits or self._ready.is_set() or time.monotonic() >= self._ready_by

    def begin_end(self, until: float) -> None:
        """Have the devices looked at until all is back; the run's processes are gone.

        Parameters
        ----------
        until : float
            ``time.monotonic()`` instant at which to give up.
        """
        self._until = until
        self._ending.set()

    def outcome(self, since: float, began: float) -> Outcome:
        """Wait for the end of the looking that :meth:`begin_end` began; bounded.

        Parameters
        ----------
        since : float
            ``time.monotonic()`` instant of the request to end the run, or of its last chunk.
        began : float
            ``time.monotonic()`` instant of the first fork.
        """
        if not (self._used or self._planned):
            return Outcome(note=self._note)
        if self._thread is None:
            return self._unmeasured(self._note)
        patience = self._until - time.monotonic() + _GRACE_S
        if not self._done.wait(max(_GRACE_S, patience)):
            silent_s = time.monotonic() - self._asking_since
            return self._unmeasured(f"NVML has not answered for {silent_s:.0f} s")
        if not self._used:
            return self._unmeasured(self._note)
        gpus = [self._devices[uuid].report(since) for uuid in sorted(self._used)]
        if self._baseline_at > began:
            late = f"the baseline was read {self._baseline_at - began:.1f} s after the first fork"
            for gpu in gpus:
                gpu.note = "; ".join(filter(None, [gpu.note, late]))
        return Outcome(gpus, "", self._held, self._survivors)

    def _unmeasured(self, why: str) -> Outcome:
        gpus = [self._devices[uuid].unmeasured(why) for uuid in sorted(self._used)]
        return Outcome(gpus, why, [f"VRAM could not be measured: {why}"])

    def close(self) -> None:
        """End the thread; it may be in a call, so it is not waited for."""
        with self._lock:
            self._closed = True  # from now on the loop's descriptor may be another file's
        self._ending.set()

    # -- the thread ------------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            self._observe()
        except Exception as error:  # noqa: BLE001 - what fails here must not fail the run
            self._note = str(error) or type(error).__name__
            for device in self._devices.values():
                device.note = device.note or self._note
        finally:
            self._done.set()
            self._begin()

    def _begin(self) -> None:
        """Let the run begin, if it waits for its baseline."""
        self._ready.set()
        with self._lock:
            if not self._closed:
                self._nudge()

    def _observe(self) -> None:
        from supervisor.lifecycle.gpu.observer import Observer
        from supervisor.system.nvml import Nvml

        nvml = Nvml.open()
        try:
            observer = Observer(nvml, self._run_id)
            self._read_baselines(observer)
            self._begin()
            while not self._ending.wait(_SAMPLE_EVERY_S):
                self._sample(observer)
            if self._until:
                self._see_back(observer)
        finally:
            with contextlib.suppress(Exception):  # the report is made of what was read
                nvml.close()

    def _read_baselines(self, observer: Observer) -> None:
        from supervisor.lifecycle.gpu.observer import WatchedDevice
        from supervisor.system.nvml_errors import NvmlUnavailable

        for gpu in observer.nvml.devices():
            if not self._any and gpu.uuid not in self._planned | self._spare:
                continue
            self._asking_since = time.monotonic()
            with contextlib.suppress(NvmlUnavailable):
                before = observer.baseline(gpu)
                device = WatchedDevice(before, before.used_bytes)
                if self._warden:  # it may have forked: what a process holds by now moves no figure
                    device.listed_at_bytes = None
                self._devices[gpu.uuid] = device
        self._baseline_at = time.monotonic()
        for uuid in self._planned & self._devices.keys():
            self._note_use(uuid)
        if missing := self._planned - self._devices.keys():
            self._note = f"NVML does not show {', '.join(sorted(missing))}"

    def _note_use(self, uuid: str) -> None:
        """Note that the run uses a device: a finisher needs its baseline."""
        self._used.add(uuid)
        before = self._devices[uuid].before
        self._events.emit(
            "vram_baseline",
            uuid=uuid,
            index=before.gpu.index,
            name=before.gpu.name,
            total_bytes=before.gpu.total_bytes,
            minor=before.gpu.minor,
            used_bytes=before.used_bytes,
            others=before.others,
            why=before.why,
        )

    def _sample(self, observer: Observer) -> None:
        for uuid, device in self._devices.items():
            if device.lost:
                continue
            self._asking_since = time.monotonic()
            observer.sample(device, self._warden)
            if device.in_use and uuid not in self._used:
                self._note_use(uuid)
        now = time.monotonic()
        if self._used and now >= self._facts_at:
            self._facts_at = now + _FACT_EVERY_S
            peaks = {uuid: self._devices[uuid].peak_bytes for uuid in sorted(self._used)}
            self._events.emit("vram_sampled", peak_bytes=peaks)

    def _see_back(self, observer: Observer) -> None:
        from supervisor.lifecycle.gpu.observer import find_holders

        began = self._asking_since = time.monotonic()
        devices = [device for uuid, device in self._devices.items() if uuid in self._used]
        observer.see_back(devices, self._until)
        for held in find_holders(devices, self._run_id, time.monotonic() - began):
            self._held.append(held.note)
            self._survivors += held.survivors
        self._held += [f"{one.before.gpu.label}: {one.note}" for one in devices if one.lost]
        for uuid in sorted(self._used):
            found = self._devices[uuid]
            self._events.emit(
                "vram_settled",
                uuid=uuid,
                used_bytes=found.after_bytes,
                back=found.found.back if found.found else None,
                survivors=self._survivors,
            )
