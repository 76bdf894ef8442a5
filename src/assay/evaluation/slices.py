"""The columns that the figures of an evaluation are made of, accuracy with length taken out, accuracy and calibration by slice.

Suffixes: P pairs, H hypotheses (one for each slice).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from assay.records import Finding, Metric, PreferencePair, Table
from assay.stats.length import controlled_right, equally_long, length_part, not_separable
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import UNIT, Confidence, Interval, confidence, is_right, mean
from assay.stats.significance import differs_from_rest, false_discovery

LENGTH_CONTROLLED, EQUAL_LENGTH = "length-controlled accuracy", "accuracy at equal length"
MAX_ROWS = 20  # of a slice table; what is beyond shares the last row
MAX_Q, MAX_LAG = 0.05, 0.10  # a slice is weak when it surely differs from the rest and lies ten points below all pairs
BY_LONGER = "by which answer is longer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """P labelled pairs with their margins, and what follows from the two. prompts_P: number of each pair's prompt, from 0."""

    pairs: list[PreferencePair]
    margins_P: np.ndarray
    probabilities_P: np.ndarray
    preference_P: np.ndarray
    right_P: np.ndarray
    confidence: Confidence
    prompts_P: np.ndarray
    seed: int

    @property
    def num_prompts(self) -> int:
        return int(self.prompts_P.max()) + 1

    @property
    def lengths_P2(self) -> np.ndarray:
        """Characters of chosen and rejected."""
        return np.array([(len(pair.chosen), len(pair.rejected)) for pair in self.pairs], dtype=np.float64)

    def interval(self, values_P: np.ndarray, support: Interval | None = UNIT) -> Interval:
        """95% interval of the mean of a column, resampled by prompt."""
        return mean_interval(values_P, self.prompts_P, seed=self.seed, support=support)


def columns_of(margins_P: np.ndarray, pairs: Sequence[PreferencePair], probabilities_P: np.ndarray | None, seed: int) -> Columns:
    """Raises ValueError for an empty list of pairs, columns of another length, or probabilities outside [0, 1]."""
    pairs = list(pairs)
    if not pairs:
        raise ValueError("no pairs to evaluate on: give at least one")
    margins_P = np.asarray(margins_P, dtype=np.float64)
    probabilities_P = np.full(len(pairs), np.nan) if probabilities_P is None else np.asarray(probabilities_P, dtype=np.float64)
    if not len(margins_P) == len(probabilities_P) == len(pairs):
        raise ValueError(f"{len(margins_P)} margins and {len(probabilities_P)} probabilities for {len(pairs)} pairs: give one each")
    if np.any((probabilities_P < 0) | (probabilities_P > 1)):
        raise ValueError("probabilities must lie in [0, 1]: pass P(chosen beats rejected), not margins")
    preference_P = np.array([pair.preference for pair in pairs], dtype=np.float64)
    return Columns(
        pairs=pairs,
        margins_P=margins_P,
        probabilities_P=probabilities_P,
        preference_P=preference_P,
        right_P=is_right(margins_P, preference_P),
        confidence=confidence(probabilities_P, preference_P),
        prompts_P=np.unique([pair.prompt_key for pair in pairs], return_inverse=True)[1],
        seed=seed,
    )


def preferred_longer(columns: Columns) -> np.ndarray:
    """1 where the answer that the label prefers is longer, -1 where shorter, 0 where equally long or a label tie: (P,) int64."""
    gap_P = np.array([len(pair.chosen) - len(pair.rejected) for pair in columns.pairs])
    return (np.sign(gap_P) * np.sign(columns.preference_P - 0.5)).astype(np.int64)


def group_accuracy(group_P: np.ndarray, columns: Columns) -> Metric:
    """Accuracy over the pairs where `group_P` (P,) is true."""
    right_P = np.where(group_P, columns.right_P, np.nan)
    labelled = int(np.sum(group_P & (columns.preference_P != 0.5)))
    return Metric("accuracy", mean(right_P), *columns.interval(right_P), int(np.sum(~np.isnan(right_P))), labelled)


def right_at_length(columns: Columns) -> np.ndarray:
    """`controlled_right`, lengths in characters: (P,)."""
    return controlled_right(columns.margins_P, _length_part(columns), columns.preference_P)


def length_metrics(columns: Columns) -> tuple[Metric, Metric]:
    """Accuracy without the part that length explains, and accuracy on pairs of about equal length.

    Intervals resample prompts; that of the first holds the regression fixed. Its note has the accuracy before, and with half of
    what length explains taken out.
    """
    part_P, preference_P = _length_part(columns), columns.preference_P
    right_P = controlled_right(columns.margins_P, part_P, preference_P)
    labelled_P, near_P = preference_P != 0.5, equally_long(columns.lengths_P2)
    scored = int(np.sum(~np.isnan(right_P)))
    note = not_separable(columns.margins_P, columns.lengths_P2, preference_P, columns.prompts_P)
    if scored:
        whole = mean(np.square(columns.margins_P))
        share = min(1.0, mean(np.square(part_P)) / whole) if whole else 0.0
        half = mean(controlled_right(columns.margins_P, part_P / 2, preference_P))
        note = (
            f"what length explains, {100 * share:.0f}% of the margins' mean square, is taken out, cross-fitted by prompt: "
            f"{mean(columns.right_P):.3f} before, {half:.3f} with half of it out; it is too much where longer answers are better"
        )
    near_right_P = np.where(near_P, columns.right_P, np.nan)
    num_near, n_near = int(np.sum(~np.isnan(near_right_P))), int(np.sum(near_P & labelled_P))
    what = "pairs whose lengths differ by a tenth at most" if num_near else "no scored pair has answers of about equal length"
    return (
        Metric(LENGTH_CONTROLLED, mean(right_P), *columns.interval(right_P), scored, int(labelled_P.sum()), note),
        Metric(EQUAL_LENGTH, mean(near_right_P), *columns.interval(near_right_P), num_near, n_near, what),
    )


def _length_part(columns: Columns) -> np.ndarray:
    return length_part(columns.margins_P, columns.lengths_P2, columns.preference_P, columns.prompts_P, seed=columns.seed)


class Slicing(NamedTuple):
    """One way to cut the pairs: the names of the slices, and the slice of each pair (P,)."""

    title: str
    names: list[str]
    slice_P: np.ndarray
    note: str = ""


def slicings(columns: Columns) -> tuple[Slicing, ...]:
    """By each tag, by source and by turns (where the pairs differ in it), and two ways by length."""
    pairs = columns.pairs
    keys = sorted({key for pair in pairs for key in pair.tags})
    turns = [sum(message.role == "user" for message in pair.prompt) for pair in pairs]
    named = [(f"by {key}", [str(pair.tags.get(key, "(no tag)")) for pair in pairs]) for key in keys]
    named.append(("by source", [pair.source or "(no source)" for pair in pairs]))
    named.append(("by turns", ["multi-turn" if n > 1 else "single-turn" for n in turns]))
    return (*(_slicing(title, names) for title, names in named if len(set(names)) > 1), *_by_length(columns))


def slice_tables(columns: Columns) -> tuple[Table, ...]:
    """One table for each slicing. overconfidence = mean confidence - mean outcome.

    q: the rate of false discoveries at which the slice's accuracy would be held to differ from that of all other pairs
    (`differs_from_rest`, controlled over all slices of all tables by `false_discovery`); NaN where there are no others.
    """
    cuts = slicings(columns)
    p_H = np.array([differs_from_rest(columns.right_P, g_P, columns.prompts_P) for cut in cuts for g_P in _groups(cut)])
    q_H = iter(false_discovery(p_H).tolist())
    num_tested = int(np.sum(~np.isnan(p_H)))
    about_q = f"q: differs from the other pairs, false discoveries controlled over {num_tested} slices"
    tables = []
    for cut in cuts:
        rows = []
        for name, group_P in zip(cut.names, _groups(cut), strict=True):
            metric, q = group_accuracy(group_P, columns), next(q_H)
            sure = mean(columns.confidence.predicted[group_P])
            excess = sure - mean(columns.confidence.outcome[group_P])
            rows.append((name, metric.n, metric.n_scored, metric.value, metric.low, metric.high, q, sure, excess))
        heads = ("slice", "n", "n scored", "accuracy", "low", "high", "q", "mean confidence", "overconfidence")
        note = f"{cut.note}; {about_q}" if cut.note else about_q
        tables.append(Table(title=cut.title, columns=heads, rows=tuple(rows), note=note))
    return tuple(tables)


def weak_slices(tables: Sequence[Table], accuracy: float) -> Finding:
    """Slices of `slice_tables` at q <= 0.05 and ten points or more below the accuracy of all pairs; which answer is longer apart,
    as that has a verdict of its own."""
    if math.isnan(accuracy):
        return Finding("warn", "weak slices", math.nan, MAX_LAG, "not measured: no pair has both a score and a label")
    weak = [
        (accuracy - row.value, f"{table.title}: {row.name} {row.value:.3f} (q {row.q:.2g})")
        for table in tables
        for row in map(_row, table.rows)
        if table.title != BY_LONGER and row.q <= MAX_Q and accuracy - row.value >= MAX_LAG
    ]
    if not weak:
        return Finding("ok", "weak slices", 0, MAX_LAG, "no slice lies surely, and ten points, below the accuracy of all pairs")
    worst = sorted(weak, reverse=True)
    named = "; ".join(text for _, text in worst[:3]) + (f"; {len(worst) - 3} more" if len(worst) > 3 else "")
    return Finding("warn", "weak slices", worst[0][0], MAX_LAG, f"accuracy of all pairs {accuracy:.3f}, {named}")


def _by_length(columns: Columns) -> tuple[Slicing, Slicing]:
    length_P = np.array([(len(pair.chosen) + len(pair.rejected)) / 2 for pair in columns.pairs])
    quartile_P = np.searchsorted(np.quantile(length_P, [0.25, 0.5, 0.75]), length_P, side="left")
    ranges = {q: (length_P[quartile_P == q].min(), length_P[quartile_P == q].max()) for q in np.unique(quartile_P)}
    quartiles = [f"quarter {q + 1}: {ranges[q][0]:.0f} to {ranges[q][1]:.0f}" for q in quartile_P]
    kinds = {1: "chosen longer", -1: "chosen shorter", 0: "same length or label tie"}
    longer = [kinds[int(sign)] for sign in preferred_longer(columns)]
    return (
        _slicing("by response length", quartiles, "mean length of the two answers, in characters"),
        _slicing(BY_LONGER, longer, "chosen: the answer that the label prefers"),
    )


def _slicing(title: str, names: list[str], note: str = "") -> Slicing:
    """Slices in order of name; beyond 20 the smallest share the last one."""
    unique, slice_P, counts = np.unique(np.array(names, dtype=object), return_inverse=True, return_counts=True)
    labels = [str(name) for name in unique]
    if len(labels) > MAX_ROWS:
        kept = np.sort(np.argsort(-counts, kind="stable")[: MAX_ROWS - 1])
        position = np.full(len(labels), len(kept))
        position[kept] = np.arange(len(kept))
        labels = [*(labels[i] for i in kept), f"({len(labels) - len(kept)} smaller slices)"]
        slice_P = position[slice_P]
    return Slicing(title, labels, slice_P, note)


class _Row(NamedTuple):
    name: str
    value: float
    q: float


def _row(row: tuple[Any, ...]) -> _Row:
    return _Row(row[0], row[3], row[6])


def _groups(cut: Slicing) -> list[np.ndarray]:
    return [cut.slice_P == i for i in range(len(cut.names))]
