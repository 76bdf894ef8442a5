"""What is said first of reports: one sentence, at most four figures beside what they are held against, the checks that did not pass
with what to do. The first screen of a page and the last words of a command are both made of it.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from assay.records import Finding, Level, Metric, Report
from assay.report.remedies import remedy_of
from assay.report.text import number, places, shorten, visible

NUM_FIGURES = 4
NUM_LINES, WIDTH = 12, 100  # of a command's summary
LABEL = 12  # characters of the names before its lines
ORDER: tuple[Level, ...] = ("fail", "warn", "ok")
COUNTED: Mapping[Level, str] = {"fail": "failed", "warn": "to look at", "ok": "passed"}
UNBOUNDED = "not bounded by these data"


class Beside(NamedTuple):
    """What a figure is held against: another metric under a shorter name, or words alone (metric None)."""

    name: str
    metric: Metric | None


class Figure(NamedTuple):
    """A metric to be seen first. report: the number, from 0, of its report; is_repeated: another report's has the same name."""

    name: str
    metric: Metric
    beside: tuple[Beside, ...]
    report: int
    is_repeated: bool = False


class Concern(NamedTuple):
    """A finding, what to do about it ("" where nothing is known, or an earlier one says it), and the number of its report."""

    finding: Finding
    remedy: str
    report: int


class Headline(NamedTuple):
    """worst: level of the worst finding, None without any. concerns: what did not pass, the most important first."""

    lead: str
    worst: Level | None
    counts: str
    figures: tuple[Figure, ...]
    concerns: tuple[Concern, ...]
    passed: tuple[Concern, ...]


def headline(reports: Sequence[Report]) -> Headline:
    """What is to be seen first of the reports, the first of which leads."""
    found = [Concern(finding, remedy_of(finding), i) for i, report in enumerate(reports) for finding in report.findings]
    ordered = sorted(found, key=lambda concern: _urgency(concern.finding))
    concerns, passed = ([c for c in ordered if (c.finding.level == "ok") is is_ok] for is_ok in (False, True))
    return Headline(
        lead=next((report.lead for report in reports if report.lead), ""),
        worst=ordered[0].finding.level if ordered else None,
        counts=counts_of([concern.finding for concern in ordered]),
        figures=_figures(reports),
        concerns=tuple(_remedies_once(concerns)),
        passed=tuple(passed),
    )


def _remedies_once(concerns: Sequence[Concern]) -> list[Concern]:
    """The same concerns; what to do about several of them stands with the first."""
    first = {concern.remedy: i for i, concern in reversed(list(enumerate(concerns)))}
    return [concern if first[concern.remedy] == i else concern._replace(remedy="") for i, concern in enumerate(concerns)]


def counts_of(findings: Sequence[Finding]) -> str:
    """Of 9 checks: 1 to look at, 8 passed."""
    if not findings:
        return "No checks were made."
    counts = Counter(finding.level for finding in findings)
    parts = ", ".join(f"{counts[level]} {COUNTED[level]}" for level in ORDER if counts[level])
    return f"Of {len(findings)} checks: {parts}." if len(findings) > 1 else f"One check: {parts.removeprefix('1 ')}."


def _urgency(finding: Finding) -> tuple[int, bool, bool, float]:
    """Failures first; then what was measured and decides a way of failing; what could not be measured last. Of alike ones first
    what is farthest from its threshold, as a ratio."""
    size, threshold = abs(finding.value), abs(finding.threshold)
    is_known = math.isfinite(size) and math.isfinite(threshold) and size > 0 and threshold > 0
    distance = abs(math.log(size) - math.log(threshold)) if is_known else 0.0
    return ORDER.index(finding.level), math.isnan(finding.value), finding.failure is None, -distance


def _figures(reports: Sequence[Report]) -> tuple[Figure, ...]:
    """The first report's key figures, then the others' while there is room; of reports that name none, metrics with an interval."""
    named = [_key_figures(report, i) for i, report in enumerate(reports)]
    if not any(named):
        named = [
            [Figure(m.name, m, (), i) for m in report.metrics if not math.isnan(m.value) and not (math.isnan(m.low) and m.n > 1)]
            for i, report in enumerate(reports)
        ]
    shown = [figure for figures in named for figure in figures][:NUM_FIGURES]
    names = Counter(figure.name for figure in shown)
    return tuple(figure._replace(is_repeated=names[figure.name] > 1) for figure in shown)


def _key_figures(report: Report, i: int) -> list[Figure]:
    metrics = {metric.name: metric for metric in report.metrics}
    return [
        Figure(name, metrics[name], tuple(Beside(_short(other, name), metrics.get(other)) for other in beside), i)
        for name, beside in report.key.items()
        if name in metrics and not math.isnan(metrics[name].value)
    ]


def _short(name: str, figure: str) -> str:
    """A rival's name without what it shares with the figure's; "by length" for a baseline."""
    starts = (f"{figure}: ", f"{figure}, ", f"{figure.split(':')[0]}: ")
    own = next((name.removeprefix(start) for start in starts if name.startswith(start) and len(name) > len(start)), name)
    return f"by {own.removesuffix(' baseline')}" if own.endswith(" baseline") else own


def is_percent(metric: Metric) -> bool:
    """Whether a metric is a share, to be written in percent."""
    ends = (metric.value, metric.low, metric.high)
    has_name = "accuracy" in metric.name.lower() or "share" in metric.name.lower()
    return has_name and all(math.isnan(end) or -1.0 <= end <= 1.0 for end in ends)


def value_text(metric: Metric) -> str:
    """74.5%, 0.167, +0.94 for a mean rise, or n/a: at most four significant digits."""
    return _figure_text(metric, metric.value)


def interval_text(metric: Metric) -> str:
    """[67.3, 80.6]; "from 3, not bounded by these data" where one end is not known; "" without an interval."""
    low, high = (end if math.isfinite(end) else math.nan for end in (metric.low, metric.high))
    if math.isnan(metric.value) or (math.isnan(low) and math.isnan(high)):
        return ""
    if math.isnan(high):
        return f"from {significant(low)}, {UNBOUNDED}"
    if math.isnan(low):
        return f"up to {significant(high)}, {UNBOUNDED}"
    return f"[{_figure_text(metric, low).rstrip('%')}, {_figure_text(metric, high).rstrip('%')}]"


def _figure_text(metric: Metric, value: float) -> str:
    if is_percent(metric) and not math.isnan(value):
        return f"{100 * value:+.1f}%" if metric.low < 0 or value < 0 else f"{100 * value:.1f}%"
    if math.isnan(value):
        return "n/a"
    ends = [abs(end) for end in (metric.value, metric.low, metric.high) if math.isfinite(end)]
    has_interval, largest = len(ends) == 3, max(ends, default=0.0)
    if not has_interval or not 1e-5 <= largest < 1e4:
        return significant(value)
    return number(value, places(ends) if largest < 1 else 2 if largest < 10 else 1 if largest < 1000 else 0)


def significant(value: float) -> str:
    """A number in at most four significant digits, 0.167 rather than 0.16701; whole numbers below a million as they are."""
    value = float(value)
    if not math.isfinite(value) or (value.is_integer() and abs(value) < 1e6):
        return number(int(value)) if math.isfinite(value) else number(value)
    return f"{value:.3g}" if abs(value) < 1e-3 else number(float(f"{value:.{3 if abs(value) < 10 else 4}g}"))


def figure_text(metric: Metric) -> str:
    """72.3% [68.6, 75.9], 0.203 [0.191, 0.215], 3 or n/a."""
    return f"{value_text(metric)} {interval_text(metric)}".rstrip()


def report_rows(report: Report) -> list[tuple[str, str, str]]:
    """The metrics of a report and the findings that are not ok, as rows of `console.figure_table`."""
    rows = []
    for metric in report.metrics:
        count = f"{metric.n_scored:,} of {metric.n:,}" if metric.n else ""
        rows.append((metric.name, figure_text(metric), "; ".join(part for part in (count, metric.note) if part)))
    concerns = [finding for finding in report.findings if finding.level != "ok"]
    return rows + [(f"{finding.level}: {finding.name}", significant(finding.value), finding.why) for finding in concerns]


def summary_lines(reports: Sequence[Report], *, closing: Mapping[str, str], title: str = "") -> list[str]:
    """A command's last words, at most 12 lines of 100 characters: title, sentence, figures, verdict, the one warning that matters
    with what to do, and `closing`: what -> words, such as report -> its path and next -> a command."""
    first, said = headline(reports), [(name, words) for name, words in closing.items() if words]
    opening = [shorten(title or _title(reports), WIDTH), *([shorten(first.lead, WIDTH)] if first.lead else [])]
    verdict = _line("verdict", first.counts)
    warning = _warning(first.concerns[0], reports) if first.concerns else []
    ending = [_line(name, words) for name, words in said]
    room = NUM_LINES - len(opening) - 1 - len(warning) - len(ending)
    figures = _figure_lines(first.figures[: max(room, 0)], reports)
    return [*opening, *figures, verdict, *warning, *ending][:NUM_LINES]


def _title(reports: Sequence[Report]) -> str:
    others = len(reports) - 1
    return reports[0].title + (f" (and {others} more report{'s' if others > 1 else ''})" if others else "")


def _line(name: str, words: str) -> str:
    """A named line; what is too long for it loses its end, and the place of a report its beginning."""
    words, room = " ".join(visible(words).split()), WIDTH - LABEL
    if len(words) > room and name == "report":
        words = f"…{words[-room + 1 :]}"
    return f"{shorten(name, LABEL - 1):<{LABEL}}{shorten(words, room)}"


def _figure_lines(figures: Sequence[Figure], reports: Sequence[Report]) -> list[str]:
    """The figures as columns: name, value, interval, and beside it what it is held against."""
    cells = []
    for figure in figures:
        name = f"{reports[figure.report].title}: {figure.name}" if figure.is_repeated else figure.name
        beside = shorten(beside_text(figure.beside), WIDTH)
        cells.append((shorten(name, 34), value_text(figure.metric), interval_text(figure.metric), beside))
    widths = [max((len(row[c]) for row in cells), default=0) for c in range(3)]
    lines = (
        f"{name:<{widths[0]}}  {value:>{widths[1]}} {interval:<{widths[2]}}  {beside}".rstrip()
        for name, value, interval, beside in cells
    )
    return [line if len(line) <= WIDTH else line[: WIDTH - 1].rstrip() + "…" for line in lines]


def beside_text(beside: Sequence[Beside]) -> str:
    """length baseline 49.1%, bag-of-words baseline 57.8%"""
    return ", ".join(one.name if one.metric is None else f"{one.name} {value_text(one.metric)}" for one in beside)


def _warning(concern: Concern, reports: Sequence[Report]) -> list[str]:
    """The finding in at most two lines, and in one what to do."""
    finding = concern.finding
    label, width = "failed" if finding.level == "fail" else "look at", WIDTH - LABEL
    origin = "" if concern.report == 0 else f" ({reports[concern.report].title})"
    words = textwrap.wrap(visible(f"{finding.name}{origin}: {finding.why}"), width, max_lines=2, placeholder=" …")
    lines = [f"{label if i == 0 else '':<{LABEL}}{line}" for i, line in enumerate(words)]
    return [*lines, *([_line("what to do", concern.remedy)] if concern.remedy else [])]
