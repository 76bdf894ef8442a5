"""Levels of the figures about judges: how often intervals of agreement miss, and an unbiased judge is accused. See levels.py.

Raters give the true label with chance s, and else one drawn from its shares: the agreement of any two beyond chance is s squared,
for every coefficient and scale. What is claimed is at most 8% misses by 95% intervals, for 50 to 500 items, 2 to 5 categories and
agreement of .2 to .95, and at most 9% for 25 to 100 prompts of 4 items whose s differs from prompt to prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from levels_frame import Level, Simulate
from levels_laws import each, misses

from assay.audit.judge_biases import LARGE, judge_biases
from assay.records import Completion, PreferencePair, Rewards
from assay.stats.agreement import Scale, Weights, cohens_kappa, krippendorff_alpha

MISSES, CLUSTERED, ACCUSED = 0.08, 0.09, 0.05


def ratings(
    rng: np.random.Generator, num_items: int, num_raters: int, num_categories: int, agreement_N: np.ndarray, missing: float = 0.0
) -> np.ndarray:
    """(N, R) labels from 0 on, the last category twice to five times as frequent as the first; NaN where missing."""
    shares = np.arange(1, num_categories + 1) / (num_categories * (num_categories + 1) / 2)
    truth_N = rng.choice(num_categories, size=num_items, p=shares)
    drawn_NR = rng.choice(num_categories, size=(num_items, num_raters), p=shares)
    knows_NR = rng.random((num_items, num_raters)) < np.sqrt(agreement_N)[:, None]
    found_NR = np.where(knows_NR, truth_N[:, None], drawn_NR).astype(np.float64)
    return np.where(rng.random(found_NR.shape) < missing, np.nan, found_NR)


def kappa(num_items: int, num_categories: int, agreement: float, weights: Weights) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        labels_N2 = ratings(rng, num_items, 2, num_categories, np.full(num_items, agreement))
        found = cohens_kappa(labels_N2[:, 0], labels_N2[:, 1], weights=weights)
        return misses((found.low, found.high), agreement)

    return each(one)


def alpha(num_items: int, num_raters: int, num_categories: int, agreement: float, scale: Scale, missing: float) -> Simulate:
    def one(rng: np.random.Generator) -> bool:
        found = krippendorff_alpha(
            ratings(rng, num_items, num_raters, num_categories, np.full(num_items, agreement), missing), scale=scale
        )
        return misses((found.low, found.high), agreement)

    return each(one)


def clustered(num_prompts: int, agreement: float, *, of_alpha: bool) -> Simulate:
    """Prompts of 4 items; in some all is clear, in others it is guessed."""
    prompts_N = np.repeat(np.arange(num_prompts), 4)

    def one(rng: np.random.Generator) -> bool:
        agreement_N = rng.beta(4 * agreement, 4 * (1 - agreement), size=num_prompts)[prompts_N]
        labels_NR = ratings(rng, len(prompts_N), 3 if of_alpha else 2, 3, agreement_N)
        if of_alpha:
            found = krippendorff_alpha(labels_NR, clusters_N=prompts_N)
        else:
            found = cohens_kappa(labels_NR[:, 0], labels_NR[:, 1], clusters_N=prompts_N)
        return misses((found.low, found.high), agreement)

    return each(one)


class _Judge:
    """A judge whose verdicts in both orders are given: (P, 2)."""

    fingerprint, scope, tolerance = "simulated", "prompt", 0.0

    def __init__(self, in_order_P2: np.ndarray) -> None:
        self.in_order_P2 = in_order_P2

    def score(self, completions: Sequence[Completion]) -> Rewards:
        return Rewards(value=np.full(len(completions), np.nan, np.float32))

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        return self.in_order_P2.mean(1)

    def compare_in_order(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        return self.in_order_P2


def judged_pairs(num_prompts: int, per_prompt: int) -> list[PreferencePair]:
    """Pairs of answers whose length, markup and writer have nothing to do with which is better."""
    rng, pairs = np.random.default_rng(0), []
    for number in range(num_prompts * per_prompt):
        texts = [("- " if rng.random() < 0.5 else "") + "x" * int(rng.integers(5, 60)) for _ in range(2)]
        writers = rng.permutation(["mine", "other"])
        tags = {"chosen_model": str(writers[0]), "rejected_model": str(writers[1])}
        pairs.append(PreferencePair(prompt=f"{number // per_prompt}", chosen=texts[0], rejected=texts[1], tags=tags))  # type: ignore[arg-type]
    return pairs


def accused(num_prompts: int, per_prompt: int, accuracy: float) -> Simulate:
    """A judge who errs alike everywhere, some prompts being harder than others: whether any finding says that it pulls."""
    pairs = judged_pairs(num_prompts, per_prompt)
    prompts_P = np.repeat(np.arange(num_prompts), per_prompt)

    def one(rng: np.random.Generator) -> bool:
        chance_P = rng.beta(6 * accuracy, 6 * (1 - accuracy), size=num_prompts)[prompts_P]
        knows_P = rng.random(len(pairs)) < 0.9  # else it tosses in each order
        same_P = (rng.random(len(pairs)) < chance_P).astype(np.float64)
        tossed_P2 = (rng.random((len(pairs), 2)) < 0.5).astype(np.float64)
        found = judge_biases(_Judge(np.where(knows_P[:, None], same_P[:, None], tossed_P2)), pairs, own="mine")
        return any(finding.level != "ok" and finding.threshold == LARGE for finding in found.findings)

    return each(one)


LEVELS: tuple[Level, ...] = (
    *(
        Level(
            name="cohens_kappa misses",
            law=f"kappa {agreement:g}, {n} items, {k} categories, weights {weights}",
            count=kappa(n, k, agreement, weights),
            most=MISSES,
        )
        for n, k, agreement, weights in (
            (50, 2, 0.2, "none"),
            (50, 2, 0.5, "none"),
            (50, 2, 0.8, "none"),
            (50, 2, 0.95, "none"),
            (100, 3, 0.6, "none"),
            (100, 3, 0.9, "none"),
            (100, 5, 0.6, "linear"),
            (100, 5, 0.8, "quadratic"),
            (200, 2, 0.95, "none"),
            (500, 3, 0.2, "none"),
            (500, 3, 0.95, "none"),
            (500, 5, 0.6, "quadratic"),
        )
    ),
    *(
        Level(
            name="krippendorff_alpha misses",
            law=f"alpha {agreement:g}, {n} items, {r} raters, {k} categories, {scale}, {missing:.0%} missing",
            count=alpha(n, r, k, agreement, scale, missing),
            most=MISSES,
        )
        for n, r, k, agreement, scale, missing in (
            (50, 3, 2, 0.5, "nominal", 0.0),
            (50, 3, 3, 0.8, "nominal", 0.3),
            (100, 3, 5, 0.5, "ordinal", 0.0),
            (100, 3, 5, 0.8, "interval", 0.3),
            (200, 4, 5, 0.9, "ordinal", 0.3),
            (300, 3, 5, 0.8, "interval", 0.0),
            (500, 2, 3, 0.95, "nominal", 0.0),
            (500, 3, 3, 0.2, "nominal", 0.3),
        )
    ),
    *(
        Level(
            name="agreement by prompt misses",
            law=f"{'alpha of 3 raters' if of_alpha else 'kappa'} {agreement:g}, {n} prompts of 4",
            count=clustered(n, agreement, of_alpha=of_alpha),
            most=CLUSTERED,
        )
        for n, agreement, of_alpha in ((25, 0.5, False), (50, 0.8, False), (100, 0.6, False), (25, 0.6, True), (100, 0.8, True))
    ),
    *(
        Level(
            name="biases: a judge who errs alike everywhere is accused of any",
            law=f"accuracy {accuracy:g}, {n} prompts of {m}",
            count=accused(n, m, accuracy),
            most=ACCUSED,
        )
        for n, m, accuracy in ((60, 1, 0.7), (200, 1, 0.9), (100, 3, 0.8))
    ),
)
