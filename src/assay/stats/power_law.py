"""A power law through a learning curve, and what doubling the data would bring. Pure numpy.

A law says what comes after the last point; the points cannot. So the forecast has two intervals: one that is conditional on the
law, and one that also holds what would come if the curve went flat, or on as a line in log n. Whether the law fits the points that
there are is tested (`lack_of_fit`).

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
    """change: value at twice the largest size less that at the largest, by the law. low, high: 95% interval over the law, a line in
    log n and a plateau; law_low, law_high: the same if the law holds. law: fit of what was seen (S = 1). fit_p: p-value of the law
    on all points (`lack_of_fit`).

    Then the backtest, the largest size from the smaller ones: what the law predicts, what a line in log n predicts, and the
    95% interval of the law's foresight less what was seen; NaN for fewer than four sizes.
    """

    change: float
    low: float
    high: float
    law: PowerLaw
    law_low: float
    law_high: float
    fit_p: float = math.nan
    predicted: float = math.nan
    predicted_by_line: float = math.nan
    miss_low: float = math.nan
    miss_high: float = math.nan


def forecast(sizes_K: np.ndarray, values_KRP: np.ndarray, prompts_P: np.ndarray, *, seed: int) -> Forecast:
    """Forecast of a figure that is better when lower, from its values on the held-out pairs at each size and repeat.

    Four to six points cannot separate floor from exponent: each resample is fitted anew, so the interval includes that uncertainty.
    """
    mean_SK = np.nanmean(values_KRP, axis=(1, 2))[None]
    noise = noise_of(values_KRP, prompts_P, seed=seed)
    means_SK = noise.means_SK + noise.spread * np.random.default_rng([seed, 1]).standard_normal(noise.means_SK.shape)
    law, laws = fit_power_law(sizes_K, mean_SK), fit_power_law(sizes_K, means_SK)
    change, changes_S = (each.at(2 * each.full) - each.at(each.full) for each in (law, laws))
    line, lines_S = line_change(sizes_K, mean_SK), line_change(sizes_K, means_SK)
    of_law, of_line = percentile_interval(changes_S), percentile_interval(lines_S)
    low, high = min(of_law.low, of_line.low, float(line[0]), 0.0), max(of_law.high, of_line.high, float(line[0]), 0.0)
    doubling = Forecast(float(change[0]), low, high, law, *of_law, lack_of_fit(sizes_K, mean_SK[0], noise, seed=seed))
    if len(sizes_K) <= MIN_SIZES:
        return doubling
    before_K, full = sizes_K[:-1], float(sizes_K[-1])
    predicted = float(fit_power_law(before_K, mean_SK[:, :-1]).at(full)[0])
    by_line = float(_line_at(before_K, mean_SK[:, :-1], full)[0])
    miss_S = fit_power_law(before_K, means_SK[:, :-1]).at(full) - means_SK[:, -1]
    miss_low, miss_high = percentile_interval(miss_S)
    return doubling._replace(predicted=predicted, predicted_by_line=by_line, miss_low=miss_low, miss_high=miss_high)


def line_change(sizes_K: np.ndarray, values_SK: np.ndarray) -> np.ndarray:
    """What a line in log n, fitted to all points with pairs as weights, adds from the largest size to twice as many: (S,)."""
    full = float(sizes_K[-1])
    return _line_at(sizes_K, values_SK, 2 * full) - _line_at(sizes_K, values_SK, full)


def lack_of_fit(sizes_K: np.ndarray, mean_K: np.ndarray, noise: Noise, *, seed: int, num_samples: int = 1000) -> float:
    """P-value that the means lie around a power law: distances from the best law, weighed by the noise of the means.

    The same distance is measured in simulated curves: a law like the one fitted, noise like the one seen, the law fitted anew, and
    the spread of the fits estimated from as few of them. 1 where the law goes through all points.
    """
    law = fit_power_law(sizes_K, mean_K[None])
    expected_K = np.array([float(law.at(float(size))[0]) for size in sizes_K])
    if np.abs(mean_K - expected_K).max() < 1e-9:
        return 1.0
    shared_KK, rng = np.cov(noise.means_SK.T), np.random.default_rng([seed, 2])

    def covariance(spread_S: np.ndarray) -> np.ndarray:
        """(s, K, K): of prompts, and of fits beyond what single pairs do, which the drawn prompts hold already.

        Not less than 0.7 of the whole: from a few fits the part of the pairs is not known well, and with less the test rejects
        true laws in up to a tenth of cases.
        """
        variance_S = np.maximum(np.square(spread_S) - noise.of_pairs, 0.7 * np.square(spread_S)) + 1e-12
        return np.asarray(shared_KK + variance_S[:, None, None] * np.eye(len(sizes_K)))

    seen_KK = covariance(np.array([noise.spread]))[0]
    drawn_SK = expected_K + rng.standard_normal((num_samples, len(sizes_K))) @ np.linalg.cholesky(seen_KK).T
    spread_S = noise.spread * np.sqrt(rng.chisquare(noise.freedom, num_samples) / noise.freedom)
    laws = fit_power_law(sizes_K, drawn_SK)
    left_SK = drawn_SK - np.stack([laws.at(float(size)) for size in sizes_K], axis=1)
    distance_S = np.einsum("sk,skl,sl->s", left_SK, np.linalg.inv(covariance(spread_S)), left_SK)
    left_K = mean_K - expected_K
    return float((1 + np.sum(distance_S >= left_K @ np.linalg.inv(seen_KK) @ left_K)) / (1 + num_samples))


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


class Noise(NamedTuple):
    """How the means at K sizes vary. means_SK: whole prompts drawn anew, the same for all sizes. spread: standard deviation of a
    mean over repeats from fit to fit, pooled over the sizes, with its degrees of freedom. of_pairs: the part of its square that is
    single pairs going either way, which drawing prompts shows too."""

    means_SK: np.ndarray
    spread: float
    freedom: int
    of_pairs: float


def noise_of(values_KRP: np.ndarray, prompts_P: np.ndarray, *, seed: int, num_samples: int = 1000) -> Noise:
    """The noise of the means at each size: held-out prompts, and repeats.

    Drawing from the few repeats of a size would understate their spread: noise of their variance, pooled over the sizes, stands
    for it. Pairs with NaN (label ties) are left out.
    """
    told_P = ~np.isnan(values_KRP).any(axis=(0, 1))
    values_KRP, prompt_P = values_KRP[:, :, told_P], np.unique(prompts_P[told_P], return_inverse=True)[1]
    sums_KRC = np.stack([[np.bincount(prompt_P, weights=values_P) for values_P in values_RP] for values_RP in values_KRP])
    sums_KC = sums_KRC.mean(axis=1)
    size_C = np.bincount(prompt_P)
    num_sizes, repeats = values_KRP.shape[:2]
    spread = float(np.sqrt(values_KRP.mean(axis=2).var(axis=1, ddof=1).mean() / repeats))
    means_SK = resampled(lambda c_SC: c_SC @ sums_KC.T / (c_SC @ size_C)[:, None], len(size_C), seed=seed, num_samples=num_samples)
    of_pairs = float(sums_KRC.var(axis=1, ddof=1).sum(axis=1).mean()) / (repeats * len(prompt_P) ** 2)
    return Noise(means_SK, spread, num_sizes * (repeats - 1), of_pairs)


def _line_at(sizes_K: np.ndarray, values_SK: np.ndarray, n: float) -> np.ndarray:
    """The value at n of a line in log n through the points: (S,)."""
    log_K, weight_K = np.log(sizes_K), sizes_K / sizes_K.sum()
    centre = float(weight_K @ log_K)
    slope_S = values_SK @ (weight_K * (log_K - centre)) / float(weight_K @ np.square(log_K - centre))
    return np.asarray(values_SK @ weight_K + slope_S * (math.log(n) - centre))
