"""What is left of margins when length is taken out: less the part that the lengths of the two answers explain, or at equal length.

Suffixes: P pairs, F features of the two lengths, 2 chosen and rejected.
"""

from __future__ import annotations

import math

import numpy as np

from assay.stats.linear import cross_fitted, least_squares
from assay.stats.metrics import cluster_folds, mean

MAX_GAP = 0.10  # of the longer answer: within it two answers are about equally long
MIN_PAIRS, NUM_FOLDS = 50, 5
MIN_APART = 0.05  # share of the label's mean square that the lengths must leave open; below it the two say the same
_NOTHING = 1e-6  # of the margins' size: what is left of rewards in float32 that are length and nothing else


def length_part(
    margins_P: np.ndarray, lengths_P2: np.ndarray, preference_P: np.ndarray, clusters_P: np.ndarray, *, seed: int
) -> np.ndarray:
    """The part of each margin that the lengths of the two answers explain, the label given: (P,), in units of the margin.

    margins_P: NaN is left out, and has no part. lengths_P2: in any unit. clusters_P: prompts; the part of a pair is predicted from
    the others' folds. Least squares of margin = a x label + b . f(lengths): label +1, -1 or 0 (tie), f odd in the order of the two
    answers (standardised difference, its tanh, standardised log ratio), so that it does not matter which is called chosen. The
    label's own term keeps out of b what longer answers gain by being better as far as the label says it. A label is one bit: where
    the better of two right answers is the longer one, that gain is in the part too, which is then too large.
    All NaN where `not_separable` gives a reason.
    Source: the regression of Dubois et al. (2024), "Length-controlled AlpacaEval", on margins in place of a judge's verdicts, with
    cross-fitting (Chernozhukov et al. 2018).
    """
    margins_P, lengths_P2 = np.asarray(margins_P, dtype=np.float64), np.asarray(lengths_P2, dtype=np.float64)
    scored_P = np.isfinite(margins_P)
    if not_separable(margins_P, lengths_P2, preference_P, clusters_P):
        return np.full(len(margins_P), np.nan)
    features_PF = _features(lengths_P2)
    design_P = np.column_stack([np.sign(preference_P - 0.5), features_PF])

    def part(fit_P: np.ndarray, held_P: np.ndarray) -> np.ndarray:
        return features_PF[held_P] @ least_squares(design_P[fit_P & scored_P], margins_P[fit_P & scored_P])[1:]

    return np.where(scored_P, cross_fitted(part, cluster_folds(clusters_P, NUM_FOLDS, seed=seed)), np.nan)


def not_separable(margins_P: np.ndarray, lengths_P2: np.ndarray, preference_P: np.ndarray, clusters_P: np.ndarray) -> str:
    """Why what length explains cannot be told; "" where it can.

    With fewer than 50 scored pairs, 5 prompts or no label there is too little to fit. Where the two lengths all but say the label
    (the better answer is longer by the same in every pair, say), length and label explain the same, and no regression parts them.
    """
    scored_P = np.isfinite(margins_P)
    direction_P = np.sign(np.asarray(preference_P, dtype=np.float64) - 0.5)
    num_prompts = len(np.unique(np.asarray(clusters_P)[scored_P]))
    if scored_P.sum() < MIN_PAIRS or num_prompts < NUM_FOLDS or not direction_P[scored_P].any():
        return f"fewer than {MIN_PAIRS} scored pairs or {NUM_FOLDS} prompts, or no label: what length explains is not known"
    apart = share_left(direction_P[scored_P], _features(np.asarray(lengths_P2, dtype=np.float64))[scored_P])
    if apart < MIN_APART:
        return f"the two lengths say {100 * (1 - apart):.0f}% of the label: what length explains is not to be told from it"
    return ""


def share_left(values_P: np.ndarray, design_PK: np.ndarray) -> float:
    """The share of the values' mean square that the columns of a design leave open, in [0, 1]; NaN when all values are 0."""
    left_P = values_P - design_PK @ least_squares(design_PK, values_P)
    whole = float(np.square(values_P).sum())
    return float(np.square(left_P).sum()) / whole if whole else math.nan


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


def equally_long(lengths_P2: np.ndarray) -> np.ndarray:
    """Pairs whose answers differ by at most a tenth of the longer one's length: (P,) bool."""
    return np.abs(lengths_P2[:, 0] - lengths_P2[:, 1]) <= MAX_GAP * lengths_P2.max(axis=1)


def _features(lengths_P2: np.ndarray) -> np.ndarray:
    """(P, F) odd in the order of the two answers, each of mean square about 1."""
    gap_P, ratio_P = lengths_P2[:, 0] - lengths_P2[:, 1], np.diff(np.log1p(lengths_P2[:, ::-1]))[:, 0]
    gap_P, ratio_P = (values_P / (np.sqrt(np.square(values_P).mean()) or 1.0) for values_P in (gap_P, ratio_P))
    return np.column_stack([gap_P, np.tanh(gap_P), ratio_P])
