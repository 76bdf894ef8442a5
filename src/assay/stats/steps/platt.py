"""P(right) from log-odds by a line in them: P = sigmoid(scale x log-odds + shift), fitted on labels of steps.

Platt (1999), "Probabilistic outputs for support vector machines", with a prior in place of his smoothed targets; standard errors
by cluster (Liang & Zeger 1986). Suffixes: T steps, C clusters (problems).

The prior says that log-odds mean roughly what they say: log scale normal around 0 with standard deviation 0.5, shift around the
given one with standard deviation 1. On 8 problems it brings the log loss of new steps from .102 above that of the best line to .035
(as the model says them: .142), on 16 from .039 to .021; from 64 on it makes no difference (benchmarks/step_calibration.py).

Level claimed: with `MIN_PROBLEMS` problems that hold a right step and as many that hold a wrong one, P(right) is off the best
line's by more than 0.1 in the mean over steps in at most 10% of data sets (benchmarks/levels.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from assay.stats.metrics import sigmoid

LOG_SCALE_SD, SHIFT_SD = 0.5, 1.0
MIN_PROBLEMS = 16
_BOUNDS = ((-12.0, 12.0), (None, None))  # of log scale and shift


class Platt(NamedTuple):
    """scale (> 0), shift, and their standard errors by cluster, NaN where they are not known. num_problems: clusters that hold a
    step of the rarer kind. note: that nothing is labelled, or that right is not told from wrong; "" where nothing is to be said."""

    scale: float
    shift: float
    scale_se: float
    shift_se: float
    num_problems: int
    note: str = ""


def fit_platt(log_odds_T: np.ndarray, right_T: np.ndarray, clusters_T: np.ndarray, *, shift: float = 0.0) -> Platt:
    """The most probable line for labels in [0, 1] under the prior; NaN of either is left out. shift: that of the prior.

    Without labels it is the line of the prior. Log-odds that order steps the wrong way round give a scale near 0, and a note: a
    calibration must not turn the order round.
    """
    known_T = np.isfinite(log_odds_T) & np.isfinite(right_T)
    x_T, y_T = np.asarray(log_odds_T, np.float64)[known_T], np.asarray(right_T, np.float64)[known_T]
    index_T = np.unique(np.asarray(clusters_T)[known_T], return_inverse=True)[1]
    if not len(y_T):
        return Platt(1.0, shift, math.nan, math.nan, 0, "no step is labelled")

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        scale, away = math.exp(line[0]), line[1] - shift
        logit_T = scale * x_T + line[1]
        slope_T = sigmoid(logit_T) - y_T
        value = np.logaddexp(0, logit_T).sum() - y_T @ logit_T + (line[0] / LOG_SCALE_SD) ** 2 / 2 + (away / SHIFT_SD) ** 2 / 2
        return float(value), np.array([scale * (slope_T @ x_T) + line[0] / LOG_SCALE_SD**2, slope_T.sum() + away / SHIFT_SD**2])

    start = np.array([0.0, shift])
    line = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=_BOUNDS, options={"ftol": 1e-14, "gtol": 1e-9}).x
    scale, found = math.exp(line[0]), float(line[1])
    design_T2 = np.stack([scale * x_T, np.ones(len(x_T))], axis=1)
    log_scale_se, shift_se = _errors(design_T2, sigmoid(scale * x_T + found), y_T, index_T)
    of_each = [len(np.unique(index_T[is_kind_T])) for is_kind_T in (y_T > 0.5, y_T < 0.5)]
    turned = min(of_each) > 0 and float((x_T - x_T.mean()) @ y_T) <= 0  # the line without a prior falls
    note = "the log-odds do not tell right from wrong steps: every step gets about the share of right ones" if turned else ""
    return Platt(scale, found, scale * log_scale_se, shift_se, min(of_each), note)


def _errors(design_T2: np.ndarray, p_T: np.ndarray, y_T: np.ndarray, index_T: np.ndarray) -> tuple[float, float]:
    """Standard errors of log scale and shift, from the prior and from what the clusters say together (their sandwich); NaN with one
    cluster."""
    residual_T2 = design_T2 * (y_T - p_T)[:, None]
    scores_C2 = np.stack([np.bincount(index_T, weights=column) for column in residual_T2.T], axis=1)
    if len(scores_C2) < 2:
        return math.nan, math.nan
    bread = design_T2.T @ (design_T2 * (p_T * (1 - p_T))[:, None])
    meat = scores_C2.T @ scores_C2 * len(scores_C2) / (len(scores_C2) - 1)
    said = bread @ np.linalg.pinv(meat) @ bread + np.diag([LOG_SCALE_SD**-2, SHIFT_SD**-2])
    first, second = np.sqrt(np.clip(np.diag(np.linalg.inv(said)), 0, None))
    return float(first), float(second)
