"""VRAM of a dead run: measured by the process that finishes it, from the baseline in its events."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from supervisor.errors import UntrustedError
from supervisor.lifecycle.gpu.observer import LIST_EVERY_S, Observer, WatchedDevice, find_holders
from supervisor.lifecycle.gpu.release import Before, Held
from supervisor.records.command import AnyPlan
from supervisor.records.story import Story
from supervisor.system import gpu_files
from supervisor.system.gpus import Gpu
from supervisor.system.nvml import Nvml, within
from supervisor.system.nvml_errors import NvmlUnavailable

RECENT_S = 600.0
"""After this, what is in use on a device says nothing about the run any more."""

_BRIEFLY_S = 2.0


def measure(story: Story, plan: AnyPlan, errors: list[str]) -> list[str]:
    """Measure the devices that a dead run has used, into the story's memory report.

    Parameters
    ----------
    story : Story
        The run's.
    plan : Plan or CommandPlan
        The run's.
    errors : list of str
        Receives what is not back.

    Returns
    -------
    list of str
        Processes that are proven to be of the run and hold VRAM still.
    """
    devices = devices_of(story)
    if not devices or story.memory is None:
        return []
    held: list[Held] = []
    if time.time() - story.last_at > RECENT_S:
        for device in devices:
            device.note = "not measured: the run ended long ago, and others may use the GPU now"
    elif not gpu_files.present():
        for device in devices:
            device.note = "not measured: there is no NVIDIA driver here"
    else:
        held = measure_devices(devices, plan.run_id, plan.times.verify_s)
    errors += [one.note for one in held]
    story.memory.add_vram([device.report(None) for device in devices], "")
    known = {name.partition(" (")[0] for name in story.survivors}
    return [name for one in held for name in one.survivors if name.partition(" (")[0] not in known]


def devices_of(story: Story) -> list[WatchedDevice]:
    """Return the devices that a run has used, as its facts describe them."""
    found = []
    for uuid, fields in story.gpus.items():
        try:
            before = _before(uuid, fields)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # not a fact of ours
        found.append(WatchedDevice(before, max(before.used_bytes, story.gpu_peaks.get(uuid, 0))))
    return found


def _before(uuid: str, fields: dict[str, Any]) -> Before:
    minor, others = fields["minor"], fields["others"]
    gpu = Gpu(
        uuid,
        int(fields["index"]),
        str(fields["name"]),
        int(fields["total_bytes"]),
        uuid.startswith("MIG-"),
        None if minor is None else int(minor),
    )
    known = None if others is None else {int(pid): int(held) for pid, held in others.items()}
    return Before(gpu, int(fields["used_bytes"]), known, str(fields["why"]))


def measure_devices(devices: list[WatchedDevice], run_id: str, patience_s: float) -> list[Held]:
    """Measure whether the VRAM of a dead run is back, for at most about ``patience_s``.

    Returns
    -------
    list of Held
        What is not back, a device each; ``devices`` are changed in place.
    """
    until = time.monotonic() + patience_s

    def measure() -> None:
        nvml = Nvml.open()
        try:
            Observer(nvml, run_id).see_back(devices, until)
        finally:
            nvml.close()

    try:
        within(patience_s + LIST_EVERY_S, measure)
    except NvmlUnavailable as error:
        for device in devices:
            if not device.settled:
                device.after_bytes, device.found, device.note = None, None, error.why
    return find_holders(devices, run_id, patience_s)


def used_by(run_dir: Path | None) -> dict[str, int]:
    """Return the bytes in use now on the devices that a run has used, as far as they are told.

    Never raises: what is measured for a report must not keep the run's processes alive.
    """
    uuids: list[str] = []
    with contextlib.suppress(OSError, UntrustedError):  # events unreadable: none known
        uuids = [] if run_dir is None else list(Story.of(run_dir).gpus)
    used: dict[str, int] = {}

    def measure() -> None:
        nvml = Nvml.open()
        try:
            for uuid in uuids:
                used[uuid] = nvml.used_bytes(uuid)
        finally:
            nvml.close()

    if uuids and gpu_files.present():
        with contextlib.suppress(NvmlUnavailable):
            within(_BRIEFLY_S, measure)
    return dict(used)  # a copy: the thread may still be in its call
