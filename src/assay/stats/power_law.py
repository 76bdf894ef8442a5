"""A power law through a learning curve, and what doubling the data would bring. Pure numpy.

Suffixes: K sizes, R repeats, P held-out pairs, C prompts, S samples of the bootstrap.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from assay.stats.bootstrap import percentile_interval, resampled

EXPONENTS = np.arange(1, 21) / 20  # 0.07 to 0.5 are seen in practice (Hestness et al. 2017); no curve can separate finer steps
MIN_SIZES = 3  # for three parameters


class PowerLaw(NamedTuple):
    """value(n) = floor + above (n / full)^-exponent, S of them: floor, above, exponent are (S,); above < 0 rises with n."""

    floor: np.ndarray
    above: np.ndarray
    exponent: np.ndarray
    full: float

    def at(self, n: float) -> np.ndarray:
        return self.floor + self.above * (n / self.full) ** -self.exponent


class Forecast(NamedTuple):
    """change: value at twice the largest size less that at the largest, with its 95% interval. law: fit of what was seen (S = 1).

    Then the backtest, the largest size from the smaller ones: what the law predicts, what a line in log n predicts, and the
    95% interval of the law's foresight less what was seen; NaN for fewer than four sizes.
    """

    change: float
    low: float
    high: float
    law: PowerLaw
    predicted: float = math.nan
    predicted_by_line: float = math.nan
    miss_low: float = math.nan
    miss_high: float = math.nan


def forecast(sizes_K: np.ndarray, values_KRP: np.ndarray, prompts_P: np.ndarray, *, seed: int) -> Forecast:
    """Forecast of a figure that is better when lower, from its values on the held-out pairs at each size and repeat.

    Four to six points cannot separate floor from exponent: each resample is fitted anew, so the interval includes that uncertainty.
    """
    mean_SK = np.nanmean(values_KRP, axis=(1, 2))[None]
    means_SK = resampled_means(values_KRP, prompts_P, seed=seed)
    law, laws = fit_power_law(sizes_K, mean_SK), fit_power_law(sizes_K, means_SK)
    change, changes_S = (each.at(2 * each.full) - each.at(each.full) for each in (law, laws))
    doubling = Forecast(float(change[0]), *percentile_interval(changes_S), law)
    if len(sizes_K) <= MIN_SIZES:
        return doubling
    before_K, full = sizes_K[:-1], float(sizes_K[-1])
    predicted = float(fit_power_law(before_K, mean_SK[:, :-1]).at(full)[0])
    by_line = float(np.polyval(np.polyfit(np.log(before_K), mean_SK[0, :-1], 1, w=np.sqrt(before_K)), math.log(full)))
    miss_S = fit_power_law(before_K, means_SK[:, :-1]).at(full) - means_SK[:, -1]
    miss_low, miss_high = percentile_interval(miss_S)
    return doubling._replace(predicted=predicted, predicted_by_line=by_line, miss_low=miss_low, miss_high=miss_high)


def fit_power_law(sizes_K: np.ndarray, values_SK: np.ndarray) -> PowerLaw:
    """Least squares with floor >= 0 over a grid of exponents: for each the rest is linear, so that the best is exact on the grid.

    Pairs are the weights, as if the spread of a fit fell as 1 / sqrt(n). Source: Hestness et al. (2017), Rosenfeld et al. (2020).
    """
    assert len(sizes_K) >= MIN_SIZES
    share_K = np.asarray(sizes_K, dtype=np.float64) / sizes_K[-1]
    root_K = np.sqrt(share_K)
    wanted_SK = values_SK * root_K
    best = np.full((4, len(values_SK)), np.inf)  # squared error, floor, above, exponent
    for exponent in EXPONENTS:
        column_K = share_K**-exponent * root_K
        floor_S, above_S = np.linalg.pinv(np.stack([root_K, column_K], axis=1)) @ wanted_SK.T
        above_S = np.where(floor_S < 0, wanted_SK @ column_K / (column_K @ column_K), above_S)
        floor_S = np.maximum(floor_S, 0)
        error_S = np.square(wanted_SK - np.outer(floor_S, root_K) - np.outer(above_S, column_K)).sum(axis=1)
        best = np.where(error_S < best[0] - 1e-20, [error_S, floor_S, above_S, np.full_like(error_S, exponent)], best)
    _, floor_S, above_S, exponent_S = best
    return PowerLaw(floor_S, above_S, exponent_S, float(sizes_K[-1]))


def resampled_means(values_KRP: np.ndarray, prompts_P: np.ndarray, *, seed: int, num_samples: int = 1000) -> np.ndarray:
    """(S, K) means at each size as they could have come out: whole prompts drawn anew, the same for all sizes, and other repeats.

    Drawing from the few repeats of a size would understate their spread: noise of their variance, pooled over the sizes, is added
    instead. Pairs with NaN (label ties) are left out.
    """
    told_P = ~np.isnan(values_KRP).any(axis=(0, 1))
    values_KRP, prompt_P = values_KRP[:, :, told_P], np.unique(prompts_P[told_P], return_inverse=True)[1]
    sums_KC = np.stack([np.bincount(prompt_P, weights=values_P) for values_P in values_KRP.mean(axis=1)])
    size_C = np.bincount(prompt_P)
    spread = np.sqrt(values_KRP.mean(axis=2).var(axis=1, ddof=1).mean() / values_KRP.shape[1])
    rng = np.random.default_rng(seed)
    means_SK = resampled(lambda c_SC: c_SC @ sums_KC.T / (c_SC @ size_C)[:, None], len(size_C), seed=rng, num_samples=num_samples)
    return means_SK + spread * rng.standard_normal(means_SK.shape)
