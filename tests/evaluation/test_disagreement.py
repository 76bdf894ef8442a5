"""Diversity of members, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.evaluation.disagreement import (
    AUROC,
    BETWEEN,
    COVERED,
    GAIN,
    MEAN,
    MEMBER,
    VALUE,
    WITHIN,
    diversity,
    error_correlation,
    risk_coverage,
)
from assay.scorers.ensemble import Combination
from assay.stats.metrics import auroc


def figures(members_KP2, preference_P, **settings) -> dict[str, float]:
    clusters = np.arange(len(preference_P))
    parts = diversity(members_KP2, np.asarray(preference_P), clusters, Combination(**settings))
    return {metric.name: metric.value for metric in parts.metrics}


def rewards_of(margins_KP, level_KP=0.0) -> np.ndarray:
    margins_KP = np.asarray(margins_KP, float)
    return np.stack([level_KP + margins_KP / 2, level_KP - margins_KP / 2], axis=-1)


def test_auroc_by_hand():
    assert auroc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1])) == 1.0
    assert auroc(np.array([4.0, 2.0, 3.0, 1.0]), np.array([0, 1, 0, 1])) == 0.0
    # of the four couples of a positive {1, 2} and a negative {2, 3}: 0, 0, a tie, 0
    assert auroc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1, 1, 0, 0])) == pytest.approx(0.125)
    assert math.isnan(auroc(np.array([1.0, 2.0]), np.array([1, 1])))


def test_risk_and_coverage_by_hand():
    right, sureness = np.array([1.0, 0.0, 1.0, 0.0]), np.array([9.0, 1.0, 5.0, 2.0])
    assert risk_coverage(right, sureness, [1.0, 0.5, 0.75]) == [0.5, 1.0, pytest.approx(2 / 3)]


def test_equally_sure_pairs_count_by_expectation_whatever_their_order():
    assert risk_coverage(np.array([1.0, 1, 0, 0]), np.ones(4), [0.5, 0.25, 1.0]) == [0.5, 0.5, 0.5]
    # of four pairs two are surest and right, of the three after them one is right: with three kept, (2 + 1 / 3) / 3
    right, sureness = np.array([1.0, 1, 1, 0, 0]), np.array([2.0, 2, 1, 1, 1])
    assert risk_coverage(right, sureness, [0.6]) == [pytest.approx((2 + 1 / 3) / 3)]
    rng = np.random.default_rng(0)
    margins = rng.choice([-1.0, -0.5, 0.5, 1.0], p=[0.12, 0.18, 0.3, 0.4], size=400)
    found = set()
    for order in (np.arange(400), np.argsort(margins > 0, kind="stable"), rng.permutation(400)):
        right = (margins > 0)[order].astype(float)
        found.add(tuple(np.round(risk_coverage(right, np.abs(margins[order]), [0.8, 0.5, 0.1]), 12)))
    assert len(found) == 1


def test_the_expectation_over_ties_is_the_mean_over_many_orders():
    rng = np.random.default_rng(1)
    right, sureness = (rng.random(60) < 0.7).astype(float), rng.integers(4, size=60).astype(float)
    broken = [sureness + 1e-6 * rng.permutation(60) for _ in range(4000)]
    drawn = np.mean([risk_coverage(right, each, [0.3, 0.7]) for each in broken], axis=0)
    assert risk_coverage(right, sureness, [0.3, 0.7]) == pytest.approx(drawn, abs=0.003)


def test_what_could_not_be_scored_is_in_neither_figure():
    nan = math.nan
    assert risk_coverage(np.array([1.0, nan, 0.0]), np.array([3.0, 2.0, nan]), [1.0]) == [1.0]
    assert math.isnan(risk_coverage(np.array([nan]), np.array([1.0]), [1.0])[0])
    assert math.isnan(auroc(np.array([nan, 1.0, 0.0]), np.array([1, 0, 0]))), "the only positive has no score"
    assert auroc(np.array([nan, 3.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0, nan])) == 1.0


def test_error_correlation_by_hand():
    assert error_correlation(np.array([[1, 0, 1, 0], [1, 0, 1, 0]])) == pytest.approx(1.0)
    assert error_correlation(np.array([[1, 0, 1, 0], [0, 1, 0, 1]])) == pytest.approx(-1.0)
    assert math.isnan(error_correlation(np.array([[1, 1], [1, 0]])))


def test_members_mean_and_value_by_hand():
    # Pair 0: margins 3, -1, 1 (mean 1, right); pair 1: -1, -1, -1 (wrong); pair 2: 2, 2, -1 (mean 1, right); pair 3 has no label.
    margins = [[3.0, -1.0, 2.0, 5.0], [-1.0, -1.0, 2.0, 5.0], [1.0, -1.0, -1.0, 5.0]]
    found = figures(rewards_of(margins), [1.0, 1.0, 1.0, 0.5], penalty=0.0)
    assert found[MEMBER] == pytest.approx((2 + 1 + 1) / 9)
    assert found[MEAN] == pytest.approx(2 / 3)
    assert found[VALUE] == found[MEAN], "without a penalty the value is the mean"
    assert found[GAIN] == pytest.approx(2 / 3 - 4 / 9)
    # standard deviations 2, 0, sqrt(3); only pair 1 is wrong, the least disputed
    assert found[AUROC] == 0.0
    assert found[COVERED] == pytest.approx(1 / 2), "|mean| / std is 1/2, without bound, 1/sqrt(3): of 2.4 pairs, 2"


def test_disagreement_within_and_between_prompts_by_hand():
    level = np.array([[0.0, 0.0], [2.0, 2.0]])  # member 1 is 2 above everywhere: variance 2 of the level
    found = figures(rewards_of([[1.0, 1.0], [1.0, 1.0]], level), [1.0, 1.0])
    assert (found[WITHIN], found[BETWEEN]) == (0.0, pytest.approx(math.sqrt(2)))
    found = figures(rewards_of([[1.0, 1.0], [3.0, 3.0]]), [1.0, 1.0])  # half margins 0.5 and 1.5: variance 0.5
    assert (found[WITHIN], found[BETWEEN]) == (pytest.approx(math.sqrt(0.5)), 0.0)


def test_a_disagreement_that_follows_the_errors_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    hard = rng.random(600) < 0.4
    margins = np.where(hard, rng.normal(0, 2, (5, 600)), 1 + rng.normal(0, 0.2, (5, 600)))
    clusters = np.arange(600)
    parts = diversity(rewards_of(margins), np.ones(600), clusters, Combination())
    assert parts.findings[0].level == "ok"
    shifted = rng.choice([-1.0, 1.0], 600) + 0.3 * rng.normal(size=(5, 600))  # wrong or right for all, disputed alike
    parts = diversity(rewards_of(shifted), np.ones(600), clusters, Combination())
    assert parts.findings[0].level == "warn"


def test_without_a_label_every_figure_is_nan_and_says_so():
    parts = diversity(rewards_of([[1.0], [2.0]]), np.array([0.5]), np.zeros(1), Combination())
    assert all(math.isnan(metric.value) for metric in parts.metrics)
    assert "too few" in parts.findings[0].why
