"""Levels of intervals: how often each misses the truth. See levels.py.

Intervals are called 95% ones. What is claimed of them is that they miss in at most 7% of data sets in the family that
`stats/mean_intervals` names: 20 to 500 prompts, 1 to 10 pairs each, correlation 0 to .9, accuracy .5 to .99; and in at most 10%
where some prompts are wrong as a whole and the others pair by pair.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from levels_frame import Level, Simulate
from levels_laws import each, misses, prompts, right, shared_noise

from assay.evaluation.scale import paired_interval, scale_factor
from assay.evaluation.suites.marks import Mark, Section, section_metrics
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.mean_intervals import change_interval, mean_interval, share_interval
from assay.stats.metrics import difference_interval
from assay.stats.significance import clustered_error

MISSES = 0.07

# accuracy, prompts, fewest and most pairs of a prompt, correlation
ACCURACIES = [
    *((share, num_prompts, 1, 1, 0.0) for share in (0.5, 0.9, 0.97, 0.99) for num_prompts in (20, 50, 100, 500)),
    *((share, 20, 10, 10, correlation) for share in (0.5, 0.7, 0.9, 0.99) for correlation in (0.0, 0.3, 0.9)),
    *((share, num_prompts, 1, 10, 0.7) for share, num_prompts in ((0.7, 20), (0.9, 50), (0.95, 100), (0.97, 161), (0.98, 300))),
    *((share, 50, 1, 4, 0.3) for share in (0.6, 0.8, 0.9, 0.95, 0.97, 0.99)),
    *((share, 500, 10, 10, 0.3) for share in (0.7, 0.95, 0.99)),
]


def accuracy(share: float, num_prompts: int, fewest: int, most: int, correlation: float, *, whole: bool = False) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, fewest, most)
        return misses(share_interval(right(rng, share, prompts_P, correlation, whole=whole), prompts_P), share)

    return each(one)


def too_wide(share: float, num_prompts: int, most: int, correlation: float) -> Simulate:
    """Whether the mean width of all intervals is more than 1.3 times that of the clustered normal interval: in all runs or none."""

    def count(rng: np.random.Generator, runs: int) -> np.ndarray:
        widths = np.zeros(2)
        for _ in range(runs):
            prompts_P = prompts(rng, num_prompts, 1, most)
            values_P = right(rng, share, prompts_P, correlation)
            low, high = share_interval(values_P, prompts_P)
            widths += high - low, 2 * 1.96 * clustered_error(values_P, prompts_P)
        return np.full(runs, widths[0] > 1.3 * widths[1])

    return count


def change(accuracy_a: float, accuracy_b: float, num_prompts: int, most: int, correlation: float, alike: float) -> Simulate:
    """Two models; on a share of the pairs they are right together."""
    truth = (1 - alike) * (accuracy_b - accuracy_a)

    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, 1, most)
        a_P, b_P = (right(rng, share, prompts_P, correlation) for share in (accuracy_a, accuracy_b))
        change_P = np.where(rng.random(len(prompts_P)) < alike, 0.0, b_P - a_P)
        return misses(change_interval(change_P, prompts_P), truth)

    return each(one)


def brier(num_prompts: int, most: int, correlation: float) -> Simulate:
    """Squared errors of a calibrated model: values between 0 and 1."""

    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, 1, most)
        p_C = rng.beta(4.0, 1.5, size=num_prompts)
        spread = 1 / correlation - 1
        is_right_P = rng.random(len(prompts_P)) < rng.beta(p_C * spread, (1 - p_C) * spread)[prompts_P]
        truth = 4.0 * 1.5 / (5.5 * 6.5)  # E[p (1 - p)] of the beta distribution
        return misses(share_interval(np.square(p_C[prompts_P] - is_right_P), prompts_P), truth)

    return each(one)


def margin(num_prompts: int, most: int, correlation: float, law: str) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, 1, most)
        noise_P = shared_noise(rng, prompts_P, correlation)
        values_P = np.expm1(noise_P / 2) - np.expm1(1 / 8) if law == "log-normal" else noise_P
        return misses(mean_interval(values_P, prompts_P, support=None, seed=int(rng.integers(1 << 31))), 0.0)

    return each(one)


def auroc(num_prompts: int, most: int, correlation: float, apart: float, truth: float) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, 1, most)
        positive_P = rng.random(len(prompts_P)) < 0.3
        score_P = shared_noise(rng, prompts_P, correlation) + apart * positive_P
        return misses(auroc_interval(score_P, positive_P, prompts_P), truth)

    return each(one)


def gap(train: float, heldout: float, num_prompts: int, most: int, correlation: float) -> Simulate:
    """The gap of two accuracies on prompts of their own, as between training and held-out pairs."""

    def one(rng: np.random.Generator) -> bool:
        shares, intervals = [], []
        for share, number in ((train, 4 * num_prompts), (heldout, num_prompts)):
            prompts_P = prompts(rng, number, 1, most)
            values_P = right(rng, share, prompts_P, correlation)
            shares.append(float(values_P.mean()))
            intervals.append(share_interval(values_P, prompts_P))
        return misses(difference_interval(shares[0], intervals[0], shares[1], intervals[1]), train - heldout)

    return each(one)


def section(accuracies: tuple[float, ...], num_prompts: int, correlation: float) -> Simulate:
    """The mean of parts that have their prompts in common: a prompt that is hard in one is hard in the others."""
    truth, parts = float(np.mean(accuracies)), [str(k) for k in range(len(accuracies))]
    mean = Section("mean", tuple((1 / len(parts), (part,)) for part in parts))
    cuts = [NormalDist().inv_cdf(share) for share in accuracies]

    def one(rng: np.random.Generator) -> bool:
        prompts_V = np.repeat(np.arange(num_prompts), len(parts))
        chance_V = shared_noise(rng, prompts_V, correlation)
        cut_V = np.tile(cuts, num_prompts)
        marks = [
            Mark(parts[v % len(parts)], "", str(prompts_V[v]), float(chance_V[v] < cut_V[v]), 1, 1) for v in range(len(prompts_V))
        ]
        metric = section_metrics("s", marks, [mean])[0]
        return misses((metric.low, metric.high), truth)

    return each(one)


def factor(num_prompts: int, correlation: float) -> Simulate:
    """Scale of a new model's margins against an old one's: the truth is 2."""

    def one(rng: np.random.Generator) -> bool:
        prompts_P = prompts(rng, num_prompts, 1, 3)
        shared_P = shared_noise(rng, prompts_P, correlation)
        old_P = 2 * (shared_P + 0.5 * rng.normal(size=len(prompts_P)))
        new_P = shared_P + 0.5 * rng.normal(size=len(prompts_P))
        seed = int(rng.integers(1 << 31))
        return misses(paired_interval(scale_factor, old_P, new_P, prompts_P, seed=seed, num_samples=200), 2.0)

    return each(one)


def law_of(share: float, num_prompts: int, fewest: int, most: int, correlation: float) -> str:
    pairs = f"{most} pair{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} pairs"
    return f"accuracy {share:g}, {num_prompts} prompts of {pairs}, correlation {correlation:g}"


LEVELS: tuple[Level, ...] = (
    *(Level(name="share_interval misses", law=law_of(*law), count=accuracy(*law), most=MISSES) for law in ACCURACIES),
    *(
        Level(
            name="share_interval misses",
            law=f"{law_of(*law)}, some prompts wrong as a whole",
            count=accuracy(*law, whole=True),
            most=0.10,
        )
        for law in ((0.7, 20, 1, 10, 0.3), (0.9, 50, 1, 10, 0.6), (0.97, 161, 1, 10, 0.3), (0.99, 500, 10, 10, 0.05))
    ),
    *(
        Level(
            name="share_interval wider than 1.3 normal ones", law=law_of(s, n, 1, most, c), count=too_wide(s, n, most, c), most=0.0
        )
        for s, n, most, c in ((0.5, 20, 10, 0.0), (0.9, 20, 4, 0.0), (0.9, 20, 10, 0.0), (0.9, 50, 10, 0.6), (0.9, 161, 4, 0.3))
    ),
    *(
        Level(
            name="change_interval misses",
            law=f"accuracies {a:g} and {b:g}, alike on {alike:g} of the pairs, {n} prompts of 1 to {most} pairs, correlation {c:g}",
            count=change(a, b, n, most, c, alike),
            most=MISSES,
        )
        for a, b, n, most, c, alike in (
            (0.7, 0.7, 161, 1, 0.0, 0.9),
            (0.7, 0.75, 50, 4, 0.3, 0.5),
            (0.6, 0.9, 20, 1, 0.0, 0.0),
            (0.95, 0.97, 161, 4, 0.5, 0.8),
            (0.5, 0.5, 50, 10, 0.9, 0.7),
            (0.7, 0.8, 300, 2, 0.3, 0.95),
        )
    ),
    *(
        Level(
            name="share_interval of Brier scores misses",
            law=f"{n} prompts of 1 to {m} pairs, correlation {c}",
            count=brier(n, m, c),
            most=MISSES,
        )
        for n, m, c in ((20, 4, 0.3), (50, 1, 0.5), (161, 10, 0.9))
    ),
    *(
        Level(
            name="cluster_bootstrap of margins misses",
            law=f"{law}, {n} prompts of 1 to {m} pairs, correlation {c:g}",
            count=margin(n, m, c, law),
            most=most,
        )
        for law, n, m, c, most in (("normal", 10, 3, 0.5, MISSES), ("normal", 50, 4, 0.9, MISSES), ("log-normal", 50, 4, 0.5, 0.08))
    ),
    *(
        Level(
            name="auroc_interval misses",
            law=f"AUROC {truth:.2f}, {n} prompts of 1 to {m} pairs, correlation {c}",
            count=auroc(n, m, c, d, truth),
            most=MISSES,
        )
        for n, m, c, d, truth in ((60, 3, 0.5, 0.0, 0.5), (60, 3, 0.5, 1.0, 0.7602), (161, 4, 0.3, 0.0, 0.5))
    ),
    *(
        Level(
            name="difference_interval of two accuracies misses",
            law=f"{a:g} and {b:g} on prompts of their own, {n} of 1 to {m} pairs, correlation {c:g}",
            count=gap(a, b, n, m, c),
            most=MISSES,
        )
        for a, b, n, m, c in ((0.99, 0.9, 50, 4, 0.3), (0.8, 0.8, 161, 1, 0.0))
    ),
    *(
        Level(
            name="section_metrics, mean of parts, misses",
            law=f"accuracies {a}, {n} shared prompts, correlation {c:g}",
            count=section(a, n, c),
            most=MISSES,
        )
        for a, n, c in (((0.9, 0.7), 50, 0.5), ((0.97, 0.95, 0.9), 60, 0.8), ((0.6, 0.5), 100, 0.0))
    ),
    *(
        Level(
            name="paired_interval of the scale factor misses",
            law=f"{n} prompts of 1 to 3 pairs, correlation {c:g}",
            count=factor(n, c),
            most=MISSES,
        )
        for n, c in ((30, 0.5), (100, 0.3))
    ),
)
