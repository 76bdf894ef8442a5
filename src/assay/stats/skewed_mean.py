"""Is a mean above zero, when its values may be skewed: most rise a little and a few fall far. Pure functions.

No test of a mean keeps its level for every skewness: falls that are rare enough are not seen. So the p-value is also asked to hold
with one more cluster that falls as far as is plausible. Level claimed: 5% for any law whose falls are not larger than that, from 10
clusters on (benchmarks/levels.py, with falls of 2 to 10% of the clusters and log-normal tails).

Suffixes: N values, C clusters (prompts), D clusters and one more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

from assay.stats.metrics import wilson_interval


class AboveZero(NamedTuple):
    """A mean over C clusters with its 95% interval. p_seen: one-sided, of "not above zero", by what was seen; p: the same, if one
    more cluster falls as far as is plausible. NaN where there are no values, or too few clusters to judge."""

    mean: float
    low: float
    high: float
    p: float
    p_seen: float
    num_clusters: int


def above_zero(values_N: np.ndarray, clusters_N: np.ndarray, *, largest_fall: float, min_clusters: int = 3) -> AboveZero:
    """Test that the mean of the values is not above zero; a cluster varies as one. NaN values are left out.

    p_seen is of Hall's t (1992, "On the removal of skewness by transformation") on the sums of the clusters, with C - 1 degrees
    of freedom; the interval is of the same test. p is the larger of it and that of the empirical likelihood with one cluster
    more, whose mean falls by `largest_fall` (> 0) or as far as any that was seen (Owen 2001, with the pseudo-observation of Chen,
    Variyath & Abraham 2008). Where no fall was seen, it is small only if no rate of such falls that C clusters could have missed
    would undo the mean. Neither is below 2^-C, what the signs of C clusters alone can show.
    """
    scored_N = ~np.isnan(values_N)
    if not scored_N.any():
        return AboveZero(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    mean, parts_C = float(values_N[scored_N].mean()), cluster_parts(values_N, clusters_N)
    num_clusters, least = len(parts_C), 2.0 ** -len(parts_C)
    if num_clusters < min_clusters:
        return AboveZero(mean, math.nan, math.nan, math.nan, math.nan, num_clusters)
    sizes_C = np.unique(clusters_N[scored_N], return_counts=True)[1]
    pull_C = parts_C - mean * sizes_C / sizes_C.mean()
    variance = float(np.square(pull_C).sum() / (num_clusters - 1))
    error, fall = math.sqrt(variance / num_clusters), max(largest_fall, -float(parts_C.min()))
    if error < 1e-12 * max(1.0, abs(mean)):  # what did not vary could: as many clusters as C can miss may move as far as `fall`
        unseen, p_seen = wilson_interval(0, num_clusters).high, 0.0 if mean > 0 else 1.0
        low, high = mean - unseen * max(0.0, mean + fall), mean + unseen * max(0.0, fall - mean)
    else:
        skew = num_clusters**2 / ((num_clusters - 1) * (num_clusters - 2)) * float((pull_C**3).mean()) / variance**1.5
        low, high, p_seen = _hall(mean, error, skew / (6 * math.sqrt(num_clusters)), num_clusters)
    p = max(p_seen, _p_with_fall(parts_C, fall))
    return AboveZero(mean, low, high, max(p, least), max(p_seen, least), num_clusters)


def cluster_parts(values_N: np.ndarray, clusters_N: np.ndarray) -> np.ndarray:
    """Sum of each cluster's values over the mean number of values a cluster: (C,), whose mean is that of all. NaN is left out."""
    scored_N = ~np.isnan(values_N)
    index_N = np.unique(clusters_N[scored_N], return_inverse=True)[1]
    sums_C = np.bincount(index_N, weights=values_N[scored_N])
    return sums_C * len(sums_C) / max(1, len(index_N))


def _hall(mean: float, error: float, a: float, num_clusters: int) -> tuple[float, float, float]:
    """Ends of the interval and one-sided p by T(t) = ((1 + 2 a t)^3 - 1) / (6 a) + a, t = mean / error, which skewness spares."""
    if abs(a) < 1e-6:
        half = float(stdtrit(num_clusters - 1, 0.975)) * error
        return mean - half, mean + half, float(stdtr(num_clusters - 1, -mean / error))

    def back(quantile: float) -> float:
        return (float(np.cbrt(1 + 6 * a * (quantile - a))) - 1) / (2 * a)

    quantile = float(stdtrit(num_clusters - 1, 0.975))
    seen = ((1 + 2 * a * mean / error) ** 3 - 1) / (6 * a) + a
    return mean - back(quantile) * error, mean - back(-quantile) * error, float(stdtr(num_clusters - 1, -seen))


def _p_with_fall(parts_C: np.ndarray, fall: float) -> float:
    """One-sided p of the largest log likelihood ratio, sum log(1 + l x) over the clusters and one more of x = -fall."""
    all_D = np.append(parts_C, -fall)
    if all_D.sum() <= 0:
        return 1.0
    weight = float(brentq(lambda weight: float(np.sum(all_D / (1 + weight * all_D))), 0.0, (1 - 1e-9) / fall))
    ratio = float(np.log1p(weight * all_D).sum())
    return float(stdtr(len(parts_C) - 1, -math.sqrt(2 * max(0.0, ratio))))
