"""The chart "panels": a small picture for each figure, with a scale of its own, in which several things stand one below the other
with their intervals. Each row carries its name and its value, so that nothing has to be looked up in a legend or told by colour.
"""

from __future__ import annotations

import math

from assay.records import Metric, Table
from assay.report.charts import Axis, draw
from assay.report.headline import value_text
from assay.report.text import escape, is_finite, shorten

WIDTH, ROW, TOP = 230, 36, 26
EDGE = 8
NUM_COLOURS = 6


def chart_of(table: Table, key: str) -> str:
    """The chart of a table as HTML, whatever its kind; as `draw`."""
    return _panels(table, key) if table.chart == "panels" else draw(table, key)


def _panels(table: Table, key: str) -> str:
    """One SVG for each value of the first column, in order. Rows are (figure, of, value, low, high); gaps are said, never drawn."""
    rows = [tuple(row) + (None,) * (5 - len(row)) for row in table.rows]
    if not any(is_finite(row[2]) for row in rows):
        return ""
    colours = {of: i % NUM_COLOURS for i, of in enumerate(dict.fromkeys(str(row[1]) for row in rows))}
    figures = dict.fromkeys(str(row[0]) for row in rows)
    drawn = [
        _panel(figure, [row for row in rows if str(row[0]) == figure], colours, f"{key}-panel-{i}")
        for i, figure in enumerate(figures, 1)
    ]
    return f'<div class="panels">\n{"".join(drawn)}</div>\n'


def _panel(figure: str, rows: list[tuple[object, ...]], colours: dict[str, int], key: str) -> str:
    ends = [float(end) for row in rows for end in row[2:5] if is_finite(end)]
    axis = _axis(ends)
    height = TOP + ROW * len(rows) + 4
    about = f"{len(rows)} values of {figure}, with their intervals."
    parts = [
        f'<title id="{key}-title">{escape(figure)}</title><desc id="{key}-about">{escape(about)}</desc>',
        f'<text class="name head" x="{EDGE}" y="14">{escape(shorten(figure, 32))}</text>',
    ]
    parts += [_row(figure, row, axis, TOP + ROW * i, colours[str(row[1])]) for i, row in enumerate(rows)]
    head = f'<svg class="chart panel" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{key}-title {key}-about">'
    return f"{head}{''.join(parts)}</svg>\n"


def _axis(ends: list[float]) -> Axis:
    """A scale that holds all ends with some room, and 0 where it is near."""
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = max(high - low, 1e-9 * max(abs(low), abs(high), 1.0))
    low, high = min(low, 0.0) if low < room else low, max(high, 0.0) if high > -room else high
    return Axis(low - 0.04 * room, high + 0.04 * room, EDGE, WIDTH - EDGE)


def _row(figure: str, row: tuple[object, ...], axis: Axis, top: float, colour: int) -> str:
    """A name, its value, and below them the value on its interval."""
    _, of, value, low, high = row
    middle, css = top + 26, f"s{colour}"
    name = f'<text class="name" x="{EDGE}" y="{top + 14}">{escape(shorten(of, 24))}</text>'
    rail = f'<line class="grid" x1="{axis.start}" x2="{axis.end}" y1="{middle}" y2="{middle}"/>'
    if axis.low < 0 < axis.high:
        x = f"{axis.at(0.0):.1f}"
        rail += f'<line class="origin" x1="{x}" x2="{x}" y1="{middle - 6}" y2="{middle + 6}"/>'
    if not is_finite(value):
        return f'<g class="{css}">{name}{rail}<text class="nan" x="{axis.end}" y="{top + 14}" text-anchor="end">n/a</text></g>'
    ends = [float(end) if is_finite(end) else math.nan for end in (low, high)]
    metric = Metric(figure, float(value), ends[0], ends[1])
    shown = value_text(metric).replace("-", "−")
    text = f'<text class="value" x="{axis.end}" y="{top + 14}" text-anchor="end">{escape(shown)}</text>'
    whisker = ""
    if metric.low <= metric.high:
        whisker = f'<line class="span" x1="{axis.at(metric.low):.1f}" x2="{axis.at(metric.high):.1f}" y1="{middle}" y2="{middle}"/>'
    tip = escape(f"{of}: {figure} {shown}")
    point = f'<circle class="point" cx="{axis.at(metric.value):.1f}" cy="{middle}" r="4"><title>{tip}</title></circle>'
    return f'<g class="{css}">{rail}{name}{text}{whisker}{point}</g>'
