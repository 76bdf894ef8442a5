"""The columns that the figures of an evaluation are made of, and accuracy and calibration slice by slice.

Suffixes: P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.metrics import UNIT, Confidence, Interval, cluster_bootstrap, confidence, is_right
from assay.records import Metric, PreferencePair, Table

MAX_ROWS = 20  # of a slice table; what is beyond shares the last row


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

    def interval(self, values_P: np.ndarray, support: Interval | None = UNIT) -> Interval:
        """95% interval of the mean of a column, resampled by prompt."""
        return cluster_bootstrap(values_P, self.prompts_P, seed=self.seed, support=support)


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


def mean(values_P: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    scored_P = values_P[~np.isnan(values_P)]
    return float(scored_P.mean()) if len(scored_P) else math.nan


def slice_tables(columns: Columns) -> tuple[Table, ...]:
    """One table for each tag, for source and for turns (where the pairs differ in it), and two for length."""
    pairs = columns.pairs
    keys = sorted({key for pair in pairs for key in pair.tags})
    turns = [sum(message.role == "user" for message in pair.prompt) for pair in pairs]
    slicings = [(f"by {key}", [str(pair.tags.get(key, "(no tag)")) for pair in pairs]) for key in keys]
    slicings.append(("by source", [pair.source or "(no source)" for pair in pairs]))
    slicings.append(("by turns", ["multi-turn" if n > 1 else "single-turn" for n in turns]))
    tables = [_slice_table(title, names, columns) for title, names in slicings if len(set(names)) > 1]
    return (*tables, *_length_tables(columns))


def _length_tables(columns: Columns) -> tuple[Table, Table]:
    length_P = np.array([(len(pair.chosen) + len(pair.rejected)) / 2 for pair in columns.pairs])
    quartile_P = np.searchsorted(np.quantile(length_P, [0.25, 0.5, 0.75]), length_P, side="left")
    ranges = {q: (length_P[quartile_P == q].min(), length_P[quartile_P == q].max()) for q in np.unique(quartile_P)}
    quartiles = [f"quarter {q + 1}: {ranges[q][0]:.0f} to {ranges[q][1]:.0f}" for q in quartile_P]
    kinds = {1: "chosen longer", -1: "chosen shorter", 0: "same length or label tie"}
    longer = [kinds[int(sign)] for sign in preferred_longer(columns)]
    return (
        _slice_table("by response length", quartiles, columns, note="mean length of the two answers, in characters"),
        _slice_table("by which answer is longer", longer, columns, note="chosen: the answer that the label prefers"),
    )


def _slice_table(title: str, names: list[str], columns: Columns, note: str = "") -> Table:
    """Rows in order of name; beyond 20 the smallest slices share one row. overconfidence = mean confidence - mean outcome."""
    unique, slice_P, counts = np.unique(np.array(names, dtype=object), return_inverse=True, return_counts=True)
    labels = [str(name) for name in unique]
    if len(labels) > MAX_ROWS:
        kept = np.sort(np.argsort(-counts, kind="stable")[: MAX_ROWS - 1])
        position = np.full(len(labels), len(kept))
        position[kept] = np.arange(len(kept))
        labels = [*(labels[i] for i in kept), f"({len(labels) - len(kept)} smaller slices)"]
        slice_P = position[slice_P]
    rows = []
    for i, label in enumerate(labels):
        group_P = slice_P == i
        metric = group_accuracy(group_P, columns)
        sure = mean(columns.confidence.predicted[group_P])
        excess = sure - mean(columns.confidence.outcome[group_P])
        rows.append((label, metric.n, metric.n_scored, metric.value, metric.low, metric.high, sure, excess))
    heads = ("slice", "n", "n scored", "accuracy", "low", "high", "mean confidence", "overconfidence")
    return Table(title=title, columns=heads, rows=tuple(rows), note=note)
