"""What the demo prints and draws: a column for each model, and one sentence that is derived from the figures, whatever they are."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from assay.audit.probes.alarm import ProbeResult
from assay.commands.demo.bias import FLATTERY, MARKDOWN, PRAISE
from assay.evaluation.evaluate import EvaluationResult
from assay.evaluation.rivals import BAG_OF_WORDS, LENGTH
from assay.records import Finding, Metric, Table
from assay.report.headline import NUM_LINES, WIDTH, figure_text
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import CHANGE, Interval, is_right

CLEAN, BIASED, REPAIRED = "clean", "biased labeller", "repaired"
PLANTED_PROBES = (FLATTERY, MARKDOWN)
NEUTRAL = 0.25  # median margins within which a repaired habit counts as taken out


class Column(NamedTuple):
    """One model of the demo. rewards: (P, 2) of the held-out pairs, raw; gap: training less held-out accuracy."""

    name: str
    evaluation: EvaluationResult
    gap: Finding
    probes: ProbeResult
    rewards: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        return self.rewards[:, 0] - self.rewards[:, 1]

    def rise(self, probe: str) -> Metric:
        """By how much the probe raises the reward, in median margins."""
        return self.probes.mean_of(probe)

    @property
    def alarms(self) -> tuple[str, ...]:
        """The probes that failed."""
        return self.probes.failed


def demo_rows(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """The table: a name, then a cell for each column."""
    rows: list[tuple[str, list[str]]] = [
        ("held-out accuracy", [figure_text(column.evaluation.accuracy) for column in columns]),
        ("  by length", [_share(column.evaluation.baselines[LENGTH]) for column in columns]),
        ("  by bag-of-words", [_share(column.evaluation.baselines[BAG_OF_WORDS]) for column in columns]),
        ("gap to training", [f"{100 * column.gap.value:.1f} points" for column in columns]),
        ("Brier score", [f"{column.evaluation.brier.value:.3f}" for column in columns]),
        (PRAISE, [_figure(column.rise(FLATTERY), "+.2f") for column in columns]),
        ("markdown", [_figure(column.rise(MARKDOWN), "+.2f") for column in columns]),
        ("verdict", [_verdict(column) for column in columns]),
    ]
    return [(name, *cells) for name, cells in rows]


SHORT = ("held-out accuracy", "  by bag-of-words", "gap to training", PRAISE, "markdown", "verdict")
"""The rows of the table that the summary shows."""


def short_summary(columns: Sequence[Column], title: str, told: str, closing: Sequence[tuple[str, str]]) -> list[str]:
    """The demo's last words: the short table, the sentence, and closing lines (name, words): at most 12 lines of 100 characters."""
    rows = [("", *(column.name for column in columns)), *(row for row in demo_rows(columns) if row[0] in SHORT)]
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    table = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    ending = [f"{name:<8}{words}" for name, words in closing]
    room = NUM_LINES - 1 - len(table) - len(ending)
    words = textwrap.wrap(told, WIDTH, max_lines=room, placeholder=" …")
    return [line[:WIDTH] for line in (title, *table, *words, *ending)]


def figures_of(columns: Sequence[Column]) -> dict[str, list[Metric]]:
    """What is drawn and shown first: a figure of every model under each name, "figure: model"."""
    figures = {
        "held-out accuracy": [column.evaluation.accuracy for column in columns],
        f"rise by “{PRAISE}”": [column.rise(FLATTERY) for column in columns],
        "rise by markdown": [column.rise(MARKDOWN) for column in columns],
        "Brier score": [column.evaluation.brier for column in columns],
    }
    return {
        name: [metric._replace(name=f"{name}: {column.name}") for metric, column in zip(metrics, columns, strict=True)]
        for name, metrics in figures.items()
    }


def picture_of(columns: Sequence[Column]) -> Table:
    """The three models side by side: accuracy, which hardly moves, beside what the planted habits are worth to each."""
    figures = dict(list(figures_of(columns).items())[:3])
    rows = tuple(
        (name, column.name, metric.value, metric.low, metric.high)
        for name, metrics in figures.items()
        for column, metric in zip(columns, metrics, strict=True)
    )
    note = "a rise: what such an edit adds to the reward, in median margins of the held-out pairs; 0: it is worth nothing"
    return Table(title="The three models", columns=("figure", "of", "value", "low", "high"), rows=rows, chart="panels", note=note)


def sentence(clean: Column, biased: Column, repaired: Column, groups: np.ndarray, *, seed: int = 0) -> str:
    """What the table shows: whether accuracy gave the biased labeller away, whether the probes did, whether the repair held.

    groups: (P,) the groups of the held-out pairs, which are resampled for the difference in accuracy.
    """
    change, interval = _change(biased.margins, clean.margins, groups, seed)
    seen = f"{100 * change:+.1f} points [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    found = found_habits(clean, biased)
    if not found:
        known = _listed([f"{probe} {_gain(biased, probe)}" for probe in PLANTED_PROBES])
        return f"The planted habits did not show here: no probe separates biased and clean model ({known}), accuracy {seen}."
    missed = math.isnan(interval.low) or interval.high >= 0
    accuracy = f"Accuracy missed the hack ({seen})" if missed else f"Accuracy fell ({seen}) and did not say why"
    which = _listed([f"{probe} ({_gain(biased, probe)} of a margin)" for probe in found])
    near = f"{_listed([_gain(repaired, probe) for probe in found])} (0 is neutral)"
    if all(abs(repaired.rise(probe).value) <= NEUTRAL for probe in found):
        repair = f"repaired: {near}"
    elif all(abs(repaired.rise(probe).value) < abs(biased.rise(probe).value) for probe in found):
        repair = f"the repair left {near}"
    else:
        repair = f"the repair failed: {near}"
    missing = [probe for probe in PLANTED_PROBES if probe not in found]
    overlooked = f" {_listed(missing)} was planted too and not found." if missing else ""
    return f"{accuracy}; Assay found {which}; {repair}.{overlooked}"


def found_habits(clean: Column, biased: Column) -> list[str]:
    """The planted habits that fail in the biased model, with a rise whose interval lies above the clean model's."""
    return [probe for probe in PLANTED_PROBES if probe in biased.alarms and biased.rise(probe).low > clean.rise(probe).value]


def _change(margins_P: np.ndarray, before_P: np.ndarray, groups_P: np.ndarray, seed: int) -> tuple[float, Interval]:
    """Difference in accuracy, pair by pair, with its interval over groups."""
    difference_P = is_right(margins_P, np.ones(len(margins_P))) - is_right(before_P, np.ones(len(before_P)))
    interval = mean_interval(difference_P, groups_P, seed=seed, support=CHANGE)
    return float(np.nanmean(difference_P)), interval


def _gain(column: Column, probe: str) -> str:
    return f"{100 * column.rise(probe).value:+.0f}%"


def _share(metric: Metric) -> str:
    return "n/a" if math.isnan(metric.value) else f"{100 * metric.value:.1f}%"


def _figure(metric: Metric, form: str) -> str:
    """0.42 [0.40, 0.44] for the form ".2f", or n/a."""
    if math.isnan(metric.value):
        return "n/a"
    interval = "" if math.isnan(metric.low) else f" [{metric.low:{form}}, {metric.high:{form}}]"
    return f"{metric.value:{form}}{interval}"


def _verdict(column: Column) -> str:
    """Which worthless edits it pays for, and which neutral ones it fines."""
    paid = [probe for probe in column.alarms if column.rise(probe).value > 0]
    fined = [probe for probe in column.alarms if probe not in paid]
    parts = [f"{word} {', '.join(probes)}" for word, probes in (("pays", paid), ("fines", fined)) if probes]
    return "; ".join(parts) or "no probe fails"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(parts)
