"""P(right) from log-odds by a line in them: P = sigmoid(scale x log-odds + shift), fitted on labels of steps.

Platt (1999), "Probabilistic outputs for support vector machines", with his smoothed targets; standard errors by cluster (Liang &
Zeger 1986). Suffixes: T steps, C clusters (problems).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from assay.stats.metrics import sigmoid

MIN_STEPS, MIN_OF_EACH = 30, 3


class Platt(NamedTuple):
    """scale (> 0), shift, and their standard errors by cluster, NaN where they are not known. note: why it is the identity, or does
    not tell right from wrong; "" where nothing is to be said."""

    scale: float
    shift: float
    scale_se: float
    shift_se: float
    note: str = ""


def fit_platt(log_odds_T: np.ndarray, right_T: np.ndarray, clusters_T: np.ndarray) -> Platt:
    """The line of highest likelihood for labels in [0, 1]; NaN of either is left out.

    One pseudo step of each kind (Platt's targets, spread over the steps) keeps it finite where the log-odds part the kinds. Fewer
    than 30 steps, or than 3 of a kind, give the identity with a note. Log-odds that order steps the wrong way round give the base
    rate with a scale near 0: a calibration must not turn the order round.
    """
    known_T = np.isfinite(log_odds_T) & np.isfinite(right_T)
    x_T, y_T = np.asarray(log_odds_T, np.float64)[known_T], np.asarray(right_T, np.float64)[known_T]
    index_T = np.unique(np.asarray(clusters_T)[known_T], return_inverse=True)[1]
    num_right, num = float(y_T.sum()), len(y_T)
    if num < MIN_STEPS or min(num_right, num - num_right) < MIN_OF_EACH:
        few = f"{num:,} labelled steps, {num - num_right:.4g} of them wrong"
        return Platt(
            1.0, 0.0, math.nan, math.nan, f"{few}, are too few to calibrate on ({MIN_STEPS} with {MIN_OF_EACH} of each kind)"
        )
    high, low = (num_right + 1) / (num_right + 2), 1 / (num - num_right + 2)
    target_T = y_T * high + (1 - y_T) * low
    spread = float(np.std(x_T)) or 1.0
    design_T2 = np.stack([x_T / spread, np.ones(num)], axis=1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit_T = design_T2 @ weights
        slope = design_T2.T @ (sigmoid(logit_T) - target_T)
        return float(np.logaddexp(0, logit_T).sum() - target_T @ logit_T) / num, slope / num

    fitted = minimize(loss, np.array([spread, 0.0]), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-10}).x
    scale, shift = float(fitted[0] / spread), float(fitted[1])
    if scale <= 1e-6 / spread:
        rate = num_right / num
        why = "the log-odds do not tell right from wrong steps: every step gets the share of right ones"
        return Platt(1e-6 / spread, math.log(rate / (1 - rate)), math.nan, math.nan, why)
    scale_se, shift_se = _errors(design_T2, sigmoid(design_T2 @ fitted), target_T, index_T)
    return Platt(scale, shift, scale_se / spread, shift_se)


def _errors(design_T2: np.ndarray, p_T: np.ndarray, target_T: np.ndarray, index_T: np.ndarray) -> tuple[float, float]:
    """Sandwich standard errors with scores summed by cluster; NaN with one cluster."""
    residual_T2 = design_T2 * (target_T - p_T)[:, None]
    scores_C2 = np.stack([np.bincount(index_T, weights=column) for column in residual_T2.T], axis=1)
    if len(scores_C2) < 2:
        return math.nan, math.nan
    bread = np.linalg.pinv(design_T2.T @ (design_T2 * (p_T * (1 - p_T))[:, None]))
    meat = scores_C2.T @ scores_C2 * len(scores_C2) / (len(scores_C2) - 1)
    first, second = np.sqrt(np.clip(np.diag(bread @ meat @ bread), 0, None))
    return float(first), float(second)
