"""The interval of an AUROC holds the truth: few positives, near 1, tied scores, several values a prompt."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from assay.stats.auroc_intervals import auroc_interval
from assay.stats.metrics import auroc

PHI = NormalDist().cdf


def drawn(rng, num_prompts, pairs, share, shift, correlation):
    """Scores of two kinds, normal and `shift` apart; kinds and scores are correlated within prompts."""
    prompts_P = np.repeat(np.arange(num_prompts), pairs)
    kind_P, noise_P = (
        math.sqrt(correlation) * rng.normal(size=num_prompts)[prompts_P]
        + math.sqrt(1 - correlation) * rng.normal(size=len(prompts_P))
        for _ in range(2)
    )
    positive_P = kind_P > NormalDist().inv_cdf(1 - share)
    return noise_P + shift * positive_P, positive_P, prompts_P


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_prompts", "pairs", "share", "shift", "correlation"),
    [
        (30, 1, 0.3, 0.0, 0.0),
        (30, 1, 0.1, 1.2, 0.0),
        (100, 1, 0.05, 0.0, 0.0),
        (100, 1, 0.05, 1.2, 0.0),
        (100, 1, 0.3, 3.5, 0.0),
        (60, 4, 0.1, 1.0, 0.5),
        (30, 8, 0.2, 0.0, 0.7),
        (300, 2, 0.2, 0.6, 0.4),
    ],
)
def test_it_covers(num_prompts, pairs, share, shift, correlation):
    rng, truth, covered = np.random.default_rng(0), PHI(shift / math.sqrt(2)), []
    for _ in range(300):
        interval = auroc_interval(*drawn(rng, num_prompts, pairs, share, shift, correlation))
        if not math.isnan(interval.low):
            covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 300)


def test_it_covers_where_every_value_of_a_prompt_is_of_one_kind():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        shared = rng.normal(size=60)
        positive = np.repeat(rng.random(60) < 0.5, 3)
        score = np.repeat(shared, 3) + rng.normal(size=180) + positive
        low, high = auroc_interval(score, positive, np.repeat(np.arange(60), 3))
        covered += low <= PHI(0.5) <= high
    assert covered >= 88


def test_perfect_separation_and_nothing_but_ties_are_not_known_exactly():
    score, positive = np.arange(20.0), np.arange(20) >= 10
    assert auroc(score, positive) == 1.0
    low, high = auroc_interval(score, positive, np.arange(20))
    assert (0.6 < low < 0.9, high) == (True, 1.0)
    assert auroc_interval(-score, positive, np.arange(20)) == pytest.approx((0.0, 1 - low))
    tied = auroc_interval(np.zeros(20), positive, np.arange(20))
    assert tied.low < 0.35
    assert tied.high == pytest.approx(1 - tied.low)


def test_more_pairs_of_the_same_prompts_say_no_more():
    score, positive = np.arange(20.0), np.arange(20) >= 10
    few, many = (auroc_interval(np.repeat(score, k), np.repeat(positive, k), np.repeat(np.arange(20), k)) for k in (1, 10))
    assert many == pytest.approx(few, abs=0.01)
    rng = np.random.default_rng(0)
    noisy = score + rng.normal(scale=8, size=20)
    few, many = (auroc_interval(np.repeat(noisy, k), np.repeat(positive, k), np.repeat(np.arange(20), k)) for k in (1, 10))
    assert many == pytest.approx(few, abs=0.04)


def test_the_other_direction_mirrors_it_and_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    score, positive, prompts = drawn(rng, 40, 2, 0.3, 0.8, 0.3)
    interval, mirrored = auroc_interval(score, positive, prompts), auroc_interval(-score, positive, prompts)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx(interval)
    order = rng.permutation(80)
    assert auroc_interval(score[order], positive[order], prompts[order]) == pytest.approx(interval)


def test_one_kind_one_prompt_and_unscored_values():
    assert math.isnan(auroc_interval(np.arange(3.0), np.ones(3), np.arange(3)).low)
    assert math.isnan(auroc_interval(np.arange(4.0), np.array([0, 1, 0, 1]), np.zeros(4)).low)
    score, positive, prompts = drawn(np.random.default_rng(2), 30, 2, 0.4, 0.5, 0.0)
    more = auroc_interval(np.append(score, np.nan), np.append(positive, True), np.append(prompts, 99))
    assert more == auroc_interval(score, positive, prompts)
