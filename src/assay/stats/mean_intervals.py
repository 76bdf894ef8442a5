"""Intervals of means when the pairs of a prompt vary together, one form for each kind of value. Pure functions.

Shares (values in [0, 1], such as being right) and changes of shares (in [-1, 1]) get score intervals with as many pairs as theirs
are worth: those stay inside the range, have a width where every pair is right, and move with the pairs. Resampling does none of
that: near accuracy 1 it draws the few wrong pairs too seldom. Means without a range are resampled.

Level claimed: 95% intervals cover in at least 93% of data sets, for accuracies of .5 to .99, 20 to 500 prompts of 1 to 10 pairs,
correlations inside prompts of 0 to .9 (beta-binomial), and for differences of two such (benchmarks/levels.py). Where a few prompts
are wrong as a whole and the others pair by pair, a sample without such prompts does not show them: then it is 90%.

Suffixes: P pairs (or values), C clusters (prompts).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv, stdtrit

from assay.stats.bootstrap import cluster_bootstrap
from assay.stats.metrics import CHANGE, NO_INTERVAL, UNIT, Interval, wilson_interval
from assay.stats.significance import sign_flip

FADING = 1.18  # by which the least design effect falls with each pair that is unlike the others
WIDEST = 1.16  # by which the width of few clusters is raised at most, as a quantile of t over that of a normal


def mean_interval(
    values_P: np.ndarray, clusters_P: np.ndarray, *, seed: int, support: Interval | None = UNIT, level: float = 0.95
) -> Interval:
    """Interval of the mean of `values_P` over prompts like these; NaN values are left out, and nothing has none.

    clusters_P: (P,) any array of labels. support: the range that the values lie in, CHANGE for `change_interval`, any other for
    `share_interval` of values scaled to [0, 1], None for `cluster_bootstrap`, which alone uses the seed. Raises ValueError for
    values beyond it.
    """
    if support is None:
        return cluster_bootstrap(values_P, clusters_P, seed=seed, level=level)
    if support == CHANGE:
        return change_interval(values_P, clusters_P, level=level)
    width = support.high - support.low
    share = share_interval((np.asarray(values_P, dtype=np.float64) - support.low) / width, clusters_P, level=level)
    return Interval(support.low + width * share.low, support.low + width * share.high)


def share_interval(values_P: np.ndarray, clusters_P: np.ndarray, *, level: float = 0.95) -> Interval:
    """Interval of the mean of values in [0, 1]: Wilson's (1927), with n the number of independent pairs that the P are worth.

    An end is moved out to the one-sided exact limit (Clopper & Pearson 1934) where that lies farther out, which it does for less
    than about five wrong (or right) pairs: Wilson's alone then covers in as little as 84%. Source: Brown, Cai & DasGupta (2001),
    section 4.1.1, who do so up to three. With one 0/1 value a prompt the interval moves down when a right pair becomes wrong.
    """
    scored = _scored(values_P, clusters_P, UNIT)
    if not len(scored.values):
        return NO_INTERVAL
    share = float(scored.values.mean())
    n = len(scored.values) / _design_effect(scored, share * (1 - share), level)
    low, high = wilson_interval(share * n, n, level)
    if share > 0:
        low = min(low, float(betaincinv(share * n, n - share * n + 1, 1 - level)))
    if share < 1:
        high = max(high, 1 - float(betaincinv(n - share * n, share * n + 1, 1 - level)))
    return Interval(low, high)


def change_interval(values_P: np.ndarray, clusters_P: np.ndarray, *, level: float = 0.95) -> Interval:
    """Interval of the mean of paired differences in [-1, 1], from what went up and what went down.

    Tango's score interval (1998, eq. 6), with the number of independent pairs that the P are worth; where all are 0 it is
    +- z^2 / (n + z^2). It holds 0 wherever the exact test (`sign_flip`) does not tell whole differences from 0 at 1 - level.
    """
    scored = _scored(values_P, clusters_P, CHANGE)
    values_P = scored.values
    if not len(values_P):
        return NO_INTERVAL
    up, down = float(np.maximum(values_P, 0).mean()), float(np.maximum(-values_P, 0).mean())
    n = len(values_P) / _design_effect(scored, up + down - (up - down) ** 2, level)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    low, high = _tango_low(up, down, n, z), -_tango_low(down, up, n, z)
    if not low <= 0 <= high and not np.any(values_P % 1) and sign_flip(values_P, scored.cluster) > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    return Interval(low, high)


def groups_interval(
    values_P: np.ndarray, a_P: np.ndarray, b_P: np.ndarray, clusters_P: np.ndarray, *, level: float = 0.95
) -> Interval:
    """Interval of the mean of values in [0, 1] over the pairs of group a, less that over group b; none where either has no value.

    a_P, b_P: (P,) bool. Groups that share prompts move together, or against each other where prompts differ in which group they
    favour: the intervals of both are joined with their correlation over prompts. Source: Zou & Donner (2008), eq. 12.
    """
    scored_P, prompt_P = ~np.isnan(values_P), np.unique(clusters_P, return_inverse=True)[1]
    means, intervals, pulls = [], [], []
    for group_P in (a_P & scored_P, b_P & scored_P):
        if not group_P.any():
            return NO_INTERVAL
        means.append(float(values_P[group_P].mean()))
        intervals.append(share_interval(values_P[group_P], prompt_P[group_P], level=level))
        pulls.append(np.bincount(prompt_P[group_P], weights=values_P[group_P] - means[-1], minlength=int(prompt_P.max()) + 1))
    size = math.sqrt(float(np.square(pulls[0]).sum()) * float(np.square(pulls[1]).sum()))
    correlation = float(pulls[0] @ pulls[1]) / size if size > 1e-12 else 0.0
    (a, b), (of_a, of_b) = means, intervals
    low = _joined(a - of_a.low, of_b.high - b, correlation)
    high = _joined(of_a.high - a, b - of_b.low, correlation)
    return Interval(max(-1.0, a - b - low), min(1.0, a - b + high))


def _joined(a: float, b: float, correlation: float) -> float:
    return math.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b))


class _Scored(NamedTuple):
    """Values that are not NaN and the number of each one's cluster, from 0: (P,)."""

    values: np.ndarray
    cluster: np.ndarray


def _scored(values_P: np.ndarray, clusters_P: np.ndarray, support: Interval) -> _Scored:
    values_P, clusters_P = np.asarray(values_P, dtype=np.float64), np.asarray(clusters_P)
    if values_P.shape != clusters_P.shape:
        raise ValueError(f"{len(values_P)} values but {len(clusters_P)} clusters: give each value the cluster it is in")
    scored_P = ~np.isnan(values_P)
    values_P = values_P[scored_P]
    beyond_P = (values_P < support.low - 1e-9) | (values_P > support.high + 1e-9)
    if beyond_P.any():
        range_of, found = f"[{support.low:g}, {support.high:g}]", float(values_P[beyond_P][0])
        raise ValueError(f"the value {found:g} is not in {range_of}: name the support of the values, None if they have none")
    return _Scored(np.clip(values_P, support.low, support.high), np.unique(clusters_P[scored_P], return_inverse=True)[1])


def _design_effect(scored: _Scored, independent: float, level: float) -> float:
    """How many pairs are worth one independent pair whose variance is `independent`.

    What is seen: the clustered variance over that of independent 0/1 values, its excess raised where it rests on few clusters. It
    cannot be seen while all pairs but a few are alike, so it is at least its maximum (each cluster of one piece) over 1.18 for each
    pair that is unlike the others. With one 0/1 value a cluster, where nothing is estimated, it is 1.
    """
    error_P = scored.values - scored.values.mean()
    size_C, square_P = np.bincount(scored.cluster), np.square(error_P)
    num_clusters, largest = len(size_C), float(np.square(size_C).sum() / size_C.sum())
    if square_P.max() < 1e-18 or num_clusters < 2:
        return largest
    least, spread = largest * FADING ** -float(square_P.sum() / square_P.max()), float(square_P.mean()) / independent
    if largest == 1 and spread > 1 - 1e-9:
        return max(1.0, least)
    pull_C = np.square(np.bincount(scored.cluster, weights=error_P))
    together = float(pull_C.sum() / square_P.sum()) * num_clusters / (num_clusters - 1)
    rests_on = float(pull_C.sum() ** 2 / max(1e-18, np.square(pull_C).sum()))  # clusters, were all of one size
    raised = _raised(1.5 * rests_on - 1, num_clusters, level)
    return max(spread * (1 + max(0.0, together - 1) * raised if spread > 1 - 1e-9 else max(1.0, together) * raised), least)


def _raised(rests_on: float, num_clusters: int, level: float) -> float:
    """The square by which a t quantile is wider than a normal one, with C - 1 degrees of freedom, or as few as the variance rests
    on, then by 1.16 at most."""
    normal = NormalDist().inv_cdf(0.5 + level / 2)
    usual = float(stdtrit(num_clusters - 1, 0.5 + level / 2)) / normal
    few = float(stdtrit(min(max(1.5, rests_on), num_clusters - 1), 0.5 + level / 2)) / normal
    return max(usual, min(few, WIDEST)) ** 2


def _tango_low(up: float, down: float, n: float, z: float) -> float:
    """The lower end of Tango's interval of up - down, shares of n pairs: where the score test is z."""

    def score(change: float) -> float:
        b = -(up + down) + (2 - up + down) * change
        least = (math.sqrt(max(0.0, b * b + 8 * down * change * (1 - change))) - b) / 4  # share that went down, were this the truth
        return up - down - change - z * math.sqrt(max(0.0, 2 * least + change * (1 - change)) / n)

    if score(-1.0) <= 0:
        return -1.0
    return float(brentq(score, -1.0, up - down - 1e-9, xtol=1e-12))  # where all are alike, the figure itself is a root too
