"""What became of a run, line by line, whatever the work was."""

from __future__ import annotations

from supervisor.report import MemoryReport, Report


def stop_lines(report: Report) -> list[str]:
    """How the stop went, if there was one."""
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
    """What the run held, and what came back."""
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
    """What went wrong on the way."""
    shown = report.errors[:5]
    more = len(report.errors) - len(shown)
    return [f"note: {error}" for error in shown] + ([f"… and {more} more"] if more else [])
