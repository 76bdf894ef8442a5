"""Figures of steps, computed by hand on a few solutions; what is not scored is counted and never 0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.steps.step_figures import (
    StepLabels,
    above,
    exact,
    first_error_accuracy,
    fit_threshold,
    found_errors,
    prm_score,
    process_f1,
    reduced,
    right_above_wrong,
    step_auroc,
)

NAN = math.nan
LABELS = StepLabels.of(
    [
        [1, 0, None],  # 0: the second step is wrong, the rest unknown
        [1, 1],  # 1: right
        [0, 0],  # 2: wrong at once
        [1, 1, 1],  # 3: right
        [None, 0],  # 4: the first error is not known
        [1, None],  # 5: not known whether there is one
    ],
    ["a", "a", "b", "b", "c", "c"],
)
SCORES = [np.array(one) for one in ([0.9, 0.2, 0.1], [0.8, 0.5], [0.4, 0.9], [0.7, 0.6, 0.9], [0.1, 0.1], [0.9, 0.9])]


def test_the_first_error_of_a_solution_is_known_or_not():
    assert LABELS.first_error_N.tolist()[:4] == [1, -1, 0, -1]
    assert np.isnan(LABELS.first_error_N[4:]).all()
    assert LABELS.is_wrong_N.tolist() == [True, False, True, False, False, False]
    assert LABELS.is_right_N.tolist() == [False, True, False, True, False, False]


def test_a_step_is_wrong_at_the_threshold_or_below_it_and_an_unscored_one_before_hides_the_first():
    assert found_errors(SCORES, 0.5).tolist() == [1, 1, 0, -1, 0, -1]
    hidden = found_errors([np.array([NAN, 0.1]), np.array([0.1, NAN]), np.array([0.9, NAN]), np.array([0.9])], 0.5)
    assert np.isnan(hidden[[0, 2]]).all()
    assert hidden[[1, 3]].tolist() == [0, -1]


def test_exact_accuracy_of_wrong_and_right_solutions():
    found = found_errors(SCORES, 0.5)
    assert exact(found, LABELS)[:4].tolist() == [1, 0, 1, 1]
    assert np.isnan(exact(found, LABELS)[4:]).all()
    wrong, right, both = (first_error_accuracy(found, LABELS, of=kind) for kind in ("wrong", "right", "all"))
    assert (wrong.value, wrong.num_scored, wrong.num) == (1.0, 2, 2)
    assert (right.value, right.num_scored, right.num) == (0.5, 2, 2)
    assert (both.value, both.num_scored, both.num) == (0.75, 4, 4)
    assert wrong.interval.low < 1 == wrong.interval.high


def test_an_unscored_solution_is_counted_and_in_no_figure():
    scores = [np.array([NAN, 0.2, 0.1]), *SCORES[1:]]
    figure = first_error_accuracy(found_errors(scores, 0.5), LABELS)
    assert (figure.value, figure.num_scored, figure.num) == (1.0, 1, 2)
    assert step_auroc(scores, LABELS).num == step_auroc(SCORES, LABELS).num == 11
    assert step_auroc(scores, LABELS).num_scored == 10


def test_f1_is_the_harmonic_mean_of_both_kinds_and_the_mean_of_its_parts():
    found = found_errors(SCORES, 0.5)
    assert process_f1(found, LABELS, seed=0).value == pytest.approx(2 * 1 * 0.5 / 1.5)
    parts = ["x", "x", "y", "y", "x", "x"]  # x: 1 and 0, so 0; y: 1 and 1, so 1
    figure = process_f1(found, LABELS, parts, seed=0)
    assert figure.value == pytest.approx(0.5)
    assert (figure.num_scored, figure.num) == (4, 4)
    with pytest.raises(ValueError, match="'z' has no wrong one"):
        process_f1(found, LABELS, ["x", "z", "x", "x", "x", "x"], seed=0)
    with pytest.raises(ValueError, match="no right one"):
        process_f1(np.array([0.0, 0.0]), StepLabels.of([[0], [0]], ["a", "b"]), seed=0)


def test_prm_score_is_half_the_f1_of_either_class():
    labels = StepLabels.of([[1, 1, 0], [1, 0]], ["a", "b"])
    scores = [np.array([0.9, 0.1, 0.2]), np.array([0.8, 0.7])]
    # right: 2 found and right, 1 missed, 1 found wrongly: 4/6. wrong: 1 found, 1 missed, 1 wrongly: 2/4
    assert prm_score(scores, labels, 0.5, seed=0).value == pytest.approx((4 / 6 + 2 / 4) / 2)
    ones = [np.ones(3), np.ones(2)]
    assert prm_score(ones, labels, 0.5, seed=0).value == pytest.approx((2 * 3 / (2 * 3 + 2)) / 2)
    assert prm_score([0 * one for one in ones], labels, 0.5, seed=0).value == pytest.approx((2 * 2 / (2 * 2 + 3)) / 2)
    one_less = prm_score([np.array([0.9, NAN, 0.2]), scores[1]], labels, 0.5, seed=0)
    assert (one_less.num_scored, one_less.num) == (4, 5)
    assert one_less.value == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_auroc_of_steps_is_of_labelled_ones():
    # right: .9, .8 .5, .7 .6 .9, .9; wrong: .2, .4 .9, .1. Of 7 x 4 couples the wrong .9 ties three and beats four
    assert step_auroc(SCORES, LABELS).value == pytest.approx((28 - 4 - 3 / 2) / 28)


def test_a_soft_label_is_right_above_a_half_and_says_nothing_at_it():
    labels = StepLabels.of([[0.9, 0.5, 0.4]], ["a"])
    assert labels.right_T.tolist() == [1, 0.5, 0]
    assert labels.first_error_N.tolist() == [2]
    assert step_auroc([np.array([0.3, 0.0, 0.2])], labels).num == 2


def test_reductions_of_a_solution():
    scores = [np.array([0.5, 0.2]), np.array([]), np.array([0.5, NAN])]
    assert reduced(scores, "min")[0] == 0.2
    assert reduced(scores, "last")[0] == 0.2
    assert reduced(scores, "mean")[0] == pytest.approx(0.35)
    assert reduced(scores, "product")[0] == pytest.approx(math.log(0.1))
    assert all(np.isnan(reduced(scores, how)[1:]).all() for how in ("min", "last", "mean", "product"))
    tiny = [np.full(60, 1e-8), np.full(61, 1e-8)]
    assert reduced(tiny, "product")[0] > reduced(tiny, "product")[1] > -math.inf
    with pytest.raises(ValueError, match="probabilities"):
        reduced([np.array([2.0])], "product")


def test_original_above_perturbed_counts_ties_as_half():
    figure = above(np.array([1.0, 0.5, 0.2, NAN]), np.array([0.5, 0.5, 0.4, 0.1]), np.array([0, 1, 2, 3]))
    assert (figure.value, figure.num_scored, figure.num) == (0.5, 3, 4)
    assert above(np.array([-math.inf]), np.array([-math.inf]), np.array([0])).value == 0.5


def test_right_solutions_are_held_against_wrong_ones_of_their_problem():
    reward = np.array([0.3, 0.4, 0.9, 0.1, NAN, NAN])  # a: right .4 beats wrong .3; b: right .1 loses to .9
    figure = right_above_wrong(reward, LABELS)
    assert (figure.value, figure.num) == (0.5, 2)


def test_a_fitted_threshold_is_the_middle_of_the_best_ones():
    labels = StepLabels.of([[1, 0], [1, 1]], ["a", "b"])
    scores = [np.array([0.9, 0.2]), np.array([0.8, 0.6])]
    fitted = fit_threshold(scores, labels)
    assert 0.2 <= fitted.threshold < 0.6
    assert fitted.value == 1.0
    assert process_f1(found_errors(scores, fitted.threshold), labels, seed=0).value == 1.0
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_threshold([np.array([NAN, 0.1]), np.array([NAN, 0.2])], labels)


def test_a_fitted_threshold_is_the_best_of_all_that_could_be_tried():
    rng = np.random.default_rng(0)
    right = [list((rng.random(5) < 0.8).astype(float)) for _ in range(30)]
    labels = StepLabels.of(right, list(range(30)))
    scores = [np.round(np.array(one) * 0.3 + rng.random(5), 1) for one in right]
    fitted = fit_threshold(scores, labels)

    def f1(threshold):
        return process_f1(found_errors(scores, threshold), labels, seed=0).value

    assert f1(fitted.threshold) == pytest.approx(fitted.value)
    assert fitted.value == pytest.approx(max(f1(one) for one in np.arange(-0.05, 1.4, 0.05)))


def test_intervals_hold_the_figure_and_fewer_problems_make_them_wider():
    rng = np.random.default_rng(1)

    def drawn(num):
        labels = StepLabels.of([[1, float(rng.random() < 0.5)] for _ in range(num)], list(range(num)))
        scores = [np.array([0.9, 0.3 + 0.4 * one[1]]) * rng.uniform(0.8, 1.2) for one in labels.right]
        return [process_f1(found_errors(scores, 0.5), labels, seed=0), prm_score(scores, labels, 0.5, seed=0)]

    for wide, narrow in zip(drawn(20), drawn(400), strict=True):
        for figure in (wide, narrow):
            assert figure.interval.low <= figure.value <= figure.interval.high
        assert np.ptp(wide.interval) > 2 * np.ptp(narrow.interval) > 0


def test_what_does_not_fit_together_is_named():
    with pytest.raises(ValueError, match="2 problems for 1 solutions"):
        StepLabels.of([[1]], ["a", "b"])
    with pytest.raises(ValueError, match="solution 0 has no steps"):
        StepLabels.of([[]], ["a"])
    with pytest.raises(ValueError, match="solution 1 has 2 steps and 1 scores"):
        LABELS.scores_T([SCORES[0], SCORES[1][:1], *SCORES[2:]])
    with pytest.raises(ValueError, match="scores of 1 solutions for labels of 6"):
        LABELS.scores_T(SCORES[:1])
