"""The page as text: pure, from facts to HTML."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from supervisor.report_page import charts, sections
from supervisor.report_page.facts import Facts
from supervisor.report_page.markup import Markup, fill

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · allstop</title>
<style>{style}</style>
</head><body><main>
{header}
{parts}
</main>
<script type="application/json" id="charts">{charts}</script>
<script>{plotly}</script>
<script>{script}</script>
</body></html>
"""


def render(facts: Facts, plotly_script: str) -> str:
    """Render the page.

    Parameters
    ----------
    facts : Facts
        What to show.
    plotly_script : str
        plotly.js whole.
    """
    pictures: dict[str, Any] = {}
    parts = [sections.tiles(facts.report)]
    if facts.heat is not None:
        pictures["heat"] = charts.heat_chart(facts.heat)
        parts.append(sections.chart_section("heat", *sections.heat_words(facts.heat)))
    if facts.best:
        parts.append(sections.best_section(facts))
    if len(facts.memory.at_s) > 1:
        pictures["memory"] = charts.memory_chart(facts.memory)
        parts.append(
            sections.chart_section(
                "memory", "Memory over time", sections.memory_words(facts.report)
            )
        )
    if facts.report.memory is not None and facts.report.memory.gpus:
        parts.append(sections.vram_section(facts.report.memory.gpus))
    if facts.report.stop is not None:
        parts.append(sections.stop_section(facts.report.stop))
    if facts.failures:
        parts.append(sections.errors_section(facts.failures, "Why combinations failed"))
    if facts.report.errors:
        parts.append(sections.errors_section(facts.report.errors))
    parts.append(sections.asked_section(facts))
    page = fill(
        _PAGE,
        title=facts.plan.run_id,
        style=_asset("page.css"),
        header=sections.header(facts),
        parts=Markup("\n".join(parts)),
        charts=_json(pictures),
        plotly=Markup(plotly_script),
        script=_asset("page.js"),
    )
    return str(page)


def _json(value: Any) -> Markup:
    """Write JSON that cannot end the script element it stands in."""
    plain = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        plain = plain.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(plain)


def _asset(name: str) -> Markup:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return Markup(text)
