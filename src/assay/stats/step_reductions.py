"""From how sure a scorer is of each step to one number of the whole solution. Suffix: S steps of one solution.

Everything is computed from log-odds, in logarithms: a product of forty probabilities stays exact where the product itself is 0 in
float32, and 1 - 1e-9 is not rounded to 1.
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import numpy as np

Reduction = Literal["min", "product", "last", "mean"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


def as_reduction(word: str) -> Reduction:
    """The reduction of that name. Raises ValueError naming those that there are."""
    if word not in REDUCTIONS:
        raise ValueError(f"steps are reduced by {', '.join(REDUCTIONS)}, not by {word!r}")
    return cast(Reduction, word)


def log_right(log_odds_S: np.ndarray) -> np.ndarray:
    """log P(right) of each step, (S,) float64: -log(1 + e^-x). NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return -np.logaddexp(0.0, -np.asarray(log_odds_S, dtype=np.float64))  # type: ignore[no-any-return]


def reduce_steps(log_odds_S: np.ndarray, how: Reduction) -> float:
    """log of the reduced P(right) of a solution, at most 0; NaN for no steps, and where a step has no number.

    min: of the steps' probabilities (Lightman et al. 2023 and Wang et al. 2024, "Math-Shepherd"); product: of all; last: that of
    the last step; mean: the arithmetic mean. All four are natural logarithms of a probability, so that one rule and a calibration
    hold for each.
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
    return float(np.logaddexp.reduce(log_S) - math.log(len(log_S)))
