"""Gao's form of the gold that best-of-n gains, R(d) = d (alpha - beta d), and where gold peaks: d* = alpha / (2 beta).

Source: Gao et al. (2022), "Scaling Laws for Reward Model Overoptimization"; d = sqrt(KL).
Suffixes: P prompts, M values of n, S samples of the bootstrap.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from assay.stats.metrics import NO_INTERVAL, Interval


class GaoFit(NamedTuple):
    """Gao's form fitted to a curve of gold: alpha, beta, and the same for S resamples; both in standard deviations of gold."""

    alpha: float
    beta: float
    alpha_S: np.ndarray
    beta_S: np.ndarray

    def at(self, distance: np.ndarray) -> np.ndarray:
        return distance * (self.alpha - self.beta * distance)

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """Intervals of alpha and beta, of no width where all resamples are alike."""
        alpha, beta = np.quantile([self.alpha_S, self.beta_S], [0.025, 0.975], axis=1).T.tolist()
        return Interval(*alpha), Interval(*beta)

    @property
    def caveat(self) -> str:
        """Why there is no fit, or no interval of it: nothing bounds what other prompts could show. Empty when there are both."""
        if math.isnan(self.beta):
            return "three values of n above 1 are needed for a fit"
        is_alike = max(np.ptp(self.alpha_S), np.ptp(self.beta_S)) < 1e-12
        return "every prompt shows the same curve: resampling gives no interval" if is_alike else ""

    @property
    def has_peak(self) -> bool:
        """Whether the curve rises at first and has a peak somewhere, both beyond noise."""
        return not math.isnan(self.beta) and all(interval.low > 0 for interval in self.intervals)

    def peak(self, within: float = math.inf) -> tuple[float, Interval]:
        """d* = alpha / (2 beta) with its interval, an end beyond `within` being infinite.

        NaN when the curve has no peak, and for one beyond the distance `within`, where nothing was measured.
        """
        if not self.has_peak or self.alpha / (2 * self.beta) > within:
            return math.nan, NO_INTERVAL
        with np.errstate(divide="ignore", invalid="ignore"):
            peak_S = np.where(self.beta_S > 0, np.maximum(self.alpha_S, 0) / (2 * self.beta_S), np.inf)
        low, high = np.quantile(np.where(peak_S > within, np.inf, peak_S), [0.025, 0.975], method="nearest").tolist()
        return self.alpha / (2 * self.beta), NO_INTERVAL if self.caveat else Interval(low, high)


def fit_gao(distance_M: np.ndarray, gold_PM: np.ndarray, weights_SP: np.ndarray) -> GaoFit:
    """Gao's form through the mean gold at each n > 1: least squares, weighted by 1 / variance of that mean; d = 0 is 0.

    Fitted anew to every resample, as the points of one curve stand on the same prompts. NaN for fewer than three values of n > 1.
    """
    away_M = distance_M > 0
    distance_M, gold_PM = distance_M[away_M], gold_PM[:, away_M]
    if len(distance_M) < 3:
        return GaoFit(math.nan, math.nan, *np.full((2, len(weights_SP)), math.nan))
    variance_M = gold_PM.var(axis=0, ddof=1)
    weight_M = 1 / variance_M if (variance_M > 1e-12).all() else np.ones_like(variance_M)
    design_M2 = np.stack([distance_M, -(distance_M**2)], axis=1)
    solve_2M = np.linalg.solve(design_M2.T @ (weight_M[:, None] * design_M2), design_M2.T * weight_M)
    alpha_S, beta_S = solve_2M @ (weights_SP @ gold_PM).T
    alpha, beta = solve_2M @ gold_PM.mean(axis=0)
    return GaoFit(float(alpha), float(beta), alpha_S, beta_S)
