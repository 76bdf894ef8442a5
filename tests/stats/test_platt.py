"""A line from log-odds to probabilities: it finds the one that made the labels, and says when there is none to find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.metrics import sigmoid
from assay.stats.platt import fit_platt


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


def test_the_unit_of_the_log_odds_does_not_matter():
    log_odds, right, problems = draws(1.0, 0.5, 300)
    one, thousand = fit_platt(log_odds, right, problems), fit_platt(1000 * log_odds, right, problems)
    assert thousand.scale == pytest.approx(one.scale / 1000, rel=1e-4)
    assert thousand.shift == pytest.approx(one.shift, rel=1e-3)


def test_parted_kinds_stay_finite_and_soft_labels_are_probabilities():
    log_odds = np.linspace(-3, 3, 60)
    parted = fit_platt(log_odds, (log_odds > 0).astype(float), np.arange(60))
    assert 1 < parted.scale < 1000
    soft = fit_platt(log_odds, sigmoid(0.7 * log_odds), np.arange(60))
    assert soft.scale == pytest.approx(0.7, abs=0.08)


def test_too_little_is_said_and_nothing_is_changed():
    log_odds, right, problems = draws(1.0, 0.0, 20)
    assert fit_platt(log_odds, right, problems)[:2] == (1.0, 0.0)
    assert "too few to calibrate on" in fit_platt(log_odds, right, problems).note
    assert "of them wrong" in fit_platt(np.arange(50.0), np.ones(50), np.arange(50)).note
    with_gaps = np.where(np.arange(100) % 2, np.nan, 1.0)
    assert "50 labelled steps, 0 of them wrong" in fit_platt(np.arange(100.0), with_gaps, np.arange(100)).note


def test_an_order_that_is_the_wrong_way_round_is_not_turned():
    log_odds, right, problems = draws(-1.0, 0.0, 400)
    found = fit_platt(log_odds, right, problems)
    assert found.scale > 0
    assert "do not tell right from wrong" in found.note
    assert sigmoid(np.array([found.scale * 3 + found.shift]))[0] == pytest.approx(right.mean(), abs=1e-3)
    assert math.isnan(found.scale_se)
