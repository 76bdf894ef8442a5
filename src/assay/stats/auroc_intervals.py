"""An interval for an AUROC that holds with few positives, near 0 and 1, with ties, and with several values a cluster.

Suffixes: P values, C clusters (prompts).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from assay.stats.metrics import NO_INTERVAL, Interval, auroc, mid_ranks

_NO_SPREAD = 1e-12


def auroc_interval(score_P: np.ndarray, positive_P: np.ndarray, clusters_P: np.ndarray, *, level: float = 0.95) -> Interval:
    """Score interval of `auroc`: all values that the figure lies within t standard errors of; none with one kind or one cluster.

    t: with as many degrees of freedom as clusters, less one.
    The standard error at a value is that of Hanley & McNeil (1982), as in method 5 of Newcombe (2006), so that it shrinks towards 0
    and 1 and is never 0 inside. It is scaled by the design effect (at least 1): the variance by cluster (Obuchowski 1997) over
    that of independent values, both at the figure. Where nothing varies (perfect separation, or all scores equal) clusters count in
    place of values. NaN in score or kind is left out.
    """
    scored_P = ~(np.isnan(np.asarray(score_P, np.float64)) | np.isnan(np.asarray(positive_P, np.float64)))
    score_P, is_positive_P = np.asarray(score_P, np.float64)[scored_P], np.asarray(positive_P, np.float64)[scored_P] > 0.5
    index_P = np.unique(np.asarray(clusters_P)[scored_P], return_inverse=True)[1]
    figure, num_clusters = auroc(score_P, is_positive_P), len(np.unique(index_P))
    if math.isnan(figure) or num_clusters < 2:
        return NO_INTERVAL
    sizes = [int(is_positive_P.sum()), int((~is_positive_P).sum())]
    variance = _clustered_variance(score_P, is_positive_P, index_P, figure)
    effect = max(1.0, variance / _independent_variance(figure, *sizes)) if variance > _NO_SPREAD else 1.0
    if variance <= _NO_SPREAD:
        sizes = [len(np.unique(index_P[is_positive_P])), len(np.unique(index_P[~is_positive_P]))]
    reach = float(stdtrit(num_clusters - 1, 0.5 + level / 2)) * math.sqrt(effect)

    def end(outer: float) -> float:
        """Between the figure, which is inside, and 0 or 1, by bisection."""
        inside, outside = figure, outer
        for _ in range(50):
            middle = (inside + outside) / 2
            if abs(figure - middle) <= reach * math.sqrt(_independent_variance(middle, *sizes)):
                inside = middle
            else:
                outside = middle
        return outside

    return Interval(end(0.0), end(1.0))


def auroc_gain_interval(
    score_P: np.ndarray, rival_P: np.ndarray, positive_P: np.ndarray, clusters_P: np.ndarray, *, level: float = 0.95
) -> Interval:
    """Interval of `auroc` of the scores less that of a rival's on the same values; none with one kind or one cluster.

    t standard errors of the difference of both values' placements, summed by cluster (DeLong et al. 1988; Obuchowski 1997). NaN in
    either score or the kind is left out.
    """
    score_P, rival_P, kind_P = (np.asarray(one, np.float64) for one in (score_P, rival_P, positive_P))
    scored_P = ~(np.isnan(score_P) | np.isnan(rival_P) | np.isnan(kind_P))
    score_P, rival_P, is_positive_P = score_P[scored_P], rival_P[scored_P], kind_P[scored_P] > 0.5
    index_P = np.unique(np.asarray(clusters_P)[scored_P], return_inverse=True)[1]
    figures, num_clusters = [auroc(one, is_positive_P) for one in (score_P, rival_P)], len(np.unique(index_P))
    if math.isnan(figures[0]) or num_clusters < 2:
        return NO_INTERVAL
    left_P = _left_over(score_P, is_positive_P, figures[0]) - _left_over(rival_P, is_positive_P, figures[1])
    sums_C = np.bincount(index_P, weights=left_P)
    error = math.sqrt(float(np.square(sums_C).sum()) * num_clusters / (num_clusters - 1))
    reach = float(stdtrit(num_clusters - 1, 0.5 + level / 2)) * error
    gain = figures[0] - figures[1]
    return Interval(max(-1.0, gain - reach), min(1.0, gain + reach))


def _independent_variance(value: float, num_positive: int, num_negative: int) -> float:
    """Of an AUROC whose expectation is `value`, with as many on both sides as on average."""
    extra = (num_positive + num_negative) / 2 - 1
    couples = num_positive * num_negative
    return value * (1 - value) * (1 + extra * (1 - value) / (2 - value) + extra * value / (1 + value)) / couples


def _clustered_variance(score_P: np.ndarray, is_positive_P: np.ndarray, index_P: np.ndarray, figure: float) -> float:
    """By placements, summed by cluster."""
    sums_C = np.bincount(index_P, weights=_left_over(score_P, is_positive_P, figure))
    return float(np.square(sums_C).sum()) * len(sums_C) / (len(sums_C) - 1)


def _left_over(score_P: np.ndarray, is_positive_P: np.ndarray, figure: float) -> np.ndarray:
    """What each value adds to the AUROC beyond its share: by its placement, the share of the other kind that it beats."""
    place_P, own_P = mid_ranks(score_P), np.empty(len(score_P))
    for kind_P in (is_positive_P, ~is_positive_P):
        own_P[kind_P] = mid_ranks(score_P[kind_P])
    num_positive = int(is_positive_P.sum())
    num_negative = len(score_P) - num_positive
    beats_P = (place_P - own_P) / np.where(is_positive_P, num_negative, num_positive)
    return np.where(is_positive_P, beats_P - figure, 1 - beats_P - figure) / np.where(is_positive_P, num_positive, num_negative)
