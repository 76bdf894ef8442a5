"""Levels of what is fitted: forecasts, slopes, temperatures, factors, AUROCs, coefficients, weak slices. See levels.py.

Suffixes: R runs, P pairs, C clusters (prompts), K sizes of a learning curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from levels_frame import Level, Simulate

from assay.audit.attribution.surface import coefficients
from assay.evaluation.equal_kl import equal_kl_factor
from assay.evaluation.scale import paired_interval, scale_factor
from assay.evaluation.slices import columns_of, slice_tables, weak_slices
from assay.records import PreferencePair
from assay.scorers.wrappers.calibrated import fit_calibration
from assay.scorers.wrappers.debiased import fit_slope
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.metrics import Interval, sigmoid
from assay.stats.power_law import forecast

MISSES = 0.05
COVERS_93 = 0.07  # what percentile intervals of ratios and of few clusters are claimed to miss, where a 95% interval is printed
_QUANTILE = np.vectorize(NormalDist().inv_cdf)
SIZES_K = np.array([100.0, 200, 400, 800, 1600])


def missed(interval: Interval | tuple[float, float], truth: float) -> bool:
    return not interval[0] <= truth <= interval[1]


def each_run(happens: Callable[[np.random.Generator], bool]) -> Simulate:
    """A simulation that draws its runs one by one."""
    return lambda rng, runs: np.array([happens(rng) for _ in range(runs)], dtype=bool)


def shared_normal(rng: np.random.Generator, prompts_P: np.ndarray, correlation: float) -> np.ndarray:
    """(P,) standard normal, correlated within prompts."""
    shared_C = rng.normal(size=int(prompts_P.max()) + 1)
    return math.sqrt(correlation) * shared_C[prompts_P] + math.sqrt(1 - correlation) * rng.normal(size=len(prompts_P))


# Learning curves: errors by share of the largest size.

SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a power law": lambda s: 0.15 + 0.1 * s**-0.3,
    "a power law without a floor": lambda s: 0.25 * s**-0.15,
    "saturates": lambda s: 0.25 + 0.2 * np.exp(-4 * s),
    "saturates late": lambda s: 0.2 + 0.2 / (1 + np.exp(3 * (np.log2(s) + 1.5))),
    "a line in log n": lambda s: 0.3 - 0.02 * np.log2(s),
    "flat": lambda s: 0.3 + 0 * s,
}


def curve(rng: np.random.Generator, shape: str, num_prompts: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors (K, 3, P), 0 or 1, and prompts (P,): hard pairs are hard at every size; fits of a size differ by 1.5 points."""
    prompts_P = np.repeat(np.arange(num_prompts), pairs)
    error_KR = SHAPES[shape](SIZES_K / SIZES_K[-1])[:, None] + 0.015 * rng.standard_normal((len(SIZES_K), 3))
    own_KRP = rng.standard_normal((len(SIZES_K), 3, len(prompts_P)))
    hardness_KRP = 0.8 * shared_normal(rng, prompts_P, 0.3) + 0.6 * own_KRP
    return (hardness_KRP > _QUANTILE(1 - np.clip(error_KR, 0.01, 0.99))[:, :, None]).astype(float), prompts_P


def forecast_misses(shape: str, num_prompts: int, pairs: int) -> Simulate:
    truth = float(SHAPES[shape](np.array(2.0)) - SHAPES[shape](np.array(1.0)))

    def happens(rng: np.random.Generator) -> bool:
        found = forecast(SIZES_K, *curve(rng, shape, num_prompts, pairs), seed=int(rng.integers(2**31)))
        return missed((found.low, found.high), truth)

    return each_run(happens)


def law_is_rejected(shape: str, num_prompts: int, pairs: int) -> Simulate:
    def happens(rng: np.random.Generator) -> bool:
        return forecast(SIZES_K, *curve(rng, shape, num_prompts, pairs), seed=int(rng.integers(2**31))).fit_p <= 0.05

    return each_run(happens)


# Fits on margins.


def temperature_misses(num_prompts: int, pairs: int, correlation: float) -> Simulate:
    """Labels drawn by sigmoid(margin / 2); margins are correlated within prompts in size."""

    def happens(rng: np.random.Generator) -> bool:
        prompts_P = np.repeat(np.arange(num_prompts), pairs)
        margins_P = 2.5 * shared_normal(rng, prompts_P, correlation)
        wins_P = (rng.random(len(prompts_P)) < sigmoid(margins_P / 2)).astype(float)
        fit = fit_calibration(margins_P, preference_P=wins_P, clusters_P=prompts_P, split="")
        interval = fit.temperature_interval
        return not math.isnan(interval.low) and missed(interval, 2.0)

    return each_run(happens)


def slope_misses(num_prompts: int, pairs: int) -> Simulate:
    def happens(rng: np.random.Generator) -> bool:
        prompts_P = np.repeat(np.arange(num_prompts), pairs)
        gap_P = 0.6 * rng.normal(size=len(prompts_P)) + 0.2
        margins_P = 1 + 0.8 * gap_P + shared_normal(rng, prompts_P, 0.5)
        fit = fit_slope(margins_P, gap_P, [str(prompt) for prompt in prompts_P], scorer="x")
        return abs(fit.slope - 0.8) > 1.96 * fit.slope_se

    return each_run(happens)


LAWS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "right-skewed": lambda rng, n: rng.exponential(size=n),
    "left-skewed": lambda rng, n: -rng.exponential(size=n),
}


def factor_misses(num_prompts: int, pairs: int, heavy: bool) -> Simulate:
    """Old margins are twice as large as new ones, correlated .6 with them; sizes are shared within prompts."""

    def happens(rng: np.random.Generator) -> bool:
        prompts_P = np.repeat(np.arange(num_prompts), pairs)
        size_P = np.exp(0.3 * rng.normal(size=num_prompts))[prompts_P]
        if heavy:
            size_P = size_P / np.sqrt(rng.chisquare(8, size=len(prompts_P)) / 8)
        shared_P = rng.normal(size=len(prompts_P))
        old_P, new_P = (size_P * (math.sqrt(0.6) * shared_P + math.sqrt(0.4) * rng.normal(size=len(prompts_P))) for _ in range(2))
        seed = int(rng.integers(2**31))
        return missed(paired_interval(scale_factor, 2 * old_P, new_P, prompts_P, seed=seed, num_samples=500), 2.0)

    return each_run(happens)


def equal_kl_misses(law: str, num_prompts: int, num_candidates: int, beta: float) -> Simulate:
    """The truth is the factor on 4,000 prompts of as many candidates: what the interval is of."""

    def drawn(rng: np.random.Generator, num: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        spread = np.exp(0.3 * rng.normal(size=num))
        old = [s * LAWS["normal"](rng, num_candidates) for s in spread]
        return old, [s * LAWS[law](rng, num_candidates) for s in spread]

    truth = equal_kl_factor(*drawn(np.random.default_rng(7), 4_000), beta).factor

    def happens(rng: np.random.Generator) -> bool:
        found = equal_kl_factor(*drawn(rng, num_prompts), beta)
        return missed((found.low, found.high), truth)

    return each_run(happens)


def auroc_misses(num_prompts: int, pairs: int, share: float, shift: float, correlation: float) -> Simulate:
    truth = NormalDist().cdf(shift / math.sqrt(2))

    def happens(rng: np.random.Generator) -> bool:
        prompts_P = np.repeat(np.arange(num_prompts), pairs)
        positive_P = shared_normal(rng, prompts_P, correlation) > NormalDist().inv_cdf(1 - share)
        score_P = shift * positive_P + shared_normal(rng, prompts_P, correlation)
        interval = auroc_interval(score_P, positive_P, prompts_P)
        return not math.isnan(interval.low) and missed(interval, truth)

    return each_run(happens)


def coefficient_misses(num_prompts: int, pairs: int) -> Simulate:
    """The second of five features does nothing; features and errors are shared within prompts."""

    def happens(rng: np.random.Generator) -> bool:
        prompts_P = np.repeat(np.arange(num_prompts), pairs)
        x_PF = np.stack([shared_normal(rng, prompts_P, 0.5) for _ in range(5)], axis=1)
        margins_P = x_PF[:, 0] + shared_normal(rng, prompts_P, 0.5)
        _, low_F, high_F = coefficients(x_PF, margins_P, prompts_P, seed=int(rng.integers(2**31)))
        return missed((low_F[1], high_F[1]), 0.0)

    return each_run(happens)


def slice_is_accused(num_prompts: int, pairs: int, num_slices: int, share: float) -> Simulate:
    """All slices are alike; a tag cuts the pairs by prompt."""
    columns = [
        PreferencePair(prompt=f"q{c}", chosen="a" * (10 + i), rejected="b" * 12, tags={"kind": str(c % num_slices)})
        for c in range(num_prompts)
        for i in range(pairs)
    ]
    prompts_P = np.repeat(np.arange(num_prompts), pairs)

    def happens(rng: np.random.Generator) -> bool:
        right_P = shared_normal(rng, prompts_P, 0.4) < NormalDist().inv_cdf(share)
        tables = slice_tables(columns_of(np.where(right_P, 1.0, -1.0), columns, None, 0))
        return weak_slices(tables, float(right_P.mean())).level == "warn"

    return each_run(happens)


LEVELS: tuple[Level, ...] = (
    *(
        Level(
            name="forecast of a doubling, whole interval misses",
            law=f"error by size: {shape}; {prompts} prompts of {pairs}",
            count=forecast_misses(shape, prompts, pairs),
            most=MISSES,
        )
        for shape, (prompts, pairs) in zip(SHAPES, ((160, 1), (200, 3)) * 3, strict=True)
    ),
    *(
        Level(
            name="lack of fit, a power law is rejected",
            law=f"error by size: {shape}; {prompts} prompts of {pairs}",
            count=law_is_rejected(shape, prompts, pairs),
            most=0.05,
        )
        for shape, prompts, pairs in (("a power law", 160, 1), ("a power law without a floor", 200, 3), ("flat", 200, 3))
    ),
    *(
        Level(
            name="temperature, interval misses",
            law=f"{prompts} prompts of {pairs}, sizes of margins correlated {correlation:g}",
            count=temperature_misses(prompts, pairs, correlation),
            most=MISSES,
        )
        for prompts, pairs, correlation in ((40, 1, 0.0), (400, 1, 0.0), (40, 3, 0.9))
    ),
    *(
        Level(
            name="length slope, 1.96 standard errors miss",
            law=f"{prompts} prompts of {pairs}",
            count=slope_misses(prompts, pairs),
            most=COVERS_93,
        )
        for prompts, pairs in ((40, 2), (200, 1), (100, 5))
    ),
    *(
        Level(
            name="factor of a rescaled model misses",
            law=f"{prompts} prompts of {pairs}, {'t with 8 degrees' if heavy else 'normal'} margins",
            count=factor_misses(prompts, pairs, heavy),
            most=COVERS_93,
        )
        for prompts, pairs, heavy in ((60, 1, False), (300, 1, True), (100, 4, False))
    ),
    *(
        Level(
            name="factor for an equal KL misses",
            law=f"new rewards {law}, {prompts} prompts of {candidates} candidates, beta {beta:g}",
            count=equal_kl_misses(law, prompts, candidates, beta),
            most=0.12 if law == "right-skewed" else COVERS_93,
        )
        for law, prompts, candidates, beta in (
            ("normal", 60, 16, 2.0),
            ("right-skewed", 60, 64, 1.5),
            ("left-skewed", 100, 32, 1.5),
        )
    ),
    *(
        Level(
            name="AUROC interval misses",
            law=f"{NormalDist().cdf(shift / math.sqrt(2)):.3f}, {share:.0%} positive, {prompts} prompts of {pairs}, corr. {c:g}",
            count=auroc_misses(prompts, pairs, share, shift, c),
            most=COVERS_93,
        )
        for prompts, pairs, share, shift, c in (
            (30, 1, 0.3, 0.0, 0.0),
            (30, 1, 0.1, 1.2, 0.0),
            (100, 1, 0.05, 1.2, 0.0),
            (100, 1, 0.3, 3.5, 0.0),
            (60, 4, 0.1, 1.0, 0.5),
            (30, 8, 0.2, 0.0, 0.7),
            (300, 2, 0.2, 0.6, 0.4),
        )
    ),
    *(
        Level(
            name="coefficient of a surface feature misses",
            law=f"{prompts} prompts of {pairs}",
            count=coefficient_misses(prompts, pairs),
            most=COVERS_93,
        )
        for prompts, pairs in ((60, 1), (100, 3))
    ),
    *(
        Level(
            name="weak slices, one is accused of equal ones",
            law=f"{slices} slices of {prompts} prompts of {pairs}, accuracy {share:g}",
            count=slice_is_accused(prompts, pairs, slices, share),
            most=0.05,
        )
        for prompts, pairs, slices, share in ((100, 1, 4, 0.7), (80, 4, 8, 0.7), (200, 2, 10, 0.95))
    ),
)
