"""The cluster bootstrap: how a figure varies when whole clusters (prompts) are drawn anew, not pairs. Pure functions.

The draws are the same for all columns of a figure, so that what is compared is compared on the same prompts. Means of values in a
known range have better intervals: `mean_intervals`. Source: the pairs cluster bootstrap, Davison & Hinkley (1997), section 3.8.

Suffixes: P pairs (or values), C clusters (prompts), U kinds of cluster, S samples, K columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, stdtrit

from assay.stats.metrics import NO_INTERVAL, Interval, chunk_sizes, wilson_interval

NUM_SAMPLES = 2000
_MOST_KINDS = 500  # of clusters; up to as many, counting kinds is cheaper than drawing clusters


def resampled(
    statistic: Callable[[np.ndarray], np.ndarray],
    num_clusters: int,
    *,
    seed: int | np.random.Generator,
    num_samples: int = NUM_SAMPLES,
    width: int = 0,
) -> np.ndarray:
    """A statistic in S samples, each of as many clusters drawn with replacement: (S, ...).

    statistic: from how often each cluster is drawn, (s, C) integers for some of the samples, to its values in them, (s, ...).
    width: numbers that it holds for one sample, where these are more than C; memory is bounded by it.
    """
    rng, found = np.random.default_rng(seed), []
    for size in chunk_sizes(num_samples, max(num_clusters, width)):
        drawn_SC = rng.integers(num_clusters, size=(size, num_clusters)) + num_clusters * np.arange(size)[:, None]
        counts_SC = np.bincount(drawn_SC.reshape(-1), minlength=size * num_clusters).reshape(size, num_clusters)
        found.append(statistic(counts_SC))
    return np.concatenate(found)


def resampled_sums(columns_CK: np.ndarray, *, seed: int | np.random.Generator, num_samples: int = NUM_SAMPLES) -> np.ndarray:
    """Sums of each column over the drawn clusters: (S, K). Means and ratios of these are what most figures are."""
    num_clusters = len(columns_CK)
    kinds_UK, count_U = np.unique(columns_CK, axis=0, return_counts=True)
    if len(kinds_UK) > _MOST_KINDS:
        return resampled(lambda counts_SC: counts_SC @ columns_CK, num_clusters, seed=seed, num_samples=num_samples)
    # Clusters alike in all columns are interchangeable: how often each kind is drawn is the same draw.
    return np.random.default_rng(seed).multinomial(num_clusters, count_U / num_clusters, size=num_samples) @ kinds_UK


def percentile_interval(values_S: np.ndarray, level: float = 0.95, *, num_clusters: int | None = None) -> Interval:
    """The middle `level` of the samples. NaN, a sample without a figure, is left out; none when all are.

    num_clusters: that were drawn from. Resampling C clusters shows (C - 1) / C of the variance, and a normal tail where a t
    distribution's is due: with the number, the quantiles lie as much farther out. Source: Hesterberg (2015), "What Teachers Should
    Know About the Bootstrap", section 3.4 (the expanded percentile interval).
    """
    known_S = values_S[~np.isnan(values_S)]
    if not len(known_S) or (num_clusters is not None and num_clusters < 2):
        return NO_INTERVAL
    tail = 0.5 - level / 2
    if num_clusters is not None:
        tail = float(ndtr(math.sqrt(num_clusters / (num_clusters - 1)) * stdtrit(num_clusters - 1, tail)))
    return Interval(*np.quantile(known_S, [tail, 1 - tail]).tolist())


def cluster_bootstrap(
    values_P: np.ndarray, clusters_P: np.ndarray, *, seed: int, num_samples: int = NUM_SAMPLES, level: float = 0.95
) -> Interval:
    """Percentile interval of the mean of `values_P` over clusters drawn anew; none where all clusters have the same mean.

    clusters_P: (P,) any array of labels. NaN values are left out.
    """
    values_P, clusters_P = np.asarray(values_P, dtype=np.float64), np.asarray(clusters_P)
    if values_P.shape != clusters_P.shape:
        raise ValueError(f"{len(values_P)} values but {len(clusters_P)} clusters: give each value the cluster it is in")
    scored_P = ~np.isnan(values_P)
    if not scored_P.any():
        return NO_INTERVAL
    index_P = np.unique(clusters_P[scored_P], return_inverse=True)[1]
    size_C = np.bincount(index_P).astype(np.float64)
    sum_C = np.bincount(index_P, weights=values_P[scored_P])
    if np.ptp(sum_C / size_C) < 1e-12:
        return NO_INTERVAL
    sums_S2 = resampled_sums(np.stack([sum_C, size_C], axis=1), seed=seed, num_samples=num_samples)
    return percentile_interval(sums_S2[:, 0] / sums_S2[:, 1], level, num_clusters=len(size_C))


def resampled_interval(samples_S: np.ndarray, value: float, possible: Interval, num_clusters: int, level: float = 0.95) -> Interval:
    """Percentile interval of a figure from its S resamples, those that are not finite apart; none when the figure is NaN.

    Where resampling cannot vary, since all clusters show the same, an interval of no width would claim too much: then a share of
    clusters up to Wilson's bound for 0 of `num_clusters` may show anything `possible`. Less than a millionth of what is possible
    is no variation, but the rounding of float32 rewards.
    """
    finite_S = samples_S[np.isfinite(samples_S)]
    if math.isnan(value) or not len(finite_S):
        return NO_INTERVAL
    if np.ptp(finite_S) > 1e-6 * (possible.high - possible.low):
        return percentile_interval(finite_S, level, num_clusters=num_clusters)
    unseen = wilson_interval(0, num_clusters, level).high
    return Interval(value - unseen * max(0.0, value - possible.low), value + unseen * max(0.0, possible.high - value))
