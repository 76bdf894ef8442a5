"""How far probabilities are from how often they are right, and how far chance alone would put them. Pure functions.

Suffixes: P pairs, C clusters (prompts), S simulated samples, B bins. NaN is "could not be scored": left out of every figure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from assay.stats.mean_intervals import FADING, share_interval
from assay.stats.metrics import chunk_sizes


class ReliabilityRow(NamedTuple):
    """One bin of a reliability diagram: mean confidence, share right with its interval, number of pairs."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


class ExpectedEce(NamedTuple):
    """The ECE that a perfectly calibrated model would show on such pairs: its mean, 5% and 95% quantiles."""

    mean: float
    low: float
    high: float


def ece(p_P: np.ndarray, outcome_P: np.ndarray, num_bins: int = 10) -> float:
    """Expected calibration error: mean over pairs of |mean p - mean outcome| of the pair's bin, in [0, 1].

    Equal-mass bins (equal p never parted, so there can be fewer than `num_bins`); give it a `Confidence`. Biased up for few
    pairs: read it beside `expected_ece`. Source: Guo et al. (2017), eq. 3, with the bins of Nguyen & O'Connor (2015).
    """
    p_P, outcome_P = _scored(p_P, outcome_P)
    if not len(p_P):
        return math.nan
    bins_P = _equal_mass_bins(p_P, num_bins)
    return float(np.abs(np.bincount(bins_P, weights=p_P) - np.bincount(bins_P, weights=outcome_P)).sum() / len(p_P))


def expected_ece(
    p_P: np.ndarray, outcome_P: np.ndarray, clusters_P: np.ndarray, num_bins: int = 10, *, seed: int, num_samples: int = 1000
) -> ExpectedEce:
    """The ECE that chance alone gives if each p is exactly right. An observed ECE under `high` is no evidence of miscalibration.

    The one of two nulls with the higher 95% quantile. The signs of whole clusters are flipped, each with all of its bins (the
    randomisation test of Fisher 1935): that keeps how pairs of a prompt move together, but few wrong pairs of confident models make
    it too narrow. And outcomes are drawn as Bernoulli(p) (Broecker & Smith 2007), in as many clusters all by one draw as the pairs
    show, with one standard error more. Level: an ECE above `high` is seen in at most 5% of calibrated models, for mean confidence
    .6 to .97, 30 to 500 prompts of 1 to 10 pairs, correlations of 0 to .9 (benchmarks/levels.py).
    """
    p_P, outcome_P, clusters_P = _scored(p_P, outcome_P, clusters_P)
    if not len(p_P):
        return ExpectedEce(math.nan, math.nan, math.nan)
    order_P = np.lexsort((outcome_P, p_P))
    p_P, outcome_P = p_P[order_P], outcome_P[order_P]
    index_P = np.unique(clusters_P, return_inverse=True)[1][order_P]
    bins_P = _equal_mass_bins(p_P, num_bins)
    rng, nulls = np.random.default_rng(seed), (_by_flips, _by_draws)
    simulated = [null(p_P, outcome_P, index_P, bins_P, rng, num_samples) for null in nulls]
    ece_S = max(simulated, key=lambda ece_S: float(np.quantile(ece_S, 0.95)))
    low, high = np.quantile(ece_S, [0.05, 0.95])
    return ExpectedEce(float(ece_S.mean()), float(low), float(high))


def _by_flips(
    p_P: np.ndarray, outcome_P: np.ndarray, index_P: np.ndarray, bins_P: np.ndarray, rng: np.random.Generator, num_samples: int
) -> np.ndarray:
    """(S,) ECEs with the residuals of each cluster turned round at random."""
    residual_CB = np.zeros((int(index_P.max()) + 1, int(bins_P.max()) + 1))
    np.add.at(residual_CB, (index_P, bins_P), outcome_P - p_P)
    sign_SC = 1.0 - 2.0 * rng.integers(2, size=(num_samples, len(residual_CB)))
    return np.abs(sign_SC @ residual_CB).sum(axis=1) / len(p_P)


def _by_draws(
    p_P: np.ndarray, outcome_P: np.ndarray, index_P: np.ndarray, bins_P: np.ndarray, rng: np.random.Generator, num_samples: int
) -> np.ndarray:
    """(S,) ECEs of drawn outcomes; in a share of the clusters one uniform number decides all pairs. p_P ascends."""
    starts_B, num_clusters = np.flatnonzero(np.diff(bins_P, prepend=-1)), int(index_P.max()) + 1
    together = _together(p_P, outcome_P, index_P)
    ece_S = []
    for size in chunk_sizes(num_samples, len(p_P)):
        drawn_SP = rng.random((size, len(p_P)), dtype=np.float32)
        if together > 0:
            is_one_SC = rng.random((size, num_clusters), dtype=np.float32) < together
            one_SC = rng.random((size, num_clusters), dtype=np.float32)
            drawn_SP = np.where(is_one_SC[:, index_P], one_SC[:, index_P], drawn_SP)
        residual_SP = (drawn_SP < p_P).astype(np.float64) - p_P
        ece_S.append(np.abs(np.add.reduceat(residual_SP, starts_B, axis=1)).sum(axis=1) / len(p_P))
    return np.concatenate(ece_S)


def _together(p_P: np.ndarray, outcome_P: np.ndarray, index_P: np.ndarray) -> float:
    """The share of clusters that move as one, by the products of residuals over couples of a cluster's pairs, and a standard error
    more; while few pairs are wrong, at least 1 over 1.18 for each. p_P ascends: the expected product of i < j is p_i - p_i p_j."""
    size_C, residual_P = np.bincount(index_P), outcome_P - p_P
    if size_C.max() < 2:
        return 0.0
    by_cluster_P = np.argsort(index_P, kind="stable")
    after_P = np.empty(len(p_P))
    after_P[by_cluster_P] = (
        np.cumsum(size_C)[index_P[by_cluster_P]] - 1 - np.arange(len(p_P))
    )  # pairs of the cluster with a higher p
    most_C = np.bincount(index_P, weights=2 * p_P * after_P) - _couples(p_P, index_P)
    seen_C = _couples(residual_P, index_P)
    if most_C.sum() <= 0:
        return 1.0
    share = max(0.0, float(seen_C.sum() / most_C.sum()))
    error = math.sqrt(float(np.square(seen_C - share * most_C).sum())) / float(most_C.sum())
    return min(1.0, max(share + error, FADING ** -float((1 - outcome_P).sum())))


def _couples(values_P: np.ndarray, index_P: np.ndarray) -> np.ndarray:
    """Sum over ordered couples of different pairs of a cluster of the products of their values: (C,)."""
    return np.square(np.bincount(index_P, weights=values_P)) - np.bincount(index_P, weights=np.square(values_P))


def reliability_rows(
    p_P: np.ndarray, outcome_P: np.ndarray, clusters_P: np.ndarray, num_bins: int = 10, *, level: float = 0.95
) -> tuple[ReliabilityRow, ...]:
    """The bins of `ece`, in order of confidence: rows of a Table with chart="reliability". Intervals by cluster."""
    p_P, outcome_P, clusters_P = _scored(p_P, outcome_P, clusters_P)
    if not len(p_P):
        return ()
    bins_P = _equal_mass_bins(p_P, num_bins)
    rows = []
    for b in range(int(bins_P.max()) + 1):
        in_bin_P = bins_P == b
        interval = share_interval(outcome_P[in_bin_P], clusters_P[in_bin_P], level=level)
        rows.append(ReliabilityRow(float(p_P[in_bin_P].mean()), float(outcome_P[in_bin_P].mean()), *interval, int(in_bin_P.sum())))
    return tuple(rows)


def _equal_mass_bins(p_P: np.ndarray, num_bins: int) -> np.ndarray:
    """Bin of every p, 0 upwards without gaps, by its mid-rank: equal values share a bin, whatever their order."""
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}: at least one bin is needed")
    _, index_P, count = np.unique(p_P, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(count) - count + (count - 1) / 2
    bins = np.floor(num_bins * mid_rank / len(p_P)).astype(np.int64)
    return np.unique(bins[index_P], return_inverse=True)[1]


def _scored(p_P: np.ndarray, outcome_P: np.ndarray, *more_P: np.ndarray) -> tuple[np.ndarray, ...]:
    """Columns without the pairs whose p or outcome is NaN."""
    p_P, outcome_P = np.asarray(p_P, dtype=np.float64), np.asarray(outcome_P, dtype=np.float64)
    scored_P = ~(np.isnan(p_P) | np.isnan(outcome_P))
    return (p_P[scored_P], outcome_P[scored_P], *(np.asarray(one_P)[scored_P] for one_P in more_P))
