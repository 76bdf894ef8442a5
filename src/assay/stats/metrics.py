"""Figures about margins and probabilities, each with the interval it deserves. Numpy only, pure functions.

Suffixes: P pairs (or values), C clusters (prompts), S simulated samples, B bins.
NaN is "could not be scored": left out of every figure and counted. A figure of nothing is NaN.

A score tie (margin exactly 0) is wrong for accuracy, by the strict rule of RewardBench (Lambert et al. 2024), and half right for
calibration, where both orders of a pair count. A label tie (preference 0.5) has no right answer: accuracy leaves it out.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A confidence interval; both ends NaN when there is none."""

    low: float
    high: float


NO_INTERVAL = Interval(math.nan, math.nan)
UNIT, CHANGE = Interval(0.0, 1.0), Interval(-1.0, 1.0)
"""Where a share lies, and where a difference of two shares does."""


class Accuracy(NamedTuple):
    """value over `num_scored` of the `num_labelled` pairs whose label is not a tie; ties of score among the scored ones."""

    value: float
    num_scored: int
    num_labelled: int
    num_score_ties: int
    num_label_ties: int


class Confidence(NamedTuple):
    """How sure a model is of the answer it prefers, and how often the label agrees: both (P,), NaN where unscored."""

    predicted: np.ndarray
    outcome: np.ndarray


def is_right(margins_P: np.ndarray, preference_P: np.ndarray) -> np.ndarray:
    """1 where the score prefers the answer that the label prefers, 0 where not or on a score tie: (P,) float64.

    preference_P: P(chosen beats rejected) of the label; below 0.5 the rejected answer is the preferred one.
    NaN where the margin is NaN or the label is a tie.
    """
    direction_P = np.sign(np.asarray(preference_P, dtype=np.float64) - 0.5)
    signed_P = np.asarray(margins_P, dtype=np.float64) * direction_P
    return np.where(np.isnan(signed_P) | (direction_P == 0), np.nan, (signed_P > 0).astype(np.float64))


def accuracy(margins_P: np.ndarray, preference_P: np.ndarray) -> Accuracy:
    """Share of pairs ranked as the label ranks them (`is_right`), with what was left out counted."""
    margins_P, preference_P = np.asarray(margins_P, dtype=np.float64), np.asarray(preference_P, dtype=np.float64)
    right_P = is_right(margins_P, preference_P)
    labelled_P = preference_P != 0.5
    return Accuracy(
        value=mean(right_P),
        num_scored=int(np.sum(~np.isnan(right_P))),
        num_labelled=int(labelled_P.sum()),
        num_score_ties=int(np.sum(labelled_P & (margins_P == 0))),
        num_label_ties=int(np.sum(~labelled_P)),
    )


def brier(p_P: np.ndarray, preference_P: np.ndarray) -> float:
    """Mean of (P(chosen beats rejected) - preference)^2, label ties included: 0 is best, always 0.5 gives 0.25. Brier (1950)."""
    return mean(squared_error(p_P, preference_P))


def log_losses(margins_P: np.ndarray, preference_P: np.ndarray) -> np.ndarray:
    """(P,) Bradley-Terry losses: cross-entropy of sigmoid(margin) against the label. Other shapes are broadcast."""
    return preference_P * np.logaddexp(0, -margins_P) + (1 - preference_P) * np.logaddexp(0, margins_P)


def squared_error(p_P: np.ndarray, preference_P: np.ndarray) -> np.ndarray:
    """The terms of the Brier score: (P,) float64, NaN where unscored."""
    return np.square(np.asarray(p_P, dtype=np.float64) - np.asarray(preference_P, dtype=np.float64))


def confidence(p_P: np.ndarray, preference_P: np.ndarray) -> Confidence:
    """P(chosen beats rejected) as a confidence that can be checked: in max(p, 1 - p), against the label's share of that answer.

    With chosen always the label, p itself would be held against outcomes that are all 1. Counting each pair in both orders,
    (p, preference) and (1 - p, 1 - preference), and keeping the order that the model prefers, asks instead: of the pairs where the
    model is 80% sure, are 80% right? outcome is 1 or 0 for plain labels, the preference itself for soft ones, and 0.5 where
    p = 0.5, since of the two orders one is right.
    """
    p_P, preference_P = np.asarray(p_P, dtype=np.float64), np.asarray(preference_P, dtype=np.float64)
    outcome_P = np.where(p_P > 0.5, preference_P, np.where(p_P < 0.5, 1 - preference_P, 0.5))
    return Confidence(np.maximum(p_P, 1 - p_P), np.where(np.isnan(p_P), np.nan, outcome_P))


def wilson_interval(num_right: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of a proportion, inside [0, 1] and never of zero width; n = 0 has none. Wilson (1927)."""
    if n <= 0:
        return NO_INTERVAL
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = num_right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def difference_interval(a: float, a_interval: Interval, b: float, b_interval: Interval) -> Interval:
    """Interval of a - b for two independent figures from the interval of each.

    Source: Newcombe (1998), method 10. If a and b come from the same prompts and move together it is wider than it need be.
    """
    low = math.hypot(a - a_interval.low, b_interval.high - b)
    high = math.hypot(a_interval.high - a, b - b_interval.low)
    return Interval(a - b - low, a - b + high)


def cluster_folds(clusters_P: np.ndarray, num_folds: int, *, seed: int) -> np.ndarray:
    """A fold in [0, num_folds) for every pair, all pairs of a cluster in the same one: (P,) int64.

    Folds hold equal numbers of clusters, give or take one; with fewer clusters than folds some folds are empty.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds is {num_folds}: at least 2 are needed to predict one fold from another")
    unique_C, index_P = np.unique(np.asarray(clusters_P), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(unique_C)) % num_folds)[index_P].astype(np.int64)


def mcnemar(right_a_P: np.ndarray, right_b_P: np.ndarray) -> float:
    """Exact two-sided p-value that two models are right equally often on the same pairs. McNemar (1947).

    Only pairs on which exactly one is right say anything; NaN rows are left out. 1.0 when there is no such pair.
    Pairs are taken as independent: with several pairs a prompt, use `significance.sign_flip`.
    """
    right_a_P, right_b_P = _both_scored(right_a_P, right_b_P)
    only_a, only_b = int(np.sum(right_a_P > right_b_P)), int(np.sum(right_b_P > right_a_P))
    n, fewer = only_a + only_b, min(only_a, only_b)
    log_terms = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * sum(math.exp(term) for term in log_terms))


def auroc(score_P: np.ndarray, positive_P: np.ndarray) -> float:
    """P(a positive scores above a negative), ties as half (Mann & Whitney 1947); NaN without both kinds.

    What has no score, or is of no kind (NaN), is left out.
    """
    score_P, kind_P = _both_scored(score_P, positive_P)
    positive_P = kind_P > 0.5
    num_positive, num_negative = int(positive_P.sum()), int((~positive_P).sum())
    if not num_positive or not num_negative:
        return math.nan
    ranks = mid_ranks(score_P)[positive_P].sum() - num_positive * (num_positive + 1) / 2
    return float(ranks / (num_positive * num_negative))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow; NaN stays NaN."""
    with np.errstate(over="ignore"):
        return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def mid_ranks(score_P: np.ndarray) -> np.ndarray:
    """Ranks from 1 upwards, equal scores sharing their mean rank: (P,) float64."""
    _, inverse_P, counts = np.unique(score_P, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse_P]


def _both_scored(a_P: np.ndarray, b_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a_P, b_P = np.asarray(a_P, dtype=np.float64), np.asarray(b_P, dtype=np.float64)
    scored_P = ~(np.isnan(a_P) | np.isnan(b_P))
    return a_P[scored_P], b_P[scored_P]


def chunk_sizes(num_samples: int, width: int) -> list[int]:
    """Sizes that sum to `num_samples`, each keeping a (size, width) array near 8 MB."""
    size = max(1, 1_000_000 // max(1, width))
    return [min(size, num_samples - start) for start in range(0, num_samples, size)]


def mean(values_P: np.ndarray) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    scored_P = values_P[~np.isnan(values_P)]
    return float(scored_P.mean()) if len(scored_P) else math.nan
