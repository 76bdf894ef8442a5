"""A line from log-odds to probabilities: it finds the one that made the labels, and says when there is none to find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.metrics import sigmoid
from assay.stats.steps.platt import fit_platt


def draws(scale: float, shift: float, num: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(size=num) * 3
    right = (rng.random(num) < sigmoid(scale * log_odds + shift)).astype(float)
    return log_odds, right, np.arange(num) // 4


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, 1.2), (2.0, -1.0)])
def test_it_finds_the_line_that_made_the_labels_within_its_error(scale, shift):
    found = fit_platt(*draws(scale, shift, 4000))
    assert abs(found.scale - scale) < 4 * found.scale_se < 0.5 * scale
    assert abs(found.shift - shift) < 4 * found.shift_se < 0.5
    assert found.note == ""


def test_errors_count_problems_not_steps():
    log_odds, right, problems = draws(1.0, 0.0, 400)
    once = fit_platt(log_odds, right, problems)
    copied = fit_platt(np.tile(log_odds, 9), np.tile(right, 9), np.tile(problems, 9))
    assert copied.scale == pytest.approx(once.scale, rel=0.05)
    assert copied.scale_se == pytest.approx(once.scale_se, rel=0.1)


def test_a_few_steps_move_the_line_a_little_and_many_decide():
    """The prior: log scale around 0 within 0.5, shift around the given one within 1."""
    log_odds, right, problems = draws(0.3, 1.2, 4000)
    lines = [fit_platt(log_odds[:num], right[:num], problems[:num]) for num in (12, 4000)]
    assert 0.4 < lines[0].scale < 1.0
    assert 0.0 < lines[0].shift < 1.2
    assert lines[0].scale_se > 5 * lines[1].scale_se
    assert lines[1].scale == pytest.approx(0.3, abs=0.03)
    none = np.full(4, np.nan)
    assert fit_platt(np.ones(4), none, np.arange(4), shift=-0.7)[:2] == (1.0, -0.7)
    one = fit_platt(np.zeros(1), np.ones(1), np.zeros(1), shift=-0.7)  # its shift s solves s + 0.7 = 1 - sigmoid(s)
    assert one.shift + 0.7 == pytest.approx(1 - sigmoid(np.array([one.shift]))[0], abs=1e-6)
    assert one.scale == pytest.approx(1.0, abs=1e-9)


def test_it_counts_the_problems_that_hold_a_step_of_the_rarer_kind():
    right = np.array([1, 1, 0, 1, 1, 0, np.nan, 0.0])
    assert fit_platt(np.zeros(8), right, np.array([1, 1, 1, 2, 2, 1, 3, 3])).num_problems == 2
    assert fit_platt(np.zeros(3), np.ones(3), np.arange(3)).num_problems == 0


def test_parted_kinds_stay_finite_and_soft_labels_are_probabilities():
    log_odds = np.linspace(-3, 3, 60)
    parted = fit_platt(log_odds, (log_odds > 0).astype(float), np.arange(60))
    assert 1 < parted.scale < 1000
    soft = fit_platt(log_odds, sigmoid(0.7 * log_odds), np.arange(60))
    assert soft.scale == pytest.approx(0.7, abs=0.08)


def test_an_order_that_is_the_wrong_way_round_is_not_turned():
    log_odds, right, problems = draws(-1.0, 0.0, 400)
    found = fit_platt(log_odds, right, problems)
    assert 0 < found.scale < 0.1
    assert "do not tell right from wrong" in found.note
    assert sigmoid(np.array([found.scale * 3 + found.shift]))[0] == pytest.approx(right.mean(), abs=0.05)


def test_without_labels_nothing_is_changed_and_it_is_said():
    found = fit_platt(np.arange(5.0), np.full(5, np.nan), np.arange(5))
    assert found[:2] == (1.0, 0.0)
    assert math.isnan(found.scale_se)
    assert found.note == "no step is labelled"
