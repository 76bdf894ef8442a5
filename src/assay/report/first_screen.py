"""The first screen of a page: one sentence, at most four figures beside what they are held against, one picture, and the checks
that did not pass with what to do. What passed is folded away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from assay.records import Level, Report
from assay.report.charts import interval_mark
from assay.report.headline import Beside, Concern, Figure, Headline, interval_text, is_percent, value_text
from assay.report.text import escape, number

NUM_OPEN = 3  # concerns that stand open
LEVELS: Mapping[Level, str] = {"fail": "Fail", "warn": "Warning", "ok": "OK"}
ICONS: Mapping[Level, str] = {
    "ok": '<circle cx="8" cy="8" r="7.25"/><path d="M4.6 8.3 7 10.7l4.6-5.2"/>',
    "warn": '<path d="M8 1.2 15.2 14.6H.8Z"/><path d="M8 6v4M8 12.2v.3"/>',
    "fail": '<path d="M5 .8h6L15.2 5v6L11 15.2H5L.8 11V5Z"/><path d="m5.3 5.3 5.4 5.4m0-5.4-5.4 5.4"/>',
}


def first_screen(first: Headline, reports: Sequence[Report], picture: str) -> str:
    """The section above all reports. picture: one figure as HTML, "" where nothing is drawn."""
    tiles = "".join(_tile(figure, reports) for figure in first.figures)
    lead = f'<p class="lead">{escape(first.lead)}</p>\n' if first.lead else ""
    figures = f'<div class="tiles">\n{tiles}</div>\n' if tiles else ""
    passed = _folded(f"{len(first.passed)} passed", first.passed, reports) if first.passed else ""
    checks = f"{_checks(first, reports)}{passed}"
    css = "wide" if 'class="panels"' in picture else "beside"  # several small pictures need the width
    beside = f'<div class="{css}">\n<div>{picture}</div>\n<div>{checks}</div>\n</div>\n' if picture else checks
    return f'<section class="first" aria-labelledby="verdict">\n{lead}{figures}{beside}</section>\n'


def _checks(first: Headline, reports: Sequence[Report]) -> str:
    opening = '<h2 id="verdict">Verdict</h2>\n'
    if first.worst is None:
        return f'{opening}<p class="headline">None: these reports hold no checks.</p>\n'
    shown, more = first.concerns[:NUM_OPEN], first.concerns[NUM_OPEN:]
    items = "".join(_concern(concern, reports) for concern in shown)
    listed = f'<ul class="findings">\n{items}</ul>\n' if items else ""
    folded = _folded(f"{len(more)} more that did not pass", more, reports) if more else ""
    mark = f'<span class="{first.worst}">{icon(first.worst)}</span>'
    return f'{opening}<p class="headline">{mark} {escape(first.counts)}</p>\n{listed}{folded}'


def _folded(name: str, concerns: Sequence[Concern], reports: Sequence[Report]) -> str:
    items = "".join(_concern(concern, reports) for concern in concerns)
    return f'<details class="folded"><summary>{escape(name)}</summary>\n<ul class="findings">\n{items}</ul>\n</details>\n'


def _concern(concern: Concern, reports: Sequence[Report]) -> str:
    finding, report = concern.finding, reports[concern.report]
    seen = not_computed() if math.isnan(finding.value) else data(finding.value)
    threshold = "no threshold" if math.isnan(finding.threshold) else f"threshold {data(finding.threshold)}"
    todo = f'<p class="todo"><b>What to do:</b> {escape(concern.remedy)}</p>' if concern.remedy else ""
    origin = f'<p class="note">in <a href="#report-{concern.report + 1}">{escape(report.title)}</a></p>' if len(reports) > 1 else ""
    return (
        f'<li><span class="level {finding.level}">{icon(finding.level)} {LEVELS[finding.level]}</span>'
        f'<div class="body"><span class="name">{escape(finding.name)}</span><p class="why">{escape(finding.why)}</p>'
        f"{todo}{origin}</div>"
        f'<div class="seen"><b>{seen}</b><span class="note">{threshold}</span></div></li>\n'
    )


def _tile(figure: Figure, reports: Sequence[Report]) -> str:
    """A figure large, its interval, and below what it is held against, on one scale where all are shares."""
    metric, interval = figure.metric, interval_text(figure.metric)
    origin = f' <span class="note">{escape(reports[figure.report].title)}</span>' if figure.is_repeated else ""
    rows = "".join(_rival(beside) for beside in figure.beside)
    low = f' <span class="note">{escape(interval.replace("-", "−"))}</span>' if interval else ""
    return (
        f'<div class="tile"><h3>{escape(figure.name)}{origin}</h3>'
        f'<p class="big">{escape(value_text(metric).replace("-", "−"))}{low}</p>{_mark(figure)}'
        f"{f'<dl>{rows}</dl>' if rows else ''}</div>\n"
    )


def _rival(beside: Beside) -> str:
    if beside.metric is None:
        return f"<div><dt>{escape(beside.name)}</dt><dd></dd></div>"
    shown = escape(value_text(beside.metric).replace("-", "−"))
    return f"<div><dt>{escape(beside.name)}</dt><dd>{shown}</dd></div>"


def _mark(figure: Figure) -> str:
    """A share and its interval between 0 and 1, with ticks where the others stand; nothing for what is no share."""
    metric = figure.metric
    ends = (metric.value, metric.low, metric.high)
    if not (is_percent(metric) and all(0.0 <= end <= 1.0 for end in ends)):
        return ""
    others = [one.metric.value for one in figure.beside if one.metric is not None and 0.0 <= one.metric.value <= 1.0]
    return interval_mark(*ends, 0.0, 1.0, others)


def icon(level: Level) -> str:
    paint = 'fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"'
    return f'<svg class="icon" viewBox="0 0 16 16" {paint} aria-hidden="true">{ICONS[level]}</svg>'


def data(value: float, decimals: int | None = None) -> str:
    """The number for the eye, with the whole of it for a machine."""
    return f'<data value="{escape(value)}">{escape(number(value, decimals)).replace("-", "−")}</data>'


def not_computed() -> str:
    return '<span class="nan">could not be computed</span>'
