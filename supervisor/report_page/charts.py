"""Charts as plotly.js takes them; colours named ``var(--…)`` follow the page's theme."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from supervisor.report_page.heat import Heat
from supervisor.report_page.history import History, Mark

_MB = 2**20
_NEUTRAL = "#e4e2dd"
_BELOW = ((0.0, "#8c2d19"), (0.5, "#d98a5f"), (1.0, _NEUTRAL))
_ABOVE = ((0.0, _NEUTRAL), (0.5, "#6aa3c8"), (1.0, "#14507f"))
_MOST_TICKS = 16
_TICK_LETTERS_ACROSS = 110  # that many letters fit below a chart
_LOWEST_SHOWN = 2.0  # percentile: a few ruinous cells must not take all the colours


def heat_chart(heat: Heat) -> dict[str, Any]:
    """Describe the heat map, or a line where only one parameter varies."""
    x_title, y_title, metric = (
        escape(name or "") for name in (heat.axes.x, heat.axes.y, heat.metric)
    )
    x_labels = [escape(label) for label in heat.x_labels]
    y_labels = [escape(label) for label in heat.y_labels]
    values = [[_rounded(value) for value in row] for row in heat.values.tolist()]
    x_axis = _category_axis(x_title, heat.x_ticks, _TICK_LETTERS_ACROSS)
    if heat.axes.y is None:
        return {
            "data": [_line(x_labels, values[0], x_title, metric)],
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
    find = np.nanargmin if heat.ascending else np.nanargmax
    at_y, at_x = np.unravel_index(find(heat.values), heat.values.shape)
    y_axis = _category_axis(y_title, heat.y_ticks)
    return {
        "data": [cells, _star(x_labels[at_x], y_labels[at_y])],
        "layout": {
            "height": 520,
            # the star must not push the edges outward
            "xaxis": x_axis | {"showgrid": False, "range": [-0.5, len(x_labels) - 0.5]},
            "yaxis": y_axis | {"showgrid": False, "range": [-0.5, len(y_labels) - 0.5]},
        },
    }


def _line(
    labels: list[str], values: list[float | None], x_title: str, metric: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(labels) < 50 else "lines",
        "x": labels,
        "y": values,
        "line": {"color": "var(--accent)"},
        "hovertemplate": f"{x_title} %{{x}}<br>{metric} %{{y:.5g}}<extra></extra>",
    }


def _star(x_label: str, y_label: str) -> dict[str, Any]:
    """Mark the best cell."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x_label],
        "y": [y_label],
        "marker": {
            "symbol": "star",
            "size": 13,
            "color": "#ffc933",
            "line": {"color": "#222222", "width": 1},
        },
        "hoverinfo": "skip",
        "showlegend": False,
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
        "ticktext": [escape(ticks[at]) for at in shown],
        "tickangle": 0,
    }


def memory_chart(history: History) -> dict[str, Any]:
    """Describe memory over time, with the stop marked."""
    last = max([*history.at_s, history.gone_s or 0.0])
    unit, seconds = next(
        (name, length)
        for name, length, least in (("h", 3600, 7200), ("min", 60, 300), ("s", 1, 0))
        if last >= least
    )
    megabytes = [round(value / _MB, 2) for value in history.ram_bytes]
    traces = [_memory_trace(history, megabytes, unit, seconds)]
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    if history.stop is not None:
        at = history.stop.at_s / seconds
        shapes.append(_upright(at, "var(--stop)"))
        notes.append(_stop_note(history.stop, at, late=at > 0.6 * last / seconds))
        traces.append(_rung_trace(history, max(megabytes), unit, seconds))
        if history.gone_s is not None:
            shapes.append(_stop_span(at, history.gone_s / seconds))
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


def _memory_trace(
    history: History, megabytes: list[float], unit: str, seconds: int
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(megabytes) < 60 else "lines",
        "x": [round(at / seconds, 5) for at in history.at_s],
        "y": megabytes,
        "fill": "tozeroy",
        "fillcolor": "var(--accent-faint)",
        # a sample holds until the next: memory falls at the stop, not on the way to it
        "line": {"color": "var(--accent)", "width": 1.6, "shape": "hv"},
        "marker": {"size": 5},
        "hovertemplate": f"%{{x:.4g}} {unit}<br>%{{y:,.1f}} MB<extra></extra>",
    }


def _rung_trace(history: History, height: float, unit: str, seconds: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round(mark.at_s / seconds, 5) for mark in history.rungs],
        "y": [height] * len(history.rungs),
        "text": [escape(mark.text) for mark in history.rungs],
        "marker": {"symbol": "diamond", "size": 9, "color": "var(--stop)"},
        "hovertemplate": f"%{{text}}<br>at %{{x:.5g}} {unit}<extra></extra>",
    }


def _stop_note(stop: Mark, at: float, *, late: bool) -> dict[str, Any]:
    """Label the stop above the chart; left of its line where there is no room to the right."""
    return {
        "x": at,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": "right" if late else "left",
        "text": escape(stop.text),
        "font": {"color": "var(--stop)"},
        "showarrow": False,
    }


def _stop_span(at: float, gone: float) -> dict[str, Any]:
    """Shade the time from the request until the last process was gone."""
    return {
        "type": "rect",
        "x0": at,
        "x1": gone,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "fillcolor": "var(--stop)",
        "opacity": 0.12,
        "line": {"width": 0},
        "layer": "below",
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
