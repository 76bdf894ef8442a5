"""Differences of paired replicates: a test without a form, an interval, and what could have been seen. Numpy only.

A replicate is one repetition of a whole experiment (labels, models, draws) that the two arms share. Suffix: R replicates. NaN is
"was not measured" and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from assay.stats.significance import LEVEL, POWER

MAX_EXACT = 18  # replicates whose sign patterns are all counted
_DRAWS = 99_999


class Paired(NamedTuple):
    """mean: of the differences. low, high: 95% interval of Student's t. p: of `flip_test`. smallest: the true difference that such
    a test of means finds with probability .8. num: replicates."""

    mean: float
    low: float
    high: float
    p: float
    smallest: float
    num: int


def paired(differences_R: np.ndarray | Sequence[float], *, seed: int = 0) -> Paired:
    """What replicates say of a difference. With fewer than two the interval is NaN.

    smallest: (t_(1 - level / 2) + t_power) x standard error, both quantiles with R - 1 degrees of freedom: with few replicates
    larger than `significance.smallest_detectable`, which takes the normal's. Source: Bloom (1995), "Minimum detectable effects".
    """
    kept_R = _kept(differences_R)
    if len(kept_R) < 2:
        nothing = math.nan
        return Paired(float(kept_R.mean()) if len(kept_R) else nothing, nothing, nothing, flip_test(kept_R), nothing, len(kept_R))
    mean, error, free = float(kept_R.mean()), float(kept_R.std(ddof=1)) / math.sqrt(len(kept_R)), len(kept_R) - 1
    reach = float(stdtrit(free, 1 - LEVEL / 2))
    smallest = (reach + float(stdtrit(free, POWER))) * error if error > 0 else math.nan
    return Paired(mean, mean - reach * error, mean + reach * error, flip_test(kept_R, seed=seed), smallest, len(kept_R))


def flip_test(differences_R: np.ndarray | Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p-value that two arms are alike: the share of sign patterns of the differences whose sum is at least as far from 0.

    If the arms could change places in every replicate, each difference is as likely to have the other sign. All 2^R patterns are
    counted up to 18 replicates; beyond, 99,999 are drawn by the seed and the one that was seen is counted among them. Never below
    `least_p`. NaN for no replicate. `significance.sign_flip` is the same for whole numbers. Source: Fisher (1935).
    """
    kept_R = _kept(differences_R)
    if not len(kept_R):
        return math.nan
    seen = abs(float(kept_R.sum()))
    slack = 1e-12 * float(np.abs(kept_R).sum())
    if len(kept_R) <= MAX_EXACT:
        sums = np.zeros(1)
        for one in kept_R:
            sums = np.concatenate([sums - one, sums + one])
        return float(np.mean(np.abs(sums) >= seen - slack))
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_DRAWS, len(kept_R)))
    return (1 + int(np.sum(np.abs(signs @ kept_R) >= seen - slack))) / (1 + _DRAWS)


def least_p(num: int) -> float:
    """The lowest p-value that `flip_test` can give with so many replicates, 2 / 2^R: with five it is .0625, whatever was seen."""
    if num < 1:
        raise ValueError(f"{num} replicates: a test needs at least 1")
    return max(2.0 ** (1 - num), 1 / (1 + _DRAWS) if num > MAX_EXACT else 0.0)


def _kept(differences_R: np.ndarray | Sequence[float]) -> np.ndarray:
    differences_R = np.asarray(differences_R, dtype=np.float64)
    if differences_R.ndim != 1:
        raise ValueError(f"differences have the shape {differences_R.shape}: give one number a replicate")
    return differences_R[~np.isnan(differences_R)]
