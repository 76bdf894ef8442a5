"""Gao's form of the gold that reinforcement learning gains, R(d) = d (alpha - beta log d), with its peak at exp(alpha / beta - 1).

Source: Gao et al. (2022), "Scaling Laws for Reward Model Overoptimization", section 3; d = sqrt(KL). It is a form that was seen,
not a law: whether it fits the points that there are is tested, and a fit that misses gives no peak.

Level claimed: a form that holds is refused in at most 7 of 100 runs of 32 or more prompts (tests/audit/test_rl_fit.py).

Suffixes: E evaluations, P prompts, S resamples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from assay.stats.bootstrap import percentile_interval, resampled_sums
from assay.stats.metrics import NO_INTERVAL, Interval

MIN_POINTS = 4
NUM_RESAMPLES = 1000


class RLFit(NamedTuple):
    """alpha, beta: in units of gold per square root of a nat. alpha_interval, beta_interval: 95%, prompts resampled. misses: the
    largest residual in standard errors of its point; limit: what 95% of resamples stay below where the form holds. at_E: the curve
    at the evaluations. farthest: the largest distance that was measured."""

    alpha: float
    beta: float
    alpha_interval: Interval
    beta_interval: Interval
    misses: float
    limit: float
    at_E: np.ndarray
    farthest: float
    caveat: str = ""

    @property
    def holds(self) -> bool:
        return not self.caveat and self.misses <= self.limit

    @property
    def peak(self) -> float:
        """Square root of the KL at which gold is highest; NaN where the form misses, gold does not fall, or the peak lies beyond
        what was measured."""
        if not self.holds or not self.beta_interval.low > 0 or not self.alpha_interval.low > 0:
            return math.nan
        peak = math.exp(self.alpha / self.beta - 1)
        return peak if peak <= self.farthest else math.nan


def fit_rl(distance_E: np.ndarray, gain_EP: np.ndarray, *, seed: int, num: int = NUM_RESAMPLES) -> RLFit:
    """The form through the mean gain in gold at each distance, by least squares weighted with each point's standard error.

    distance_E: square root of the mean KL of each evaluation; those at 0 are left out, since the form is 0 there. gain_EP: gold
    less that before training, of the same prompts; prompts with NaN are left out. All points stand on the same prompts, so they
    are resampled together.
    """
    kept_P = ~np.isnan(gain_EP).any(0)
    away_E = np.asarray(distance_E) > 0
    distance_M, gain_MP = np.asarray(distance_E)[away_E], gain_EP[away_E][:, kept_P]
    nothing = RLFit(math.nan, math.nan, NO_INTERVAL, NO_INTERVAL, math.nan, math.nan, np.full(len(distance_E), np.nan), 0.0)
    if len(distance_M) < MIN_POINTS:
        return nothing._replace(caveat=f"{len(distance_M)} evaluations away from the start are too few: {MIN_POINTS} are needed")
    if gain_MP.shape[1] < 8:
        return nothing._replace(caveat=f"{gain_MP.shape[1]} prompts with gold at every evaluation are too few: 8 are needed")
    error_M = gain_MP.std(axis=1, ddof=1) / math.sqrt(gain_MP.shape[1])
    error_M = np.maximum(error_M, max(1e-9 * float(np.abs(gain_MP).max()), 1e-12))  # of a point without noise
    design_M2 = np.stack([distance_M, -distance_M * np.log(distance_M)], axis=1)
    solve_2M = np.linalg.pinv(design_M2 / error_M[:, None]) / error_M
    mean_M = gain_MP.mean(1)
    found_2 = solve_2M @ mean_M
    residual_M = mean_M - design_M2 @ found_2
    num_prompts = gain_MP.shape[1]
    means_SM = resampled_sums(gain_MP.T, seed=seed, num_samples=num) / num_prompts
    found_S2 = means_SM @ solve_2M.T
    away_SM = (means_SM - found_S2 @ design_M2.T - residual_M) / error_M
    intervals = [percentile_interval(found_S2[:, i], num_clusters=num_prompts) for i in range(2)]
    at_E = np.zeros(len(distance_E))
    at_E[away_E] = design_M2 @ found_2
    return RLFit(
        alpha=float(found_2[0]),
        beta=float(found_2[1]),
        alpha_interval=intervals[0],
        beta_interval=intervals[1],
        misses=float(np.abs(residual_M / error_M).max()),
        limit=max(float(np.quantile(np.abs(away_SM).max(1), 0.95)), 1e-5),  # rounding, where there is no noise
        at_E=at_E,
        farthest=float(distance_M.max()),
    )
