"""What is left of a scorer when length is taken out: accuracy without the part of the margin that it explains, and at equal length.

Suffixes: P pairs, F features of the two lengths, 2 chosen and rejected.
"""

from __future__ import annotations

import math

import numpy as np

from assay.evaluation.slices import Columns, mean
from assay.metrics import cluster_folds
from assay.records import Metric

LENGTH_CONTROLLED, EQUAL_LENGTH = "length-controlled accuracy", "accuracy at equal length"
MAX_GAP = 0.10  # of the longer answer: within it two answers are about equally long
MIN_PAIRS, NUM_FOLDS = 50, 5
_NOTHING = 1e-6  # of the margins' size: what is left of rewards in float32 that are length and nothing else


def length_part(
    margins_P: np.ndarray, lengths_P2: np.ndarray, preference_P: np.ndarray, clusters_P: np.ndarray, *, seed: int
) -> np.ndarray:
    """The part of each margin that the lengths of the two answers explain, the label given: (P,), in units of the margin.

    margins_P: NaN is left out, and has no part. lengths_P2: in any unit. clusters_P: prompts; the part of a pair is predicted from
    the others' folds. Least squares of margin = a x label + b . f(lengths): label +1, -1 or 0 (tie), f odd in the order of the two
    answers (standardised difference, its tanh, standardised log ratio), so that it does not matter which is called chosen. The
    label's own term keeps b free of what longer answers gain by being better. NaN with fewer than 50 scored pairs or 5 prompts.
    Source: the regression of Dubois et al. (2024), "Length-controlled AlpacaEval", on margins in place of a judge's verdicts, with
    cross-fitting (Chernozhukov et al. 2018).
    """
    margins_P, lengths_P2 = np.asarray(margins_P, dtype=np.float64), np.asarray(lengths_P2, dtype=np.float64)
    part_P, scored_P = np.full(len(margins_P), np.nan), np.isfinite(margins_P)
    if scored_P.sum() < MIN_PAIRS or len(np.unique(clusters_P[scored_P])) < NUM_FOLDS:
        return part_P
    features_PF = _features(lengths_P2)
    design_P = np.column_stack([np.sign(preference_P - 0.5), features_PF])
    folds_P = cluster_folds(clusters_P, NUM_FOLDS, seed=seed)
    for fold in range(NUM_FOLDS):
        held_P, fitted_P = folds_P == fold, (folds_P != fold) & scored_P
        weights = np.linalg.lstsq(design_P[fitted_P], margins_P[fitted_P], rcond=1e-10)[0]
        part_P[held_P] = features_PF[held_P] @ weights[1:]
    return np.where(scored_P, part_P, np.nan)


def controlled_right(margins_P: np.ndarray, part_P: np.ndarray, preference_P: np.ndarray) -> np.ndarray:
    """1 where the margin less its `length_part` prefers what the label prefers, 0 where not, 0.5 where nothing is left: (P,).

    Half for nothing left (unlike a tie of score, which is wrong): at equal length such a scorer would toss a coin.
    NaN where the margin is, and on label ties.
    """
    left_P = np.asarray(margins_P, dtype=np.float64) - part_P
    size = math.sqrt(mean(np.square(margins_P))) if np.isfinite(margins_P).any() else 0.0
    direction_P = np.sign(np.asarray(preference_P, dtype=np.float64) - 0.5)
    right_P = np.where(np.abs(left_P) <= _NOTHING * size, 0.5, (left_P * direction_P > 0).astype(np.float64))
    return np.where(np.isnan(left_P) | (direction_P == 0), np.nan, right_P)


def right_at_length(columns: Columns) -> np.ndarray:
    """`controlled_right` of the columns of an evaluation, lengths in characters: (P,)."""
    return controlled_right(columns.margins_P, _part(columns), columns.preference_P)


def equally_long(columns: Columns) -> np.ndarray:
    """Pairs whose answers differ by at most a tenth of the longer one's characters: (P,) bool."""
    lengths_P2 = _lengths(columns)
    return np.abs(lengths_P2[:, 0] - lengths_P2[:, 1]) <= MAX_GAP * lengths_P2.max(axis=1)


def length_metrics(columns: Columns) -> tuple[Metric, Metric]:
    """Accuracy without the part that length explains, and accuracy on pairs of about equal length.

    Intervals resample prompts; that of the first holds the regression fixed.
    """
    part_P, preference_P = _part(columns), columns.preference_P
    right_P = controlled_right(columns.margins_P, part_P, preference_P)
    labelled_P, near_P = preference_P != 0.5, equally_long(columns)
    scored = int(np.sum(~np.isnan(right_P)))
    note = f"fewer than {MIN_PAIRS} scored pairs or {NUM_FOLDS} prompts, or no label: what length explains cannot be told"
    if scored:
        whole = mean(np.square(columns.margins_P))
        share = min(1.0, mean(np.square(part_P)) / whole) if whole else 0.0
        note = f"what length explains, {100 * share:.0f}% of the margins' mean square, is taken out; cross-fitted by prompt"
    near_right_P = np.where(near_P, columns.right_P, np.nan)
    num_near, n_near = int(np.sum(~np.isnan(near_right_P))), int(np.sum(near_P & labelled_P))
    what = "pairs whose lengths differ by a tenth at most" if num_near else "no scored pair has answers of about equal length"
    return (
        Metric(LENGTH_CONTROLLED, mean(right_P), *columns.interval(right_P), scored, int(labelled_P.sum()), note),
        Metric(EQUAL_LENGTH, mean(near_right_P), *columns.interval(near_right_P), num_near, n_near, what),
    )


def _part(columns: Columns) -> np.ndarray:
    return length_part(columns.margins_P, _lengths(columns), columns.preference_P, columns.prompts_P, seed=columns.seed)


def _lengths(columns: Columns) -> np.ndarray:
    return np.array([(len(pair.chosen), len(pair.rejected)) for pair in columns.pairs], dtype=np.float64)


def _features(lengths_P2: np.ndarray) -> np.ndarray:
    """(P, F) odd in the order of the two answers, each of mean square about 1."""
    gap_P, ratio_P = lengths_P2[:, 0] - lengths_P2[:, 1], np.diff(np.log1p(lengths_P2[:, ::-1]))[:, 0]
    gap_P, ratio_P = (values_P / (np.sqrt(np.square(values_P).mean()) or 1.0) for values_P in (gap_P, ratio_P))
    return np.column_stack([gap_P, np.tanh(gap_P), ratio_P])
