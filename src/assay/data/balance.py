"""What the labels of pairs go along with: markdown, the place of an answer in its row, the script of the texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from assay.records import Finding, Metric, Table
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import mean, wilson_interval

MAX_LEAD = 0.10  # how far from one half what should not decide may win
_MARKDOWN = re.compile(r"(?m)^\s{0,3}(?:[-*•]\s+\S|\d+[.)]\s+\S|#{1,6}\s+\S|```)|\*\*[^*\n]+\*\*|^\|.+\|\s*$")


def has_markdown(text: str) -> bool:
    """Whether a text has bullets, numbered points, headings, bold words, code fences or table rows of markdown."""
    return _MARKDOWN.search(text) is not None


def markdown_wins(
    chosen_P: np.ndarray, rejected_P: np.ndarray, direction_P: np.ndarray, prompt_P: np.ndarray, *, seed: int
) -> Metric:
    """How often, where one of two answers alone has markdown, that one is preferred, with an interval by prompt.

    chosen_P, rejected_P: which has; direction_P: 1 where chosen is preferred, -1 where rejected is, 0 for a tie.
    """
    lead_P = (chosen_P.astype(np.int64) - rejected_P) * direction_P
    wins_P = np.where(lead_P == 0, np.nan, (lead_P > 0).astype(np.float64))
    interval = mean_interval(wins_P, prompt_P, seed=seed)
    num_compared = int(np.isfinite(wins_P).sum())
    note = "of the pairs in which one answer alone has it"
    return Metric("markdown preferred", mean(wins_P), *interval, num_compared, len(wins_P), note)


def first_wins(positions: Mapping[tuple[str, int], int]) -> Metric:
    """How often the answer that stands first in its row is preferred, with Wilson's interval; NaN where the form decides its place.

    positions: (form, 0) -> cases of a form in which the first of two answers is preferred, (form, 1) -> those in which the second
    is. A form of which one place alone is preferred names the better answer, and is left out.
    """
    forms = {form for form, _ in positions}
    labelled = [form for form in forms if positions.get((form, 0)) and positions.get((form, 1))]
    first, second = (sum(positions[form, place] for form in labelled) for place in (0, 1))
    total = first + second
    if not labelled:
        note = "the form names the better answer: its place says nothing" if forms else "no case has two answers of unequal worth"
        return Metric("first answer preferred", math.nan, n=sum(positions.values()), note=note)
    interval = wilson_interval(first, total)
    note = "of the rows with two answers, which say by a label which one is better"
    return Metric("first answer preferred", first / total, interval.low, interval.high, total, total, note)


def lead(metric: Metric, name: str, advice: str) -> Finding:
    """Warns where the whole interval of a share of wins lies outside of one half and a tenth to either side."""
    threshold = 0.5 + MAX_LEAD
    if not math.isfinite(metric.value):
        return Finding("ok", name, metric.value, threshold, metric.note)
    seen = f"{metric.name} in {metric.value:.1%} [{metric.low:.1%}, {metric.high:.1%}] of {metric.n_scored:,} pairs"
    if metric.low > threshold or metric.high < 1 - threshold:
        return Finding("warn", name, metric.value, threshold, f"{seen}: {advice}")
    return Finding("ok", name, metric.value, threshold, seen)


def script_table(scripts: Mapping[tuple[str, str], int]) -> Table:
    """The scripts of prompts and answers: (script of the prompt, of the two answers) -> pairs."""
    total = sum(scripts.values())
    rows = tuple((prompt, answers, count, count / total) for (prompt, answers), count in Counter(scripts).most_common())
    columns = ("prompt", "answers", "pairs", "share")
    return Table(title="Scripts", columns=columns, rows=rows, note="the script of most letters of each text")
