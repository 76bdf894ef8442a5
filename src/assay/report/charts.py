"""Tables drawn as inline SVG: lines, bars, reliability diagrams and interval marks. Colours and type come from page.css.

Drawn is what is finite: one point, or one bar, for each finite value. What is not is a gap, never a zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from assay.records import Table
from assay.report.text import escape, is_finite, is_real, number, shorten

WIDTH, HEIGHT = 460, 290
TOP, RIGHT, BOTTOM = 28, 20, 46
CHARACTER = 8  # generous width of a character in SVG units, at the larger type of narrow screens
NUM_COLOURS = 6
BIN = re.compile(r"^\s*[\[(<>≤≥]?\s*[-−+]?[\d.]+")  # a label such as "-1.5", "[0, 10)" or "<2"


class Axis(NamedTuple):
    """A linear scale from low..high in the data's units to start..end in SVG units."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw(table: Table, key: str) -> str:
    """The chart of a table as HTML, with its legend; empty when the table has no chart or nothing finite to draw. Panels are
    drawn by `panels.chart_of`.

    key: unique within the page, used for the ids of title and description.
    """
    if table.chart in ("none", "panels") or len(table.columns) < 2:
        return ""
    return {"line": _lines, "curves": _lines, "bars": _bars, "reliability": _reliability}[table.chart](table, key)


def num_missing(table: Table) -> tuple[int, int]:
    """How many of the values that the chart wants are not finite, and how many it wants."""
    wanted = {
        "line": range(1, len(table.columns)),
        "curves": (),
        "bars": range(1, 2),
        "reliability": range(2),
        "panels": range(2, 3),
    }
    columns = wanted.get(table.chart, range(0))
    cells = [row[column] if column < len(row) else None for row in table.rows for column in columns]
    return sum(not is_finite(cell) for cell in cells), len(cells)


def interval_mark(value: float, low: float, high: float, axis_low: float, axis_high: float, others: Sequence[float] = ()) -> str:
    """A value and its interval as a tick on a band on a shared axis, to stand beside the numbers.

    others: values that get a short grey tick.
    """
    axis = Axis(axis_low, axis_high, 3, 137)
    whisker = f'<line class="whisker" x1="{axis.at(low):.1f}" x2="{axis.at(high):.1f}" y1="8" y2="8"/>' if low <= high else ""
    tick = f'<line class="tick" x1="{axis.at(value):.1f}" x2="{axis.at(value):.1f}" y1="2" y2="14"/>'
    rail = '<line class="rail" x1="3" x2="137" y1="8" y2="8"/>'
    rail += "".join(f'<line class="other" x1="{axis.at(x):.1f}" x2="{axis.at(x):.1f}" y1="4" y2="12"/>' for x in others)
    return f'<svg class="mark" viewBox="0 0 140 16" width="140" height="16" aria-hidden="true">{rail}{whisker}{tick}</svg>'


def round_ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten within [low, high]; of what is counted, whole numbers alone."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * (10 if raw >= 7 * power else 5 if raw >= 3.2 * power else 2 if raw >= 1.4 * power else 1)
    step = max(step, 1.0) if whole and math.floor(high) >= math.ceil(low) else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    largest = max(abs(tick) for tick in ticks)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else largest or 1.0
    if largest >= 1e4:
        unit, suffix = (1e6, "M") if largest >= 1e6 else (1e3, "k")
        labels = (
            [f"{tick / unit:g}{suffix if tick else ''}" for tick in ticks] if largest < 1e9 else [f"{tick:g}" for tick in ticks]
        )
    elif 0 < largest < 1e-3:
        labels = [re.sub(r"e-0*", "e-", f"{tick:.3g}") for tick in ticks]
    else:
        labels = [f"{tick:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" for tick in ticks]
    return [label.replace("-", "−") for label in labels]


def _span(values: Sequence[float], pad: float = 0.05) -> tuple[float, float]:
    low, high = min(values), max(values)
    is_flat = high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-100)
    margin = (abs(high) * 0.1 if abs(high) > 1e-90 else 0.5) if is_flat else pad * (high - low)
    return low - margin, high + margin


def _lines(table: Table, key: str) -> str:
    is_numeric = all(is_real(row[0]) for row in table.rows)
    xs = (
        [float(row[0]) if is_finite(row[0]) else math.nan for row in table.rows]
        if is_numeric
        else [*map(float, range(len(table.rows)))]
    )
    series = [
        [_point(x, row[c] if c < len(row) else None) for x, row in zip(xs, table.rows, strict=True)]
        for c in range(1, len(table.columns))
    ]
    points = [point for line in series for point in line if point]
    if not points:
        return ""
    y_low, y_high = _span([y for _, y in points])
    y_ticks = round_ticks(y_low, y_high)
    left = _left(_tick_labels(y_ticks))
    y = Axis(y_low, y_high, HEIGHT - BOTTOM, TOP - 12)
    x = Axis(*_span([x for x, _ in points], 0.02), left, WIDTH - RIGHT)
    body = [_y_axis(y, y_ticks, left)]
    if is_numeric:
        x_ticks = round_ticks(x.low, x.high, whole=all(place.is_integer() for place, _ in points))
        body.append(_x_axis(x, x_ticks, _tick_labels(x_ticks), table.columns[0]))
    else:
        body.append(_x_axis(x, xs, [shorten(row[0], 14) for row in table.rows], table.columns[0]))
    radius = 2.8 if len(table.rows) <= 40 else 1.8 if len(table.rows) <= 160 else 0.9
    for i, line in enumerate(series):
        body.append(f'<g class="{_colour(i)}">{_path(line, x, y, joined=table.chart == "curves")}')
        for point, row in zip(line, table.rows, strict=True):
            if point:
                tip = f"{table.columns[0]} {_cell(row[0])}: {table.columns[i + 1]} {number(point[1])}"
                body.append(_circle("point", x.at(point[0]), y.at(point[1]), radius, tip))
        body.append("</g>")
    names = ", ".join(table.columns[1:])
    about = f"Line chart of {names} against {table.columns[0]}: {len(table.rows)} rows, {len(points)} points."
    return _legend(table.columns[1:], series) + _svg(table, key, about, "".join(body))


def _point(x: float, cell: object) -> tuple[float, float] | None:
    return (x, float(cell)) if is_finite(x) and is_finite(cell) else None


def _path(line: Sequence[tuple[float, float] | None], x: Axis, y: Axis, *, joined: bool) -> str:
    """One stroke through neighbouring points, broken where a row has none, unless `joined`; a series measured only now and then is
    joined up."""
    num_joined = sum(a is not None and b is not None for a, b in pairwise(line))
    is_sparse = 4 * num_joined < sum(point is not None for point in line)
    commands, pen = [], "M"
    for point in line:
        if point:
            commands.append(f"{pen}{x.at(point[0]):.1f} {y.at(point[1]):.1f}")
        pen = "L" if point or ((joined or is_sparse) and commands) else "M"
    return f'<path class="line" d="{"".join(commands)}"/>' if commands else ""


def _legend(names: Sequence[str], series: Sequence[Sequence[object]]) -> str:
    items = []
    for i, (name, line) in enumerate(zip(names, series, strict=True)):
        swatch = '<path class="line" d="M1 6H31"/><circle class="point" cx="16" cy="6" r="2.8"/>'
        absent = "" if any(line) else ' <span class="nan">(could not be computed)</span>'
        sample = f'<svg class="{_colour(i)}" viewBox="0 0 32 12" width="32" height="12" aria-hidden="true">{swatch}</svg>'
        items.append(f"<li>{sample}{escape(name)}{absent}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _bars(table: Table, key: str) -> str:
    values = [row[1] if len(row) > 1 else None for row in table.rows]
    finite = [float(value) for value in values if is_finite(value)]
    if not finite:
        return ""
    whiskers = [_whisker(table, row) for row in table.rows]
    ends = [end for whisker in whiskers if whisker for end in whisker]
    low, high = min([0.0, *finite, *ends]), max([0.0, *finite, *ends])
    low, high = (low * 1.04, high * 1.04) if high - low > 1e-100 else (0.0, 1.0)
    is_binned = all(is_real(row[0]) or BIN.match(str(row[0])) for row in table.rows)
    if is_binned or all(len(str(row[0])) <= 5 for row in table.rows):
        body, height = _upright(table, values, whiskers, low, high, is_binned), HEIGHT
    else:
        body, height = _lying(table, values, whiskers, low, high), TOP + 24 * len(table.rows) + 10
    about = f"Bar chart of {table.columns[1]} by {table.columns[0]}: {len(table.rows)} rows, {len(finite)} bars."
    return _svg(table, key, about, body, height)


def _whisker(table: Table, row: Sequence[object]) -> tuple[float, float] | None:
    if "low" not in table.columns or "high" not in table.columns:
        return None
    low, high = (row[table.columns.index(name)] for name in ("low", "high"))
    return (float(low), float(high)) if is_finite(low) and is_finite(high) else None


def _upright(table: Table, values: Sequence[object], whiskers: Sequence, low: float, high: float, is_binned: bool) -> str:
    """Upright bars over short labels or bins; labels are thinned out until they fit."""
    ticks = round_ticks(low, high)
    left = _left(_tick_labels(ticks))
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    band = (WIDTH - RIGHT - left) / len(values)
    body = [_y_axis(y, ticks, left), _title(table.columns[1], 4, 14, "start")]
    labels = [(f"{row[0]:.4g}" if is_real(row[0]) else shorten(row[0], 14)).replace("-", "−") for row in table.rows]
    for i, value in enumerate(values):
        middle = left + band * (i + 0.5)
        if is_finite(value):
            top, bottom = sorted((y.at(float(value)), y.at(0.0)))
            width = band * (0.94 if is_binned else 0.7)
            tip = f"{table.columns[0]} {labels[i]}: {table.columns[1]} {number(value)}"
            body.append(_rect(middle - width / 2, top, width, bottom - top, tip))
            if whiskers[i]:
                body.append(f'<path class="whisker" d="M{middle:.1f} {y.at(whiskers[i][0]):.1f}V{y.at(whiskers[i][1]):.1f}"/>')
        else:
            body.append(f'<text class="nan" x="{middle:.1f}" y="{y.at(0.0) - 4:.1f}" text-anchor="middle">n/a</text>')
    body.append(f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y.at(0.0):.1f}" y2="{y.at(0.0):.1f}"/>')
    body.append(_zero_line([_centre(row[0]) for row in table.rows], left, band))
    middles = [left + band * (i + 0.5) for i in range(len(labels))]
    body.append(_x_labels(middles, labels) + _title(table.columns[0], (left + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle"))
    return "".join(body)


def _centre(label: object) -> float:
    """The number that labels a bin, NaN when the label is none."""
    try:
        return float(str(label))
    except ValueError:
        return math.nan


def _zero_line(labels: Sequence[float], left: float, band: float) -> str:
    """Where zero lies between numeric bins: the border between right and wrong in a histogram of margins."""
    for i, (before, after) in enumerate(pairwise(labels)):
        if before < 0 <= after:
            x = left + band * (i + 0.5 - before / (after - before))
            return f'<line class="zero" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{HEIGHT - BOTTOM}"/>'
    return ""


def _lying(table: Table, values: Sequence[object], whiskers: Sequence, low: float, high: float) -> str:
    """Bars that lie beside long labels, each with its value."""
    labels = [shorten(row[0], 22) for row in table.rows]
    left = 12 + CHARACTER * max(len(label) for label in labels)
    x = Axis(low, high, left + (48 if low < 0 else 0), WIDTH - 64)
    body = [_title(table.columns[0], left - 8, 14, "end"), _title(table.columns[1], left, 14, "start")]
    for i, value in enumerate(values):
        middle = TOP + 24 * i + 12
        body.append(f'<text x="{left - 8}" y="{middle}" dy=".33em" text-anchor="end">{escape(labels[i])}</text>')
        if is_finite(value):
            start, end = sorted((x.at(0.0), x.at(float(value))))
            body.append(_rect(start, middle - 8, end - start, 16, f"{table.rows[i][0]}: {table.columns[1]} {number(value)}"))
            if whiskers[i]:
                body.append(f'<path class="whisker" d="M{x.at(whiskers[i][0]):.1f} {middle}H{x.at(whiskers[i][1]):.1f}"/>')
            end = max([end, *(x.at(edge) for edge in whiskers[i] or ())])
            body.append(f'<text class="value" x="{end + 6:.1f}" y="{middle}" dy=".33em">{escape(_cell(value))}</text>')
        else:
            body.append(f'<text class="nan" x="{x.at(0.0) + 6:.1f}" y="{middle}" dy=".33em">n/a</text>')
    bottom = TOP + 24 * len(values)
    body.append(f'<line class="axis" x1="{x.at(0.0):.1f}" x2="{x.at(0.0):.1f}" y1="{TOP}" y2="{bottom}"/>')
    return "".join(body)


def _reliability(table: Table, key: str) -> str:
    names = ("predicted", "observed", "low", "high", "n")
    index = [table.columns.index(name) if name in table.columns else i for i, name in enumerate(names)]
    cells = [[row[i] if i < len(row) else None for i in index] for row in table.rows]
    rows = [[float(cell) if is_finite(cell) else math.nan for cell in row] for row in cells]
    rows = [row for row in rows if not math.isnan(row[0] + row[1])]
    if not rows:
        return ""
    size, left, height = 320, 56, 400
    floor = 0.5 if not any(cell < 0.5 for row in rows for cell in row[:3]) else 0.0
    x, y = Axis(floor, 1.0, left, left + size), Axis(floor, 1.0, TOP + size, TOP)
    ticks = round_ticks(floor, 1.0)
    body = [_y_axis(y, ticks, left, left + size), _x_axis(x, ticks, _tick_labels(ticks), table.columns[index[0]], height)]
    body.append(
        f'<path class="diagonal" d="M{left} {TOP + size}L{left + size} {TOP}"/>{_title(table.columns[index[1]], 4, 14, "start")}'
    )
    most = max((row[4] for row in rows if row[4] > 0), default=0.0)
    for predicted, observed, low, high, n in rows:
        px = x.at(predicted)
        if low <= high:
            body.append(f'<path class="whisker" d="M{px:.1f} {y.at(low):.1f}V{y.at(high):.1f}"/>')
        radius = max(2.0, 11 * math.sqrt(n / most)) if n > 0 else 4.0
        tip = f"predicted {number(predicted)}, observed {number(observed)}" + ("" if math.isnan(n) else f", n = {n:,.0f}")
        body.append(_circle("point area", px, y.at(observed), radius, tip))
    body.append(_size_legend(most, left + size + 14))
    about = f"Reliability diagram: observed against predicted in {len(rows)} bins, with the diagonal of perfect calibration."
    return _svg(table, key, about, f'<g class="s0">{"".join(body)}</g>', height)


def _size_legend(most: float, left: float) -> str:
    """What the area of a point stands for: the largest n, and a tenth of it."""
    parts = []
    for i, n in enumerate((most, most / 10) if most >= 20 else (most,) if most else ()):
        middle = TOP + 34 + 28 * i
        parts.append(f'<circle class="area" cx="{left + 11}" cy="{middle}" r="{11 * math.sqrt(n / most):.1f}"/>')
        parts.append(f'<text x="{left + 26}" y="{middle}" dy=".33em">{n:,.0f}</text>')
    return _title("n", left + 11, TOP + 12, "middle") + "".join(parts) if parts else ""


def _y_axis(y: Axis, ticks: Sequence[float], left: float, right: float = WIDTH - RIGHT) -> str:
    parts = []
    for tick, label in zip(ticks, _tick_labels(ticks), strict=True):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y.at(tick):.1f}" y2="{y.at(tick):.1f}"/>')
        parts.append(f'<text x="{left - 7}" y="{y.at(tick):.1f}" dy=".33em" text-anchor="end">{label}</text>')
    return "".join(parts)


def _x_axis(x: Axis, ticks: Sequence[float], labels: Sequence[str], title: str, height: float = HEIGHT) -> str:
    bottom = height - BOTTOM if height == HEIGHT else TOP + (x.end - x.start)
    line = f'<line class="axis" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{bottom}" y2="{bottom}"/>'
    labelled = _x_labels([x.at(tick) for tick in ticks], labels, bottom)
    return line + labelled + _title(title, (x.start + x.end) / 2, bottom + 38, "middle")


def _x_labels(middles: Sequence[float], labels: Sequence[str], bottom: float = HEIGHT - BOTTOM) -> str:
    """Labels under an axis, every k-th of them so that none runs into the next."""
    spacing = (middles[-1] - middles[0]) / (len(middles) - 1) if len(middles) > 1 else math.inf
    every = max(1, math.ceil((CHARACTER * max(len(label) for label in labels) + 6) / spacing))
    return "".join(
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(label)}</text>'
        for x, label in list(zip(middles, labels, strict=True))[::every]
    )


def _svg(table: Table, key: str, about: str, body: str, height: float = HEIGHT) -> str:
    ids = f"{key}-title {key}-about"
    head = f'<title id="{key}-title">{escape(table.title)}</title><desc id="{key}-about">{escape(about)}</desc>'
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{ids}">{head}{body}</svg>'


def _circle(css: str, x: float, y: float, radius: float, tip: str) -> str:
    return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{escape(tip)}</title></circle>'


def _rect(x: float, y: float, width: float, height: float, tip: str) -> str:
    return (
        f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"><title>{escape(tip)}</title></rect>'
    )


def _title(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text class="name" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shorten(text, 40))}</text>'


def _colour(i: int) -> str:
    """Colour and dash of the i-th series: beyond six, colours come again with another dash."""
    return f"s{i % NUM_COLOURS} d{(i + i // NUM_COLOURS) % NUM_COLOURS}"


def _left(labels: Sequence[str]) -> float:
    return 14 + CHARACTER * max(len(label) for label in labels)


def _cell(cell: object) -> str:
    return number(cell).replace("-", "−") if is_real(cell) else shorten(cell, 60)
