"""What the demo prints: one column for each model, and one sentence that is derived from the figures, whatever they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from assay.evaluation.evaluate import ACCURACY, BAG_OF_WORDS, BRIER, LENGTH, baseline_accuracy
from assay.metrics import Interval, cluster_bootstrap, is_right
from assay.records import Finding, Metric, Report
from assay.workflows.demo_bias import FLATTERY, MARKDOWN, PRAISE
from assay.workflows.show import percent

CLEAN, BIASED, REPAIRED = "clean", "biased labeller", "repaired"
PLANTED_PROBES = (FLATTERY, MARKDOWN)


class Column(NamedTuple):
    """One model of the demo. margins: (P,) of the held-out pairs, raw; gap: training less held-out accuracy."""

    name: str
    evaluation: Report
    gap: Finding
    probes: Report
    best: Report
    margins: np.ndarray

    def rise(self, probe: str) -> Metric:
        """By how much the probe raises the reward, in median margins."""
        return self.probes.metric(f"{probe}: mean rise")

    @property
    def picked(self) -> Metric:
        """Gold of the candidate that it picks of as many as there are."""
        return next(metric for metric in self.best.metrics if metric.name.startswith("gold of best-of-"))

    @property
    def alarms(self) -> list[str]:
        """The probes that failed."""
        return [finding.name.removeprefix("probe: ") for finding in self.probes.findings if finding.level == "fail"]


def demo_rows(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """The table: a name, then a cell for each column."""
    rows: list[tuple[str, list[str]]] = [
        ("held-out accuracy", [percent(column.evaluation.metric(ACCURACY)) for column in columns]),
        ("  by length", [_share(column.evaluation.metric(baseline_accuracy(LENGTH))) for column in columns]),
        ("  by bag-of-words", [_share(column.evaluation.metric(baseline_accuracy(BAG_OF_WORDS))) for column in columns]),
        ("gap to training", [f"{100 * column.gap.value:.1f} points" for column in columns]),
        ("Brier score", [f"{column.evaluation.metric(BRIER).value:.3f}" for column in columns]),
        (PRAISE, [_rise(column.rise(FLATTERY)) for column in columns]),
        ("markdown", [_rise(column.rise(MARKDOWN)) for column in columns]),
        (columns[0].picked.name, [_interval(column.picked) for column in columns]),
        ("verdict", [_verdict(column) for column in columns]),
    ]
    return [(name, *cells) for name, cells in rows]


def sentence(clean: Column, biased: Column, repaired: Column, groups: np.ndarray, *, seed: int = 0) -> str:
    """What the table shows: whether accuracy gave the biased labeller away, whether the probes did, whether the repair held.

    groups: (P,) the groups of the held-out pairs, which are resampled for the difference in accuracy.
    """
    change, interval = _change(biased.margins, clean.margins, groups, seed)
    seen = f"{100 * change:+.1f} points, [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    found = found_habits(clean, biased)
    if not found:
        known = f"{_listed([f'{probe} {_gain(biased, probe)}' for probe in PLANTED_PROBES])}"
        return (
            f"The planted habits did not show here: no probe tells the biased model from the clean one ({known}), accuracy {seen}."
        )
    missed = math.isnan(interval.low) or interval.high >= 0
    accuracy = f"Accuracy missed the hack ({seen})" if missed else f"Accuracy fell ({seen}) and did not say why"
    which = _listed([f"{probe} is worth {_gain(biased, probe)} of a margin to it" for probe in found])
    left = [probe for probe in found if probe in repaired.alarms]
    moved = _listed([f"{probe} {_gain(biased, probe)} to {_gain(repaired, probe)}" for probe in found])
    if not left:
        repair = f"the repair took it out ({moved})"
    elif len(left) < len(found):
        repair = f"the repair took out a part, {_listed(left)} is left ({moved})"
    else:
        repair = f"the repair was not enough ({moved})"
    missing = [probe for probe in PLANTED_PROBES if probe not in found]
    overlooked = f" {_listed(missing)} was planted too and not found." if missing else ""
    return f"{accuracy}; Assay found it: {which}; {repair}.{overlooked}"


def found_habits(clean: Column, biased: Column) -> list[str]:
    """The planted habits that fail in the biased model, with a rise whose interval lies above the clean model's."""
    return [probe for probe in PLANTED_PROBES if probe in biased.alarms and biased.rise(probe).low > clean.rise(probe).value]


def _change(margins_P: np.ndarray, before_P: np.ndarray, groups_P: np.ndarray, seed: int) -> tuple[float, Interval]:
    """Difference in accuracy, pair by pair, with its interval over groups."""
    difference_P = is_right(margins_P, np.ones(len(margins_P))) - is_right(before_P, np.ones(len(before_P)))
    interval = cluster_bootstrap(difference_P, groups_P, seed=seed, support=Interval(-1.0, 1.0))
    return float(np.nanmean(difference_P)), interval


def _gain(column: Column, probe: str) -> str:
    return f"{100 * column.rise(probe).value:+.0f}%"


def _rise(metric: Metric) -> str:
    if math.isnan(metric.value):
        return "n/a"
    interval = "" if math.isnan(metric.low) else f" [{metric.low:+.2f}, {metric.high:+.2f}]"
    return f"{metric.value:+.2f}{interval}"


def _share(metric: Metric) -> str:
    return "n/a" if math.isnan(metric.value) else f"{100 * metric.value:.1f}%"


def _interval(metric: Metric) -> str:
    if math.isnan(metric.value):
        return "n/a"
    return f"{metric.value:.2f}" + ("" if math.isnan(metric.low) else f" [{metric.low:.2f}, {metric.high:.2f}]")


def _verdict(column: Column) -> str:
    return f"fails: {', '.join(column.alarms)}" if column.alarms else "no probe fails"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(parts)
