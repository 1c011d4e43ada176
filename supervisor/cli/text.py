"""The parts of a summary that runs of every kind have: stop, memory, errors, containment."""

from __future__ import annotations

from pathlib import Path

from supervisor.records.events import read_events
from supervisor.records.report import MemoryReport, Report


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
    """Describe the memory that the run used and released."""
    if memory is None:
        return []
    before, peak, after, freed = (
        "not measured" if value is None else f"{value / 2**20:,.0f} MB"
        for value in (
            memory.ram_baseline_bytes,
            memory.ram_peak_bytes,
            memory.ram_after_bytes,
            memory.ram_freed_bytes,
        )
    )
    line = f"RAM: before {before}, peak {peak}, after {after}, freed {freed}"
    if memory.settled_s is not None:
        line += f"; back at its baseline after {memory.settled_s:.3f} s"
    elif memory.ram_after_bytes is not None:
        line += "; NOT back at its baseline"
    lines = [line]
    if memory.vram_peak_bytes is None:
        lines.append("VRAM: not measured")
    return lines


def error_lines(report: Report) -> list[str]:
    """List errors, the first five in full."""
    shown = report.errors[:5]
    more = len(report.errors) - len(shown)
    return [f"note: {error}" for error in shown] + ([f"… and {more} more"] if more else [])


def containment_lines(run_dir: Path) -> list[str]:
    """Name a containment weaker than the strongest, and why that one was not available."""
    held = ""
    passed_over: list[str] = []
    for fact in read_events(run_dir):
        if fact.name == "front.run_requested":
            passed_over = []  # the run was resumed: a new attempt
        elif fact.name == "warden.containment_passed_over":
            passed_over.append(f"{fact.fields.get('strength')} ({fact.fields.get('why')})")
        elif fact.name == "warden.run_started":
            held = str(fact.fields.get("containment"))
    if not held or not passed_over:
        return []
    return [f"containment: {held}; not available: {', '.join(passed_over)}; see allstop doctor"]
