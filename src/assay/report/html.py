"""Reports as one self-contained page: no script, no request, readable on a telephone, on paper and in the dark.

The first screen has what matters (`first_screen`), then comes every report, folded where there are several: facts, metrics with
intervals, charts with their numbers, examples to look at.
Every text passes `escape`, so that what a model or a data set wrote stays text.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from assay import __version__
from assay.files import write_text
from assay.messages import Message
from assay.records import Metric, Report, Table
from assay.report.charts import interval_mark, num_missing
from assay.report.first_screen import data, first_screen, icon, not_computed
from assay.report.headline import COUNTED, ORDER, UNBOUNDED, headline
from assay.report.panels import chart_of
from assay.report.text import escape, is_finite, is_real, places, visible
from assay.report.trace import trace_html

LONG_TEXT = 700  # characters beyond which a text is collapsed
PREVIEW = 320
NUM_SHOWN = 6  # examples of one kind that stand open
NUM_TURNS = 3  # turns of a prompt that stand open, counted from the last
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_html(reports: Sequence[Report], *, title: str) -> str:
    """The page of the reports, as UTF-8-ready text. Raises ValueError when there is no report to show."""
    reports = list(reports)
    if not reports:
        raise ValueError("no report to render: give at least one Report")
    style = resources.files("assay.report").joinpath("page.css").read_text(encoding="utf-8")
    drawn = [(i, t) for i, report in enumerate(reports) for t, table in enumerate(report.tables) if table.chart != "none"]
    above = drawn[0] if drawn else None
    picture = "" if above is None else _figure(reports[above[0]].tables[above[1]], f"report-{above[0] + 1}-table-{above[1] + 1}")
    is_folded = len(reports) > 1
    sections = "".join(_section(report, i, above, is_folded) for i, report in enumerate(reports))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n</header>\n"
        f"<main>\n{first_screen(headline(reports), reports, picture)}{sections}</main>\n"
        f"<footer>Written by Assay {escape(__version__)}. Where it says n/a, there was nothing to compute.</footer>\n"
        "</body>\n</html>\n"
    )


def write_html(path: str | os.PathLike[str], reports: Sequence[Report], title: str) -> None:
    """Write the page to `path` at once: a reader sees the old page or the new one, never a part. Makes missing folders."""
    write_text(Path(path), render_html(reports, title=title))


def _section(report: Report, i: int, above: tuple[int, int] | None, is_folded: bool) -> str:
    """A report below the first screen; one of several is folded under its title and the count of its checks. The section itself has
    the id, so that a link to it unfolds what is around it."""
    body = _report(report, f"report-{i + 1}", above[1] if above and above[0] == i else None, is_folded)
    if not is_folded:
        return body
    counts = Counter(finding.level for finding in report.findings)
    marks = " ".join(
        f'<span class="{level}">{icon(level)} {counts[level]}&nbsp;{COUNTED[level]}</span>' for level in ORDER if counts[level]
    )
    summary = f'<h2>{escape(report.title)}</h2><span class="marks">{marks}</span>'
    return f'<details class="report">\n<summary>{summary}</summary>\n{body}</details>\n'


def _report(report: Report, key: str, above: int | None, is_folded: bool) -> str:
    """Facts, metrics, tables and examples. above: number of the table that stands on the first screen."""
    opening = f'<section id="{key}" aria-label="{escape(report.title)}">\n'
    if not is_folded:
        opening = (
            f'<section class="report" id="{key}" aria-labelledby="{key}-name">\n<h2 id="{key}-name">{escape(report.title)}</h2>\n'
        )
    parts = [opening]
    if report.facts:
        facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in report.facts.items())
        parts.append(f'<dl class="facts">{facts}</dl>\n')
    if report.metrics:
        parts.append(_metrics(report.metrics))
    figures: list[str] = []
    for i, table in enumerate(report.tables):
        if i == above:
            continue
        if table.chart == "none" and figures:
            parts.append(f'<div class="figures">\n{"".join(figures)}</div>\n')
            figures = []
        if table.chart == "none":
            parts.append(f'<div class="plain">\n<h3>{escape(table.title)}</h3>\n{_note(table.note)}{_grid(table)}</div>\n')
        else:
            figures.append(_figure(table, f"{key}-table-{i + 1}"))
    if figures:
        parts.append(f'<div class="figures">\n{"".join(figures)}</div>\n')
    return "".join([*parts, _examples(report.examples), "</section>\n"])


def _metrics(metrics: Sequence[Metric]) -> str:
    has_marks = any(_is_share(metric) for metric in metrics)
    mark_head = '<th scope="col" class="markcell">0 to 1</th>' if has_marks else ""
    rows = []
    for metric in metrics:
        decimals = places([metric.value, metric.low, metric.high])
        if is_finite(metric.value) or math.isinf(metric.value):
            mark = interval_mark(metric.value, metric.low, metric.high, 0.0, 1.0) if _is_share(metric) else ""
            cells = f'<td class="number value">{data(metric.value, decimals)}</td>'
            cells += f'<td class="number">{_interval(metric, decimals)}</td>'
            cells += f'<td class="markcell">{mark}</td>' if has_marks else ""
        else:
            cells = f'<td colspan="{3 if has_marks else 2}">{not_computed()}</td>'
        scored = f"{metric.n_scored:,} / {metric.n:,}" if metric.n or metric.n_scored else _muted("not stated")
        scored = f'<b class="warn">{scored}</b>' if metric.n_scored < metric.n else scored
        note = f'<div class="note">{escape(metric.note)}</div>' if metric.note else ""
        rows.append(f'<tr><th scope="row">{escape(metric.name)}{note}</th>{cells}<td class="number">{scored}</td></tr>\n')
    head = '<th scope="col">Metric</th><th scope="col" class="number">Value</th><th scope="col" class="number">Interval</th>'
    head += mark_head + '<th scope="col" class="number">Scored / all</th>'
    return _scroll(
        "Metrics", f'<table class="metrics">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>\n</table>'
    )


def _is_share(metric: Metric) -> bool:
    """Whether a metric belongs on the shared axis from 0 to 1: accuracies with an interval, which one compares with each other."""
    return "accuracy" in metric.name.lower() and all(0.0 <= end <= 1.0 for end in (metric.value, metric.low, metric.high))


def _interval(metric: Metric, decimals: int) -> str:
    if not (math.isfinite(metric.low) or math.isfinite(metric.high)):
        return _muted("no interval")
    if not (math.isfinite(metric.low) and math.isfinite(metric.high)):
        start, end = ("from", metric.low) if math.isfinite(metric.low) else ("up to", metric.high)
        return f"{start} {data(end, decimals)}, {UNBOUNDED}"
    return f"[{data(metric.low, decimals)}, {data(metric.high, decimals)}]"


def _figure(table: Table, key: str) -> str:
    chart = chart_of(table, key)
    missing, wanted = num_missing(table)
    count = (
        f'<p class="note">{missing:,} of {wanted:,} values were not measured or could not be computed: gaps, not zeros.</p>\n'
        if missing
        else ""
    )
    numbers = f"<details{'' if chart else ' open'}><summary>The numbers</summary>\n{_grid(table)}</details>"
    chart = chart or '<p class="nan">Nothing to draw: no value could be computed.</p>'
    caption = f"<figcaption><h3>{escape(table.title)}</h3>\n{_note(table.note)}</figcaption>"
    return f"<figure>\n{caption}\n{chart}\n{count}{numbers}\n</figure>\n"


def _grid(table: Table) -> str:
    """A table of numbers and words; where it has columns low and high, the intervals are drawn beside them."""
    width = max(len(table.columns), *(len(row) for row in table.rows), 0)
    names = (*table.columns, *[""] * (width - len(table.columns)))
    rows = [tuple(row) + (None,) * (width - len(row)) for row in table.rows]
    is_numeric = [
        any(is_real(row[c]) for row in rows) and all(is_real(row[c]) or row[c] is None for row in rows) for c in range(width)
    ]
    decimals = [places(row[c] for row in rows) for c in range(width)]
    if {"low", "high"} <= set(table.columns):
        ends = [table.columns.index(name) for name in ("low", "high")]
        shared = places(row[c] for row in rows for c in (min(ends) - 1, *ends) if c >= 0)
        decimals = [shared if c in (min(ends) - 1, *ends) else decimals[c] for c in range(width)]
    marks = _marks(table, rows)
    place = names.index("high") if marks else -1
    heads = [f'<th scope="col"{_align(is_numeric[c])}>{escape(name)}</th>' for c, name in enumerate(names)]
    head = "".join(f'{cell}<td class="markcell"></td>' if c == place else cell for c, cell in enumerate(heads))
    body = []
    for i, row in enumerate(rows):
        cells = []
        for c, cell in enumerate(row):
            tag = 'th scope="row"' if c == 0 else "td"
            cells.append(f"<{tag}{_align(is_numeric[c])}>{_cell(cell, decimals[c])}</{tag[:2]}>")
            if c == place:
                cells.append(f'<td class="markcell">{marks[i]}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>\n")
    return _scroll(table.title, f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(body)}</tbody>\n</table>")


def _marks(table: Table, rows: Sequence[Sequence[object]]) -> list[str]:
    """One interval mark a row for a value that stands just before the columns low and high; none when it does not."""
    names = list(table.columns)
    if table.chart == "reliability" or not {"low", "high"} <= set(names) or names.index("low") == 0:
        return []
    value, low, high = names.index("low") - 1, names.index("low"), names.index("high")
    finite = [float(cell) for row in rows for cell in (row[value], row[low], row[high]) if is_finite(cell)]
    if not finite or min(finite) == max(finite):
        return []
    axis = (0.0, 1.0) if min(finite) >= 0 and 0.25 < max(finite) <= 1 else (min(finite), max(finite))
    marks = []
    for row in rows:
        cells = [cell if is_finite(cell) else math.nan for cell in (row[value], row[low], row[high])]
        marks.append("" if math.isnan(cells[0]) else interval_mark(cells[0], cells[1], cells[2], *axis))
    return marks


def _examples(examples: Sequence[Mapping[str, object]]) -> str:
    if not examples:
        return ""
    kinds: dict[str, list[str]] = {}
    for example in examples:
        kinds.setdefault(visible(example.get("kind") or "examples"), []).append(_example(example))
    parts = []
    for kind, articles in kinds.items():
        shown, rest = articles[:NUM_SHOWN], articles[NUM_SHOWN:]
        parts.append(f"<h3>Examples: {escape(kind)}</h3>\n{''.join(shown)}")
        if rest:
            parts.append(f"<details><summary>{len(rest):,} more</summary>\n{''.join(rest)}</details>\n")
    return "".join(parts)


def _example(example: Mapping[str, object]) -> str:
    texts = {name: value for name, value in example.items() if isinstance(value, str) and (len(value) > 80 or "\n" in value)}
    answers = {name: example[name] for name in ("chosen", "rejected", "response") if example.get(name) is not None}
    answers |= {name: value for name, value in texts.items() if name not in ("kind", "prompt", *answers)}
    about = {name: value for name, value in example.items() if name not in ("kind", "prompt", "trace", *answers)}
    chips = "".join(
        f"<div>{escape(name)} <b>{_chip(value)}</b></div>" for name, value in about.items() if value not in ("", {}, ())
    )
    panes = "".join(
        f'<div class="answer{f" {name}" if name in ("chosen", "rejected") else ""}">'
        f"<h4>{escape(str(name).capitalize())}</h4>{_text(text)}</div>"
        for name, text in answers.items()
    )
    prompt, trace = _prompt(example.get("prompt")), trace_html(example.get("trace"))
    about_line = f'<div class="about">{_preference(example)}{chips}</div>'
    return f'<article class="example">\n{about_line}\n{prompt}<div class="answers">{panes}{trace}</div>\n</article>\n'


def _prompt(prompt: object) -> str:
    """The turns of a prompt: records, what JSON made of them, or a plain text; earlier turns of a long talk are folded."""
    turns = []
    entries = [("user", prompt)] if isinstance(prompt, str) else prompt if isinstance(prompt, Iterable) else []
    for entry in entries:
        entry = entry.as_dict() if isinstance(entry, Message) else entry
        if isinstance(entry, Mapping):
            role, content = entry.get("role", ""), entry.get("content", "")
            if extras := {name: value for name, value in entry.items() if name not in ("role", "content")}:  # tool calls, reasoning
                content = f"{content}\n{json.dumps(extras, ensure_ascii=False)}".strip()
        else:
            role, content = entry if isinstance(entry, Sequence) and len(entry) == 2 and not isinstance(entry, str) else ("", entry)
        turns.append(f'<div class="turn"><span class="role">{escape(role)}</span>{_text(content)}</div>\n')
    earlier, last = turns[:-NUM_TURNS], turns[-NUM_TURNS:]
    folded = f"<details><summary>{len(earlier)} earlier turns</summary>\n{''.join(earlier)}</details>\n" if earlier else ""
    return folded + "".join(last)


def _text(text: object) -> str:
    plain = visible(text)
    if not plain.strip():
        return '<div class="text muted">(empty)</div>'
    if len(plain) <= LONG_TEXT:
        return f'<div class="text" dir="auto">{escape(plain)}</div>'
    opener = (
        f'<span class="more"><span class="closed">show all {len(plain):,} characters</span><span class="opened">fold</span></span>'
    )
    preview = f'<span class="preview text" dir="auto">{escape(plain[:PREVIEW].rstrip())}… </span>'
    return f'<details class="long"><summary>{preview}{opener}</summary><div class="text" dir="auto">{escape(plain)}</div></details>'


def _chip(value: object) -> str:
    if value is None or (is_real(value) and math.isnan(value)):
        return not_computed()
    if isinstance(value, Mapping):
        return escape(", ".join(f"{name}: {entry}" for name, entry in value.items()))
    return data(value) if is_real(value) else escape(value)


def _preference(example: Mapping[str, object]) -> str:
    """In words which answer the margin prefers."""
    margin = example.get("margin")
    if not is_finite(margin):
        return ""
    return f"<div>{'tie' if margin == 0 else 'prefers the chosen answer' if margin > 0 else 'prefers the rejected answer'}</div>"


def _cell(cell: object, decimals: int) -> str:
    if cell is None or (is_real(cell) and cell != cell):  # NaN alone differs from itself
        return '<span class="nan">n/a</span>'
    if is_real(cell):
        return data(cell, decimals)
    return ("yes" if cell else "no") if isinstance(cell, bool) else escape(cell)


def _scroll(name: str, table: str) -> str:
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">\n{table}\n</div>\n'


def _note(note: str) -> str:
    return f'<p class="note">{escape(note)}</p>\n' if note else ""


def _muted(text: str) -> str:
    return f'<span class="muted">{escape(text)}</span>'


def _align(is_numeric: bool) -> str:
    return ' class="number"' if is_numeric else ""
