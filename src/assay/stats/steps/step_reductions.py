"""From how sure a scorer is of each step to one number of the whole solution. Suffix: S steps of one solution.

Everything is computed from log-odds, in logarithms: a product of forty probabilities stays exact where the product itself is 0 in
float32, and 1 - 1e-9 is not rounded to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import numpy as np
from scipy.optimize import minimize

from assay.stats.metrics import sigmoid

Reduction = Literal["min", "product", "last", "mean", "learned"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
Reduced = Literal["min", "product", "last", "mean"]
"""Those that need nothing but the values of the steps."""
REDUCED: tuple[Reduced, ...] = get_args(Reduced)
_LEAST_LOG = -745.0  # of a probability that is 0: the logarithm of the smallest number, so that every solution keeps an order
STATISTICS = ("min", "mean", "last", "product", "log number", "share below one half")
"""What a learned reduction looks at: logarithms of P(right), of the number of steps, and a share."""
MIN_SOLUTIONS = 30


def as_reduction(word: str) -> Reduction:
    """The reduction of that name. Raises ValueError naming those that there are."""
    if word not in REDUCTIONS:
        raise ValueError(f"steps are reduced by {', '.join(REDUCTIONS)}, not by {word!r}")
    return cast(Reduction, word)


def reduce_values(values_S: np.ndarray, how: Reduced) -> float:
    """One number of the values of a solution's steps; NaN for no steps, and where a step has none.

    product: its natural logarithm, exact where the product itself would underflow; it takes probabilities. Raises ValueError for
    others.
    """
    values_S = np.asarray(values_S, np.float64)
    if not len(values_S) or np.isnan(values_S).any():
        return math.nan
    match how:
        case "min":
            return float(values_S.min())
        case "last":
            return float(values_S[-1])
        case "mean":
            return float(values_S.mean())
    if values_S.min() < 0 or values_S.max() > 1:
        raise ValueError(f"a product is of probabilities, and {values_S.min():g} to {values_S.max():g} are none")
    with np.errstate(divide="ignore"):
        return float(np.maximum(np.log(values_S), _LEAST_LOG).sum())


def log_right(log_odds_S: np.ndarray) -> np.ndarray:
    """log P(right) of each step, (S,) float64: -log(1 + e^-x). NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return -np.logaddexp(0.0, -np.asarray(log_odds_S, dtype=np.float64))  # type: ignore[no-any-return]


def reduce_steps(log_odds_S: np.ndarray, how: Reduction, weights: Sequence[float] = ()) -> float:
    """log of the reduced P(right) of a solution, at most 0; NaN for no steps, and where a step has no number.

    min: of the steps' probabilities (Lightman et al. 2023 and Wang et al. 2024, "Math-Shepherd"); product: of all; last: that of
    the last step; mean: the arithmetic mean; learned: a logistic model of `STATISTICS` with these weights, see `learn_reduction`.
    All are natural logarithms of a probability, so that one rule and a calibration hold for each.
    """
    log_S = log_right(log_odds_S)
    if not len(log_S) or np.isnan(log_S).any():
        return math.nan
    if how == "min":
        return float(log_S.min())
    if how == "product":
        return float(log_S.sum())
    if how == "last":
        return float(log_S[-1])
    if how == "learned":
        return float(log_right(weights[0] + statistics_of(log_odds_S) @ np.asarray(weights[1:], np.float64)))
    return float(np.logaddexp.reduce(log_S) - math.log(len(log_S)))


def statistics_of(log_odds_S: np.ndarray) -> np.ndarray:
    """`STATISTICS` of the steps of one solution, (6,) float64."""
    log_S = log_right(log_odds_S)
    below = float((np.asarray(log_odds_S) < 0).mean())
    return np.array([log_S.min(), log_S.mean(), log_S[-1], log_S.sum(), math.log(len(log_S)), below])


def learn_reduction(log_odds_N: Sequence[np.ndarray], outcome_N: np.ndarray) -> tuple[float, ...] | str:
    """Weights of a logistic model of P(final answer right) in `STATISTICS` of the steps, the constant first; or why there are none.

    outcome_N: in [0, 1], NaN where it is not known; solutions without steps, or of which a step has no number, are left out. A
    ridge of 1 on standardised statistics, beside the summed loss.
    """
    known = [
        i
        for i, (x_S, y) in enumerate(zip(log_odds_N, outcome_N, strict=True))
        if len(x_S) and np.isfinite(y) and np.isfinite(x_S).all()
    ]
    y_N = np.asarray(outcome_N, np.float64)[known]
    if len(known) < MIN_SOLUTIONS or not 0 < y_N.mean() < 1:
        kinds = "" if len(known) < MIN_SOLUTIONS else ", all of one kind"
        return f"{len(known):,} solutions with a known outcome{kinds}: {MIN_SOLUTIONS} of both kinds are needed"
    found_NF = np.stack([statistics_of(log_odds_N[i]) for i in known])
    mean_F, spread_F = found_NF.mean(axis=0), found_NF.std(axis=0)
    spread_F = np.where(spread_F > 0, spread_F, 1.0)
    design = np.concatenate([np.ones((len(known), 1)), (found_NF - mean_F) / spread_F], axis=1)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit_N = design @ weights
        held = np.concatenate([[0.0], weights[1:]])
        value = float((np.logaddexp(0, logit_N) - y_N * logit_N).sum() + 0.5 * held @ held)
        return value, design.T @ (sigmoid(logit_N) - y_N) + held

    fitted = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    slopes = fitted[1:] / spread_F
    return (float(fitted[0] - slopes @ mean_F), *map(float, slopes))
