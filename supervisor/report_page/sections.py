"""Sections of the page as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from supervisor.records.plan import Plan, Source
from supervisor.records.report import GpuMemory, Report, StopReport
from supervisor.report_page.facts import Facts
from supervisor.report_page.heat import Heat
from supervisor.report_page.markup import Markup, each, fill, join

_MB = 2**20
_GPU_COLUMNS = ("GPU", "name", "before", "peak", "after", "freed", "back at its baseline", "note")


def header(facts: Facts) -> Markup:
    plan, report = facts.plan, facts.report
    reason = fill('<p class="reason">{}</p>', report.reason) if report.reason else Markup()
    return fill(
        '<header><h1>{strategy} <span class="pill {status}">{status}</span></h1>'
        "<p>{n_bars:,} bars of {data} · run {run_id}</p>{facts}{reason}</header>",
        strategy=_short(plan.strategy),
        status=str(report.status),
        n_bars=plan.n_bars,
        data=plan.data,
        run_id=plan.run_id,
        facts=_data(plan),
        reason=reason,
    )


def _data(plan: Plan) -> Markup:
    """Say how the data was read, and what ratios are annualised with."""
    facts = plan.data_facts
    year = [f"annualised with {facts.annualised}"] if facts.annualised else []
    return join(fill("<p>{}</p>", line) for line in (*year, *facts.notes))


def _short(strategy: str) -> str:
    """Return a strategy's name without the directory of its file."""
    home, colon, name = strategy.rpartition(":")
    return f"{Path(home).name}{colon}{name}"


def tiles(report: Report) -> Markup:
    rate = report.combos_done / report.elapsed_s if report.elapsed_s else 0.0
    tiles = [
        ("combinations", f"{report.combos_done:,}", f"of {report.combos_total:,}"),
        ("time", _duration(report.elapsed_s), f"{rate:,.0f} combinations a second"),
    ]
    if report.combos_failed:
        tiles.append(("failed", f"{report.combos_failed:,}", "by an error of their own"))
    if report.memory is not None:
        memory = report.memory
        ram_s = memory.ram_settled_s if memory.gpus else memory.settled_s
        tiles.append(("peak RAM", f"{memory.ram_peak_bytes / _MB:,.0f} MB", _settled(ram_s)))
        if memory.vram_peak_bytes is not None:
            peak = f"{memory.vram_peak_bytes / _MB:,.0f} MB"
            measured = memory.vram_after_bytes is not None
            back = all(gpu.back for gpu in memory.gpus) and memory.vram_settled_s is None
            hint = "back at its baseline" if back else _settled(memory.vram_settled_s)
            tiles.append(("peak VRAM", peak, hint if measured else "not measured after the run"))
    if report.stop is not None:
        left = len(report.stop.survivors)
        what = f"{left} survived" if left else "until every process was gone"
        tiles.append(("stop", f"{report.stop.elapsed_s:.3f} s", what))
    inner = join(
        fill(
            '<div class="tile"><div class="label">{}</div><div class="value">{}</div>'
            '<div class="hint">{}</div></div>',
            label,
            value,
            hint,
        )
        for label, value, hint in tiles
    )
    return fill('<div class="tiles">{}</div>', inner)


def _settled(after_s: float | None) -> str:
    if after_s is None:
        return "not back at its baseline"
    return f"back at its baseline after {after_s:.3f} s"


def vram_section(gpus: Sequence[GpuMemory]) -> Markup:
    """List the GPUs that the run has used, and the memory in use on each."""
    rows = []
    for gpu in gpus:
        figures = (gpu.baseline_bytes, gpu.peak_bytes, gpu.after_bytes, gpu.freed_bytes)
        sizes = ["" if size is None else f"{size / _MB:,.0f} MB" for size in figures]
        if gpu.back is None:
            back = "not measured"
        elif gpu.settled_s is None:
            back = "yes" if gpu.back else "no"
        else:
            back = f"after {gpu.settled_s:.3f} s"
        cells = [f"GPU {gpu.index}", gpu.name, *sizes, back, gpu.note]
        rows.append(fill("<tr>{}</tr>", each("<td>{}</td>", cells)))
    return fill(
        "<section><h2>VRAM</h2><p>Memory in use on each GPU, by all processes.</p>"
        '<div class="scroll"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div></section>",
        each("<th>{}</th>", _GPU_COLUMNS),
        join(rows),
    )


def chart_section(name: str, title: str, words: str) -> Markup:
    return fill(
        '<section><h2>{}</h2><p>{}</p><div class="chart" id="chart-{}"></div></section>',
        title,
        words,
        name,
    )


def heat_words(heat: Heat) -> tuple[str, str]:
    shown = " and ".join(filter(None, [heat.axes.x, heat.axes.y]))
    words = ["The star marks the best."] if heat.axes.y else []
    place = "cell" if heat.axes.y else "point"
    if heat.others:
        words.append(f"Each value is the best over {', '.join(heat.others)}.")
    if heat.binned:
        words.append(f"Neighbouring values of {' and '.join(heat.binned)} share a {place}.")
    if heat.axes.y and np.isnan(heat.values).any():
        words.append("Empty cells were not computed.")
    return f"{heat.metric} by {shown}", " ".join(words)


def memory_words(report: Report) -> str:
    words = "RAM of all of the run's processes; shared memory is counted once."
    if report.memory is not None:
        words += (
            f" Before {report.memory.ram_baseline_bytes / _MB:,.0f} MB, "
            f"peak {report.memory.ram_peak_bytes / _MB:,.0f} MB."
        )
        if report.memory.ram_after_bytes is not None:
            words += f" After {report.memory.ram_after_bytes / _MB:,.0f} MB."
    return words


def best_section(facts: Facts) -> Markup:
    names = [name for name in facts.best[0] if any(row[name] is not None for row in facts.best)]
    head = join(fill('<th class="{}">{}</th>', _kind(name, facts), name) for name in names)
    rows = (
        join(fill('<td class="{}">{}</td>', _kind(name, facts), _cell(row[name])) for name in names)
        for row in facts.best
    )
    return fill(
        "<section><h2>Best by {}</h2>"
        '<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
        "</div></section>",
        facts.plan.ranking.describe(facts.metric or ""),
        head,
        each("<tr>{}</tr>", rows),
    )


def _kind(name: str, facts: Facts) -> str:
    if name == facts.metric:
        return "ranked"
    return "parameter" if name in facts.plan.grid.names else "metric"


def stop_section(stop: StopReport) -> Markup:
    """Draw a row per rung, with a bar from its time to that of the next one."""
    whole = max([stop.elapsed_s, *(rung.at_s for rung in stop.rungs), 1e-9])
    ends = [*(rung.at_s for rung in stop.rungs), whole][1:]
    rows = []
    for rung, end in zip(stop.rungs, ends, strict=True):
        left = 100 * rung.at_s / whole
        width = 100 * max(0.0, end - rung.at_s) / whole
        met = f"{rung.acted_on} process{'es' * (rung.acted_on != 1)}"
        if rung.name == "verify":
            met = f"{rung.acted_on} left"
        rows.append(
            fill(
                '<tr><td>{}</td><td>{:.3f} s</td><td>{}</td><td class="track"><div class="bar" '
                'style="margin-left:{:.2f}%;width:{:.2f}%"></div></td></tr>',
                rung.name,
                rung.at_s,
                met,
                min(left, 99.5),
                width,
            )
        )
    if stop.survivors:
        survivors = each("<li>{}</li>", stop.survivors)
        gone = fill("<p>These could not be ended:</p><ul>{}</ul>", survivors)
    else:
        gone = fill("<p>Every process was gone after {:.3f} s.</p>", stop.elapsed_s)
    return fill(
        "<section><h2>The stop</h2><p>{}, requested by {}.</p>"
        '<table class="rungs"><thead><tr><th>rung</th><th>at</th><th>processes</th>'
        '<th class="track"></th></tr></thead><tbody>{}</tbody></table>{}</section>',
        stop.level,
        stop.requested_by,
        join(rows),
        gone,
    )


def errors_section(errors: Sequence[str], title: str = "Notes") -> Markup:
    return fill("<section><h2>{}</h2><ul>{}</ul></section>", title, each("<li>{}</li>", errors))


def asked_section(facts: Facts) -> Markup:
    plan, report, asked = facts.plan, facts.report, facts.asked
    rows = [
        ("strategy", plan.strategy),
        ("grid", "; ".join(_axis(name, plan) for name in plan.grid.names)),
        ("workers", f"{plan.workers}, containment {report.containment}"),
        ("device", f"{plan.device} ({plan.device_why})" if plan.device_why else plan.device),
        (
            "seed",
            str(plan.seed)
            if plan.source is not Source.BUILT_IN and report.seed is not None
            else None,
        ),
        ("fee", f"{plan.fee:g} of the traded value"),
        ("requested at", asked.get("asked_at")),
        ("machine", _pairs(asked.get("machine"))),
        ("versions", _pairs(asked.get("versions"))),
        ("directory", report.run_dir),
    ]
    inner = join(fill("<dt>{}</dt><dd>{}</dd>", label, value) for label, value in rows if value)
    return fill("<section><h2>Configuration</h2><dl>{}</dl></section>", inner)


def _axis(name: str, plan: Plan) -> str:
    values = plan.grid.axis(name).tolist()
    if len(values) <= 6:
        return f"{name} = {', '.join(map(str, values))}"
    return f"{name} = {values[0]}, {values[1]} … {values[-1]} ({len(values):,} values)"


def _pairs(plain: Any) -> str:
    if not isinstance(plain, dict):
        return ""
    return ", ".join(
        f"RAM {value / 2**30:.1f} GiB"
        if key == "ram_bytes" and type(value) is int and 0 <= value < 2**63
        else f"{key} {value}"
        for key, value in plain.items()
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
