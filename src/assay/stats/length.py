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
    scored_P = np.isfinite(margins_P)
    if scored_P.sum() < MIN_PAIRS or len(np.unique(clusters_P[scored_P])) < NUM_FOLDS:
        return np.full(len(margins_P), np.nan)
    features_PF = _features(lengths_P2)
    design_P = np.column_stack([np.sign(preference_P - 0.5), features_PF])

    def part(fit_P: np.ndarray, held_P: np.ndarray) -> np.ndarray:
        return features_PF[held_P] @ least_squares(design_P[fit_P & scored_P], margins_P[fit_P & scored_P])[1:]

    return np.where(scored_P, cross_fitted(part, cluster_folds(clusters_P, NUM_FOLDS, seed=seed)), np.nan)


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
