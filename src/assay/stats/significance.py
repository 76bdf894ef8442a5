"""Tests that hold their level when the pairs of a prompt move together and when many are made at once. Numpy only, pure functions.

Suffixes: P pairs, C clusters (prompts), H hypotheses. NaN is "could not be scored": left out. A test of nothing is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

POWER, LEVEL = 0.8, 0.05
_MAX_EXACT = 20_000  # pairs on which two models differ; beyond, the normal tail is the same to four digits


def false_discovery(p_H: np.ndarray, *, dependent: bool = False) -> np.ndarray:
    """q-values: (H,), the lowest rate of false discoveries at which a hypothesis would be among the discoveries; NaN stays NaN.

    Of the hypotheses with q <= 0.05, at most 5% are true on average. NaN is no hypothesis and is not counted.
    dependent: Benjamini & Yekutieli (2001), under any dependence, for a factor of about log H; without it Benjamini & Hochberg
    (1995), which holds for independent tests and for positive dependence, as that of slices that overlap.
    Raises ValueError for a value outside [0, 1].
    """
    p_H = np.asarray(p_H, dtype=np.float64)
    if np.any((p_H < 0) | (p_H > 1)):
        raise ValueError(f"p-values lie in [0, 1], not {float(np.nanmin(p_H)):g} to {float(np.nanmax(p_H)):g}: pass probabilities")
    q_H = np.full(len(p_H), np.nan)
    tested = np.flatnonzero(~np.isnan(p_H))
    order = tested[np.argsort(p_H[tested], kind="stable")]
    rank = np.arange(1, len(order) + 1)
    factor = float(np.sum(1 / rank)) if dependent else 1.0
    steps = p_H[order] * len(order) * factor / rank
    q_H[order] = np.minimum(1.0, np.minimum.accumulate(steps[::-1])[::-1])
    return q_H


def holm(p_M: np.ndarray | Sequence[float]) -> np.ndarray:
    """P-values adjusted so that rejecting those below alpha errs once or more with probability alpha at most: (M,). Holm (1979).

    NaN (not tested) stays NaN and does not count. Raises ValueError for a value outside [0, 1].
    """
    adjusted_M = np.array(p_M, dtype=np.float64)
    if np.any((adjusted_M < 0) | (adjusted_M > 1)):
        low, high = float(np.nanmin(adjusted_M)), float(np.nanmax(adjusted_M))
        raise ValueError(f"p-values lie in [0, 1], not {low:g} to {high:g}: pass probabilities")
    tested = np.flatnonzero(~np.isnan(adjusted_M))
    order = tested[np.argsort(adjusted_M[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted_M[order] = np.minimum(1.0, np.maximum.accumulate(adjusted_M[order] * factors))
    return adjusted_M


def sign_flip(differences_P: np.ndarray, clusters_P: np.ndarray) -> float:
    """Two-sided p-value that two models are right equally often on the same pairs, whole prompts at a time; 1 if they never differ.

    differences_P: (P,) right of one minus right of the other: -1, 0 or 1. If the two models could change places in a prompt, the
    sum of its differences is as likely to have the other sign: p is the share of all sign patterns whose total is at least as far
    from 0, counted exactly. With one pair a prompt this is McNemar's exact test (`metrics.mcnemar`); with several it still holds.
    Source: the randomisation test of Fisher (1935) on sums of clusters. Raises ValueError for differences that are not whole.
    """
    differences_P = np.asarray(differences_P, dtype=np.float64)
    scored_P = ~np.isnan(differences_P)
    if not scored_P.any():
        return math.nan
    if np.any(differences_P[scored_P] % 1):
        raise ValueError("differences are not whole numbers: give right (0 or 1) of one model minus right of the other")
    index_P = np.unique(np.asarray(clusters_P)[scored_P], return_inverse=True)[1]
    sums_C = np.rint(np.bincount(index_P, weights=differences_P[scored_P])).astype(np.int64)
    sizes_C, seen = np.abs(sums_C), abs(int(sums_C.sum()))
    total = int(sizes_C.sum())
    if not total:
        return 1.0
    if total > _MAX_EXACT:
        return math.erfc(seen / math.sqrt(2 * float(np.square(sizes_C).sum())))
    chance = np.ones(1)  # chance[u]: that the prompts with sign + hold u of the total; the sum is then 2 u - total
    for size, count in zip(*np.unique(sizes_C[sizes_C > 0], return_counts=True), strict=True):
        part = np.zeros(int(size * count) + 1)
        part[:: int(size)] = _binomial_half(int(count))
        chance = np.convolve(chance, part)
    return min(1.0, float(chance[np.abs(2 * np.arange(total + 1) - total) >= seen].sum()))


def differs_from_rest(right_P: np.ndarray, group_P: np.ndarray, clusters_P: np.ndarray) -> float:
    """Two-sided p-value that accuracy is the same in a group of pairs as outside of it; NaN when either side has no scored pair.

    right_P: 1 or 0, NaN unscored. group_P: (P,) bool. Fisher's exact test on counts that are divided, all four, by the design
    effect of the contrast: how much one correlation of being right inside a prompt, estimated over all pairs, raises its variance
    (at least 1: no gain is claimed). Few pairs or an accuracy near 1 do not upset it, as they would a normal test.
    Source: Fisher (1922); Rao & Scott (1992) for the clusters, with a moment estimate of the correlation.
    """
    right_P, group_P = np.asarray(right_P, dtype=np.float64), np.asarray(group_P, dtype=bool)
    scored_P = ~np.isnan(right_P)
    right_P, group_P, clusters_P = right_P[scored_P], group_P[scored_P], np.asarray(clusters_P)[scored_P]
    if not group_P.any() or group_P.all():
        return math.nan
    effect = _design_effect(right_P, group_P, np.unique(clusters_P, return_inverse=True)[1])
    inside, outside = right_P[group_P], right_P[~group_P]
    counts = (inside.sum(), (1 - inside).sum(), outside.sum(), (1 - outside).sum())
    return _fisher(*(round(float(count) / effect) for count in counts))


def clustered_error(values_P: np.ndarray, clusters_P: np.ndarray) -> float:
    """Standard error of the mean of `values_P` when clusters are the units drawn; NaN for fewer than two of them.

    sqrt(C / (C - 1) x sum over clusters of (sum of values minus the mean)^2) / P. Source: Liang & Zeger (1986); that of Miller
    (2024), "Adding error bars to evals", with the factor for few clusters.
    """
    values_P = np.asarray(values_P, dtype=np.float64)
    scored_P = ~np.isnan(values_P)
    values_P, index_P = values_P[scored_P], np.unique(np.asarray(clusters_P)[scored_P], return_inverse=True)[1]
    num_clusters = int(index_P.max()) + 1 if len(index_P) else 0
    if num_clusters < 2:
        return math.nan
    sums_C = np.bincount(index_P, weights=values_P - values_P.mean())
    return math.sqrt(num_clusters / (num_clusters - 1) * float(np.square(sums_C).sum())) / len(values_P)


def smallest_detectable(error: float, *, power: float = POWER, level: float = LEVEL) -> float:
    """The true difference that a two-sided test at `level` finds with probability `power`: (z_(1 - level / 2) + z_power) x error.

    error: standard error of the difference (`clustered_error` of the paired differences), in its units; 0 or NaN gives NaN: where
    nothing varied, nothing is known of what could be seen. 2.80 x error by default. Optimistic under about 30 prompts.
    Source: Bloom (1995), "Minimum detectable effects".
    """
    return _spread(power, level) * error if error > 0 else math.nan


def pairs_needed(difference: float, error: float, num_pairs: int, *, power: float = POWER, level: float = LEVEL) -> float:
    """How many pairs it takes to detect a true `difference`, with as many pairs a prompt as now.

    num_pairs x (smallest_detectable / difference)^2, rounded up. error: standard error of the difference on `num_pairs` pairs; 0 or
    NaN gives NaN.
    Raises ValueError for a difference of 0.
    """
    if difference == 0:
        raise ValueError("no number of pairs detects a difference of 0: give the smallest one that matters, such as 0.01")
    smallest = smallest_detectable(error, power=power, level=level)
    return math.nan if math.isnan(smallest) else float(math.ceil(num_pairs * (smallest / difference) ** 2 - 1e-9))


def _spread(power: float, level: float) -> float:
    if not (0 < power < 1 and 0 < level < 1):
        raise ValueError(f"power {power} and level {level} are probabilities between 0 and 1: 0.8 and 0.05 are usual")
    return NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)


def _binomial_half(n: int) -> np.ndarray:
    """(n + 1,) probabilities of 0 .. n heads of a fair coin."""
    logs = _log_factorials(n)
    return np.exp(logs[n] - logs - logs[::-1] - n * math.log(2))


def _design_effect(right_P: np.ndarray, group_P: np.ndarray, index_P: np.ndarray) -> float:
    """Variance of (mean inside - mean outside) with the correlation inside prompts, over that without; at least 1."""
    error_P = right_P - right_P.mean()
    size_C = np.bincount(index_P)
    num_couples, variance = float(np.sum(size_C * (size_C - 1))), float(np.square(error_P).mean())
    if not num_couples or not variance:
        return 1.0
    couples = float(np.square(np.bincount(index_P, weights=error_P)).sum() - np.square(error_P).sum())
    correlation = min(1.0, max(0.0, couples / (num_couples * variance)))
    weight_P = np.where(group_P, 1 / group_P.sum(), -1 / (~group_P).sum())
    together = float(np.square(np.bincount(index_P, weights=weight_P)).sum() / np.square(weight_P).sum())
    return max(1.0, 1 + correlation * (together - 1))


def _fisher(right_in: int, wrong_in: int, right_out: int, wrong_out: int) -> float:
    """Two-sided: the total chance, margins given, of tables no likelier than this one."""
    n_in, num_right, n = right_in + wrong_in, right_in + right_out, right_in + wrong_in + right_out + wrong_out
    logs = _log_factorials(n)
    possible = np.arange(max(0, num_right - (n - n_in)), min(num_right, n_in) + 1)
    log_chance = -(logs[possible] + logs[n_in - possible] + logs[num_right - possible] + logs[n - n_in - num_right + possible])
    chance = np.exp(log_chance - log_chance.max())
    seen = chance[right_in - possible[0]]
    return min(1.0, float(chance[chance <= seen * (1 + 1e-7)].sum() / chance.sum()))


def _log_factorials(n: int) -> np.ndarray:
    """(n + 1,) log 0!, log 1!, ... log n!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
