"""The page as text: pure, from facts to HTML. Whatever users named is escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from supervisor.records.plan import Plan
from supervisor.records.report import Report, StopReport
from supervisor.report_page.heat import Heat
from supervisor.report_page.history import History

_MB = 2**20
_NEUTRAL = "#e4e2dd"
_BELOW = ((0.0, "#8c2d19"), (0.5, "#d98a5f"), (1.0, _NEUTRAL))
_ABOVE = ((0.0, _NEUTRAL), (0.5, "#6aa3c8"), (1.0, "#14507f"))
_MOST_TICKS = 16
_TICK_LETTERS_ACROSS = 110  # that many letters fit below a chart
_LOWEST_SHOWN = 2.0  # percentile: a few ruinous cells must not take all the colours


@dataclass(frozen=True, slots=True)
class Facts:
    """All there is to show.

    Attributes
    ----------
    plan, report : Plan, Report
        What was asked for, and what became of it.
    asked : mapping
        ``run.json`` as it is, for when and where the run was asked for.
    memory : History
        Memory over time, and the stop's instants.
    metric : str or None
        What ``best`` is ranked by.
    best : sequence of dict
        Rows of the results, best first.
    heat : Heat or None
        Two parameters against the metric.
    """

    plan: Plan
    report: Report
    memory: History
    asked: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    best: Sequence[Mapping[str, Any]] = ()
    heat: Heat | None = None


def render(facts: Facts, plotly_script: str) -> str:
    """Render the page.

    Parameters
    ----------
    facts : Facts
        What to show.
    plotly_script : str
        plotly.js whole.
    """
    charts: dict[str, Any] = {}
    sections = [_tiles(facts.report)]
    if facts.heat is not None:
        charts["heat"] = heat_chart(facts.heat)
        sections.append(_chart_section("heat", *_heat_words(facts.heat)))
    if facts.best:
        sections.append(_best_section(facts))
    if len(facts.memory.at_s) > 1:
        charts["memory"] = memory_chart(facts.memory)
        sections.append(_chart_section("memory", "Memory over time", _memory_words(facts.report)))
    if facts.report.stop is not None:
        sections.append(_stop_section(facts.report.stop))
    if facts.report.errors:
        sections.append(_errors_section(facts.report.errors))
    sections.append(_asked_section(facts))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(facts.plan.run_id)} · allstop</title>",
            f"<style>{_asset('page.css')}</style>",
            "</head><body><main>",
            _header(facts),
            *sections,
            "</main>",
            f'<script type="application/json" id="charts">{_json(charts)}</script>',
            f"<script>{plotly_script}</script>",
            f"<script>{_asset('page.js')}</script>",
            "</body></html>",
            "",
        ]
    )


# --- charts: what plotly.js is given; colours named var(--…) follow the page's theme -----------


def heat_chart(heat: Heat) -> dict[str, Any]:
    """Describe the heat map, or a line where only one parameter varies."""
    x_title, y_title, metric = (
        _text(name or "") for name in (heat.axes.x, heat.axes.y, heat.metric)
    )
    x_labels = [_text(label) for label in heat.x_labels]
    y_labels = [_text(label) for label in heat.y_labels]
    values = [[_rounded(value) for value in row] for row in heat.values.tolist()]
    x_axis = _category_axis(x_title, heat.x_ticks, _TICK_LETTERS_ACROSS)
    if heat.axes.y is None:
        line = {
            "type": "scatter",
            "mode": "lines+markers" if len(x_labels) < 50 else "lines",
            "x": x_labels,
            "y": values[0],
            "line": {"color": "var(--accent)"},
            "hovertemplate": f"{x_title} %{{x}}<br>{metric} %{{y:.5g}}<extra></extra>",
        }
        return {
            "data": [line],
            "layout": {"height": 340, "xaxis": x_axis, "yaxis": {"title": {"text": metric}}},
        }
    low, high, scale = _colours(heat.values)
    cells = {
        "type": "heatmap",
        "x": x_labels,
        "y": y_labels,
        "z": values,
        "zmin": low,
        "zmax": high,
        "colorscale": scale,
        "colorbar": {
            "title": {"text": metric, "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
        },
        "hoverongaps": False,
        "hovertemplate": f"{x_title} %{{x}}<br>{y_title} %{{y}}<br>"
        f"{metric} %{{z:.5g}}<extra></extra>",
    }
    at_y, at_x = np.unravel_index(np.nanargmax(heat.values), heat.values.shape)
    star = {
        "type": "scatter",
        "mode": "markers",
        "x": [x_labels[at_x]],
        "y": [y_labels[at_y]],
        "marker": {
            "symbol": "star",
            "size": 13,
            "color": "#ffc933",
            "line": {"color": "#222222", "width": 1},
        },
        "hoverinfo": "skip",
        "showlegend": False,
    }
    y_axis = _category_axis(y_title, heat.y_ticks)
    return {
        "data": [cells, star],
        "layout": {
            "height": 520,
            # the star must not push the edges outward
            "xaxis": x_axis | {"showgrid": False, "range": [-0.5, len(x_labels) - 0.5]},
            "yaxis": y_axis | {"showgrid": False, "range": [-0.5, len(y_labels) - 0.5]},
        },
    }


def _category_axis(title: str, ticks: Sequence[str], letters: int | None = None) -> dict[str, Any]:
    """Describe an axis with as many evenly spaced ticks as there is room for."""
    most = _MOST_TICKS
    if letters is not None:
        most = min(most, letters // (max(map(len, ticks)) + 3))
    step = -(-len(ticks) // max(1, most))
    shown = range(0, len(ticks), step)
    return {
        "title": {"text": title},
        "type": "category",
        "tickvals": list(shown),
        "ticktext": [_text(ticks[at]) for at in shown],
        "tickangle": 0,
    }


def memory_chart(history: History) -> dict[str, Any]:
    """Describe memory over time, the stop marked."""
    last = max([*history.at_s, history.gone_s or 0.0])
    unit, seconds = next(
        (name, length)
        for name, length, least in (("h", 3600, 7200), ("min", 60, 300), ("s", 1, 0))
        if last >= least
    )
    megabytes = [round(value / _MB, 2) for value in history.ram_bytes]
    peak = max(megabytes)
    few = len(megabytes) < 60
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if few else "lines",
            "x": [round(at / seconds, 5) for at in history.at_s],
            "y": megabytes,
            "fill": "tozeroy",
            "fillcolor": "var(--accent-faint)",
            # a sample holds until the next: memory falls at the stop, not on the way to it
            "line": {"color": "var(--accent)", "width": 1.6, "shape": "hv"},
            "marker": {"size": 5},
            "hovertemplate": f"%{{x:.4g}} {unit}<br>%{{y:,.1f}} MB<extra></extra>",
        }
    ]
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    if history.stop is not None:
        at = history.stop.at_s / seconds
        shapes.append(_upright(at, "var(--stop)"))
        late = at > 0.6 * last / seconds
        notes.append(
            {
                "x": at,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "xanchor": "right" if late else "left",
                "text": _text(history.stop.text),
                "font": {"color": "var(--stop)"},
                "showarrow": False,
            }
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [round(mark.at_s / seconds, 5) for mark in history.rungs],
                "y": [peak] * len(history.rungs),
                "text": [_text(mark.text) for mark in history.rungs],
                "marker": {"symbol": "diamond", "size": 9, "color": "var(--stop)"},
                "hovertemplate": f"%{{text}}<br>at %{{x:.5g}} {unit}<extra></extra>",
            }
        )
        if history.gone_s is not None:
            shapes.append(
                {
                    "type": "rect",
                    "x0": at,
                    "x1": history.gone_s / seconds,
                    "y0": 0,
                    "y1": 1,
                    "yref": "paper",
                    "fillcolor": "var(--stop)",
                    "opacity": 0.12,
                    "line": {"width": 0},
                    "layer": "below",
                }
            )
    return {
        "data": traces,
        "layout": {
            "height": 300,
            "showlegend": False,
            "shapes": shapes,
            "annotations": notes,
            "xaxis": {"title": {"text": f"time since the start, {unit}"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "RAM, MB"}, "rangemode": "tozero"},
        },
    }


def _upright(at: float, colour: str) -> dict[str, Any]:
    line = {"color": colour, "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _colours(values: Any) -> tuple[float, float, list[list[Any]]]:
    """Range and colours: blue above zero, red below, each side with its full depth."""
    there = values[~np.isnan(values)]
    low, high = float(np.percentile(there, _LOWEST_SHOWN)), float(there.max())
    if low >= 0:
        side = [list(stop) for stop in _ABOVE]
    elif high <= 0:
        side = [list(stop) for stop in _BELOW]
    else:
        zero = -low / (high - low)
        side = [[at * zero, colour] for at, colour in _BELOW[:-1]]
        side += [[zero + at * (1 - zero), colour] for at, colour in _ABOVE]
    if low == high:
        high = low + 1.0
    return low, high, side


def _rounded(value: float) -> float | None:
    return None if value != value else float(f"{value:.5g}")


# --- sections ----------------------------------------------------------------------------------


def _header(facts: Facts) -> str:
    plan, report = facts.plan, facts.report
    reason = f'<p class="reason">{_text(report.reason)}</p>' if report.reason else ""
    return (
        f'<header><h1>{_text(_short(plan.strategy))} <span class="pill {_text(report.status)}">'
        f"{_text(report.status)}</span></h1>"
        f"<p>{plan.n_bars:,} bars of {_text(plan.data)} · run {_text(plan.run_id)}</p>"
        f"{reason}</header>"
    )


def _short(strategy: str) -> str:
    """Return a strategy's name without the directory of its file."""
    home, colon, name = strategy.rpartition(":")
    return f"{Path(home).name}{colon}{name}"


def _tiles(report: Report) -> str:
    rate = report.combos_done / report.elapsed_s if report.elapsed_s else 0.0
    tiles = [
        ("combinations", f"{report.combos_done:,}", f"of {report.combos_total:,}"),
        ("time", _duration(report.elapsed_s), f"{rate:,.0f} combinations a second"),
    ]
    if report.combos_failed:
        tiles.append(("failed", f"{report.combos_failed:,}", "see the column error"))
    if report.memory is not None:
        memory = report.memory
        settled = (
            f"back at its baseline after {memory.settled_s:.3f} s"
            if memory.settled_s is not None
            else "not back at its baseline"
        )
        tiles.append(("peak RAM", f"{memory.ram_peak_bytes / _MB:,.0f} MB", settled))
    if report.stop is not None:
        left = len(report.stop.survivors)
        what = f"{left} survived" if left else "until every process was gone"
        tiles.append(("stop", f"{report.stop.elapsed_s:.3f} s", what))
    inner = "".join(
        f'<div class="tile"><div class="label">{label}</div><div class="value">{value}</div>'
        f'<div class="hint">{hint}</div></div>'
        for label, value, hint in tiles
    )
    return f'<div class="tiles">{inner}</div>'


def _chart_section(name: str, title: str, words: str) -> str:
    return (
        f"<section><h2>{_text(title)}</h2><p>{_text(words)}</p>"
        f'<div class="chart" id="chart-{name}"></div></section>'
    )


def _heat_words(heat: Heat) -> tuple[str, str]:
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


def _memory_words(report: Report) -> str:
    words = "RAM of all of the run's processes; shared memory is counted once."
    if report.memory is not None:
        words += (
            f" Before {report.memory.ram_baseline_bytes / _MB:,.0f} MB, "
            f"peak {report.memory.ram_peak_bytes / _MB:,.0f} MB."
        )
        if report.memory.ram_after_bytes is not None:
            words += f" After {report.memory.ram_after_bytes / _MB:,.0f} MB."
    return words


def _best_section(facts: Facts) -> str:
    names = [name for name in facts.best[0] if any(row[name] is not None for row in facts.best)]
    head = "".join(f'<th class="{_kind(name, facts)}">{_text(name)}</th>' for name in names)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{_kind(name, facts)}">{_cell(row[name])}</td>' for name in names)
        + "</tr>"
        for row in facts.best
    )
    return (
        f"<section><h2>Best by {_text(facts.metric or '')}</h2>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></section>"
    )


def _kind(name: str, facts: Facts) -> str:
    if name == facts.metric:
        return "ranked"
    return "parameter" if name in facts.plan.grid.names else "metric"


def _stop_section(stop: StopReport) -> str:
    """A row per rung, a bar from its instant to the next rung's."""
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
            f"<tr><td>{_text(rung.name)}</td><td>{rung.at_s:.3f} s</td><td>{met}</td>"
            f'<td class="track"><div class="bar" style="margin-left:{min(left, 99.5):.2f}%;'
            f'width:{width:.2f}%"></div></td></tr>'
        )
    survivors = "".join(f"<li>{_text(survivor)}</li>" for survivor in stop.survivors)
    gone = (
        f"<p>Not everything could be ended:</p><ul>{survivors}</ul>"
        if survivors
        else f"<p>Every process was gone after {stop.elapsed_s:.3f} s.</p>"
    )
    return (
        f"<section><h2>The stop</h2><p>{_text(stop.level)}, requested by "
        f"{_text(stop.requested_by)}.</p>"
        '<table class="rungs"><thead><tr><th>rung</th><th>at</th><th>met</th>'
        f'<th class="track"></th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f"{gone}</section>"
    )


def _errors_section(errors: Sequence[str]) -> str:
    lines = "".join(f"<li>{_text(error)}</li>" for error in errors)
    return f"<section><h2>Notes</h2><ul>{lines}</ul></section>"


def _asked_section(facts: Facts) -> str:
    plan, report, asked = facts.plan, facts.report, facts.asked
    rows = [
        ("strategy", plan.strategy),
        ("grid", "; ".join(_axis(name, plan) for name in plan.grid.names)),
        ("workers", f"{plan.workers}, device {plan.device}, containment {report.containment}"),
        ("fee", f"{plan.fee:g} of the traded value"),
        ("asked at", asked.get("asked_at")),
        ("machine", _pairs(asked.get("machine"))),
        ("versions", _pairs(asked.get("versions"))),
        ("directory", report.run_dir),
    ]
    inner = "".join(
        f"<dt>{label}</dt><dd>{_text(str(value))}</dd>" for label, value in rows if value
    )
    return f"<section><h2>What was asked</h2><dl>{inner}</dl></section>"


def _axis(name: str, plan: Plan) -> str:
    values = plan.grid.axis(name).tolist()
    if len(values) <= 6:
        return f"{name} = {', '.join(map(str, values))}"
    return f"{name} = {values[0]}, {values[1]} … {values[-1]} ({len(values):,} values)"


def _pairs(plain: Any) -> str:
    if not isinstance(plain, dict):
        return ""
    return ", ".join(
        f"RAM {value / 2**30:.1f} GiB" if key == "ram_bytes" else f"{key} {value}"
        for key, value in plain.items()
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return _text(f"{value:.6g}" if isinstance(value, float) else str(value))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _text(text: object) -> str:
    return html.escape(str(text))


def _json(value: Any) -> str:
    """Write JSON that cannot end the script element it stands in."""
    plain = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        plain = plain.replace(letter, f"\\u{ord(letter):04x}")
    return plain


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
