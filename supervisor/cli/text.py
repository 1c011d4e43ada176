"""The parts of a summary that runs of every kind have: stop, memory, errors, containment."""

from __future__ import annotations

import contextlib
from pathlib import Path

from supervisor.records import facts
from supervisor.records.events import read_events
from supervisor.records.report import GpuMemory, MemoryReport, Report


def stop_lines(report: Report) -> list[str]:
    """Describe the stop, if there was one."""
    if report.stop is None:
        return []
    stop = report.stop
    rungs = ", ".join(f"{r.name} at {r.at_s:.3f} s ({r.acted_on})" for r in stop.rungs)
    lines = [
        f"stop ({stop.level}) requested by {stop.requested_by}: "
        f"{'NOT everything' if stop.survivors else 'everything'} gone after "
        f"{stop.elapsed_s:.3f} s{rungs and '; ' + rungs}"
    ]
    return lines + [f"  survivor: {survivor}" for survivor in stop.survivors]


def memory_lines(memory: MemoryReport | None) -> list[str]:
    """Describe the memory that the run used and released: RAM, then VRAM, a line per GPU."""
    if memory is None:
        return []
    figures = _figures(
        memory.ram_baseline_bytes,
        memory.ram_peak_bytes,
        memory.ram_after_bytes,
        memory.ram_freed_bytes,
    )
    # reports of earlier versions have only settled_s, which was that of RAM
    settled_s = memory.ram_settled_s if memory.gpus else memory.settled_s
    back = None if memory.ram_after_bytes is None else settled_s is not None
    lines = [f"RAM: {figures}{_settled(back, settled_s)}", *map(_gpu_line, memory.gpus)]
    if not memory.gpus:
        lines.append(f"VRAM: not measured{memory.vram_note and f' ({memory.vram_note})'}")
    return lines


def _gpu_line(gpu: GpuMemory) -> str:
    figures = _figures(gpu.baseline_bytes, gpu.peak_bytes, gpu.after_bytes, gpu.freed_bytes)
    line = f"VRAM of GPU {gpu.index} ({gpu.name}): {figures}{_settled(gpu.back, gpu.settled_s)}"
    return f"{line} ({gpu.note})" if gpu.note else line


def _figures(*values: int | None) -> str:
    before, peak, after, freed = (
        "not measured" if value is None else f"{value / 2**20:,.0f} MB" for value in values
    )
    return f"before {before}, peak {peak}, after {after}, freed {freed}"


def _settled(back: bool | None, settled_s: float | None) -> str:
    if back is None:
        return ""
    if not back:
        return "; NOT back at its baseline"
    after = "" if settled_s is None else f" after {settled_s:.3f} s"
    return f"; back at its baseline{after}"


def error_lines(report: Report) -> list[str]:
    """List errors, the first five in full."""
    shown = report.errors[:5]
    more = len(report.errors) - len(shown)
    return [f"note: {error}" for error in shown] + ([f"… and {more} more"] if more else [])


def containment_lines(run_dir: Path) -> list[str]:
    """Name a containment weaker than the strongest, and why that one was not available."""
    held = ""
    passed_over: list[str] = []
    with contextlib.suppress(OSError):  # what cannot be read is not shown
        for fact in read_events(run_dir):
            match facts.known(fact):
                case facts.RunRequested():
                    passed_over = []  # the run was resumed: a new attempt
                case facts.PassedOver(strength, why):
                    passed_over.append(f"{strength} ({why})")
                case facts.RunStarted() as started:
                    held = started.containment
    if not held or not passed_over:
        return []
    return [f"containment: {held}; not available: {', '.join(passed_over)}; see allstop doctor"]
