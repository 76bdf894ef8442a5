"""Hand-computed figures, and the laws of intervals by seeded simulation."""

import math

import numpy as np
import pytest

from assay.stats.bootstrap import resampled_interval
from assay.stats.calibration_error import ece
from assay.stats.metrics import (
    NO_INTERVAL,
    UNIT,
    Interval,
    accuracy,
    brier,
    cluster_folds,
    confidence,
    difference_interval,
    is_right,
    mcnemar,
    wilson_interval,
)


def test_accuracy_counts_score_ties_as_wrong_and_leaves_label_ties_and_nan_out():
    margins_P = np.array([2.0, -1.0, 0.0, math.nan, 3.0, -0.5])
    preference_P = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.2])
    result = accuracy(margins_P, preference_P)
    assert result == (0.5, 4, 5, 1, 1)  # right: the first, and the last, whose label prefers the rejected answer


def test_accuracy_of_nothing_is_nan():
    assert math.isnan(accuracy(np.array([math.nan]), np.ones(1)).value)
    assert math.isnan(accuracy(np.array([]), np.array([])).value)
    assert math.isnan(accuracy(np.array([1.0]), np.array([0.5])).value)


def test_accuracy_does_not_depend_on_which_answer_is_called_chosen():
    rng = np.random.default_rng(0)
    margins_P, preference_P = rng.normal(size=50).round(1), rng.choice([0.0, 0.3, 0.5, 1.0], size=50)
    assert accuracy(margins_P, preference_P) == accuracy(-margins_P, 1 - preference_P)


def test_brier_and_ece_by_hand():
    p_P, preference_P = np.array([0.9, 0.8, 0.3, 0.6]), np.ones(4)
    assert brier(p_P, preference_P) == pytest.approx((0.01 + 0.04 + 0.49 + 0.16) / 4)
    sure = confidence(p_P, preference_P)
    assert sure.predicted.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert sure.outcome.tolist() == [1, 1, 0, 1]
    # two bins of equal mass: (0.6, 0.7) with outcomes (1, 0), and (0.8, 0.9) with outcomes (1, 1)
    assert ece(*sure, num_bins=2) == pytest.approx(0.5 * abs(0.65 - 0.5) + 0.5 * abs(0.85 - 1.0))
    assert ece(*sure, num_bins=1) == pytest.approx(0.0)


def test_calibration_figures_do_not_depend_on_which_answer_is_called_chosen():
    rng = np.random.default_rng(1)
    p_P, preference_P = rng.random(80), rng.choice([0.0, 0.5, 0.8, 1.0], size=80)
    flipped = confidence(1 - p_P, 1 - preference_P)
    assert ece(*confidence(p_P, preference_P)) == pytest.approx(ece(*flipped))
    assert brier(p_P, preference_P) == pytest.approx(brier(1 - p_P, 1 - preference_P))


def test_always_saying_one_half_is_calibrated_and_has_brier_one_quarter():
    p_P = np.full(30, 0.5)
    assert ece(*confidence(p_P, np.ones(30))) == 0.0
    assert brier(p_P, np.ones(30)) == 0.25


def test_nan_probabilities_are_left_out():
    p_P = np.array([0.9, math.nan, 0.8])
    assert brier(p_P, np.ones(3)) == pytest.approx(0.025)
    assert math.isnan(confidence(p_P, np.ones(3)).outcome[1])
    assert ece(*confidence(p_P, np.ones(3)), num_bins=1) == pytest.approx(0.15)


def test_an_interval_of_what_never_varies_leaves_room_for_what_was_not_seen():
    """None of 10 prompts differs: up to z^2 / (10 + z^2) of all may, and show anything from -1 to 3."""
    unseen = wilson_interval(0, 10).high
    interval = resampled_interval(np.full(50, 1.0), 1.0, Interval(-1.0, 3.0), 10)
    assert interval == pytest.approx((1 - 2 * unseen, 1 + 2 * unseen))
    at_the_end = resampled_interval(np.full(50, 3.0) + 1e-9 * np.arange(50), 3.0, Interval(-1.0, 3.0), 10)
    assert at_the_end == pytest.approx((3 - 4 * unseen, 3.0)), "rounding is no variation"
    assert resampled_interval(np.arange(101.0), 50.0, Interval(0.0, 100.0), 10) == pytest.approx((0.85, 99.15), abs=0.01)
    assert resampled_interval(np.array([np.nan, 1.0, 2.0, np.inf]), 1.5, Interval(0, 9), 2) == pytest.approx((1, 2), abs=0.01)
    assert resampled_interval(np.array([1.0, 2.0]), math.nan, Interval(0, 9), 2) == pytest.approx(NO_INTERVAL, nan_ok=True)


def test_wilson_interval_by_hand():
    low, high = wilson_interval(0, 10)  # z^2 / (n + z^2) for none right
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert math.isnan(wilson_interval(0, 0).low)


def test_difference_interval_contains_the_difference_and_is_antisymmetric():
    a, b = wilson_interval(45, 50), wilson_interval(30, 50)
    forth, back = difference_interval(0.9, a, 0.6, b), difference_interval(0.6, b, 0.9, a)
    assert forth.low < 0.3 < forth.high
    assert forth == pytest.approx((-back.high, -back.low))
    # Newcombe (1998), table II, example (a): 56/70 - 48/80 by method 10
    a, b = wilson_interval(56, 70), wilson_interval(48, 80)
    assert difference_interval(0.8, a, 0.6, b) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_folds_keep_clusters_whole_and_even():
    clusters_P = np.random.default_rng(9).integers(0, 37, size=200)
    folds_P = cluster_folds(clusters_P, 5, seed=0)
    assert all(len(np.unique(folds_P[clusters_P == cluster])) == 1 for cluster in np.unique(clusters_P))
    sizes = [len(np.unique(clusters_P[folds_P == fold])) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1
    assert not np.array_equal(folds_P, cluster_folds(clusters_P, 5, seed=1))
    with pytest.raises(ValueError, match="num_folds is 1"):
        cluster_folds(clusters_P, 1, seed=0)


def test_mcnemar_by_hand():
    right_a, right_b = np.array([1, 1, 1, 1, 1, 0, 1, 0.0]), np.array([0, 0, 0, 0, 0, 1, 1, math.nan])
    assert mcnemar(right_a, right_b) == pytest.approx(2 * (1 + 6) / 2**6)  # 5 against 1
    assert mcnemar(right_b, right_a) == mcnemar(right_a, right_b)
    assert mcnemar(np.ones(4), np.ones(4)) == 1.0
    assert mcnemar(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0


def test_is_right_keeps_unscored_pairs_apart():
    right_P = is_right(np.array([1.0, math.nan, -1.0]), np.array([1.0, 1.0, 0.0]))
    assert right_P[0] == right_P[2] == 1.0
    assert math.isnan(right_P[1])
    assert UNIT == (0.0, 1.0)
