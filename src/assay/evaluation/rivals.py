"""The scorers to beat: the length of an answer, and its words. What they are worth on the pairs, and whether a model is better.

Suffix: P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from assay.evaluation.slices import Columns
from assay.records import Finding, Metric
from assay.scorers.base import Scorer, margins
from assay.scorers.baselines import KeptWords, LengthScorer, bag_of_words_cross_validated
from assay.stats.metrics import Interval, accuracy, is_right, mean

LENGTH, BAG_OF_WORDS = "length", "bag-of-words"


def baseline_accuracy(name: str) -> str:
    """Name of the metric of a baseline: "accuracy: length baseline"."""
    return f"accuracy: {name} baseline"


class Rival(NamedTuple):
    """A baseline: its margins (P,), and its accuracy."""

    name: str
    margins_P: np.ndarray
    metric: Metric


def rivals_of(columns: Columns, given: Mapping[str, Scorer]) -> list[Rival]:
    """Length and words on the pairs. given: fitted scorers by name; where none is "bag-of-words", that is cross-validated here."""
    fitted = {LENGTH: LengthScorer(), **given}
    rivals = []
    for name, scorer in fitted.items():
        rival_P, note = margins(scorer, columns.pairs), "fitted elsewhere, scored on these pairs"
        if isinstance(scorer, KeptWords):
            note = f"fitted on {scorer.num_pairs:,} training pairs of the model, scored on these"
        if name == LENGTH:
            shorter = accuracy(-rival_P, columns.preference_P).value
            note = f"the longer answer wins (the shorter one would be right on {shorter:.3f})"
        rivals.append(Rival(name, rival_P, accuracy_of(baseline_accuracy(name), rival_P, columns, note)))
    if BAG_OF_WORDS not in given:
        rival_P = bag_of_words_cross_validated(columns.pairs, seed=columns.seed)
        note = (
            "the training pairs are not known: 5-fold cross-validated on these very pairs, whole groups of shared prompts and "
            "answers at a time; words fitted on the training pairs may be right far more often"
        )
        rivals.append(Rival(BAG_OF_WORDS, rival_P, accuracy_of(baseline_accuracy(BAG_OF_WORDS), rival_P, columns, note)))
    return rivals


def above_rival(rival: Rival, columns: Columns) -> Finding:
    """Paired: the difference in being right, pair by pair. Length is held against its better direction; another baseline that is
    below chance knows nothing of these pairs, and to beat it is worth nothing."""
    name = f"better than the {rival.name} baseline"
    if rival.name != LENGTH and rival.metric.high < 0.5:
        seen = f"its accuracy {rival.metric.value:.3f} [{rival.metric.low:.3f}, {rival.metric.high:.3f}] is below chance"
        why = f"the baseline is broken: {seen}, so it is not compared; give one that was fitted on the training pairs"
        return Finding("warn", name, math.nan, 0.0, why, "baseline")
    flip = rival.name == LENGTH and accuracy(-rival.margins_P, columns.preference_P).value > rival.metric.value
    rival_right_P = is_right(-rival.margins_P if flip else rival.margins_P, columns.preference_P)
    difference_P = columns.right_P - rival_right_P
    difference = mean(difference_P)
    if math.isnan(difference):
        return Finding("warn", name, math.nan, 0.0, "no pair was scored by both: nothing to compare", "baseline")
    interval = columns.interval(difference_P, support=Interval(-1.0, 1.0))
    rule = " (shorter answers win here)" if flip else ""
    seen = f"accuracy differs by {difference:+.3f}, interval [{interval.low:+.3f}, {interval.high:+.3f}]{rule}"
    if interval.low > 0:
        return Finding("ok", name, difference, 0.0, seen, "baseline")
    return Finding("warn", name, difference, 0.0, f"{seen}: it may have learnt no more than this", "baseline")


def accuracy_of(name: str, margins_P: np.ndarray, columns: Columns, note: str = "") -> Metric:
    """Accuracy of margins (P,) on the pairs of the columns."""
    result = accuracy(margins_P, columns.preference_P)
    interval = columns.interval(is_right(margins_P, columns.preference_P))
    note = note or f"interval resampled over {columns.num_prompts} prompts; a score tie counts as wrong"
    if not result.num_scored:
        note = "no pair has both a score and a label that is not a tie" if result.num_labelled else "every label is a tie"
    return Metric(name, result.value, *interval, result.num_scored, result.num_labelled, note)
