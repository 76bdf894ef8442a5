"""The calibration error and what chance gives: by hand, and at its level when the pairs of a prompt move together."""

import math

import numpy as np
import pytest

from assay.stats.calibration_error import ece, expected_ece, reliability_rows
from assay.stats.mean_intervals import share_interval


def test_ece_does_not_depend_on_order_even_with_equal_probabilities():
    rng = np.random.default_rng(2)
    p_P, outcome_P = rng.choice([0.55, 0.7, 0.9], size=200), rng.integers(0, 2, size=200).astype(float)
    order = rng.permutation(200)
    assert ece(p_P, outcome_P) == pytest.approx(ece(p_P[order], outcome_P[order]))


def test_expected_ece_is_the_mean_ece_of_calibrated_data():
    rng = np.random.default_rng(3)
    p_P = rng.uniform(0.5, 1.0, size=300)
    observed = [ece(p_P, (rng.random(300) < p_P).astype(float)) for _ in range(300)]
    outcome_P, prompts_P, order = (rng.random(300) < p_P).astype(float), np.arange(300), rng.permutation(300)
    chance = expected_ece(p_P, outcome_P, prompts_P, seed=0)
    assert chance.mean == pytest.approx(np.mean(observed), rel=0.1)
    assert np.mean(np.array(observed) > chance.high) <= 0.07
    assert chance == expected_ece(p_P[order], outcome_P[order], prompts_P[order], seed=0)


def test_reliability_rows_hold_every_pair_once_in_order_of_confidence():
    rng = np.random.default_rng(4)
    p_P = rng.uniform(0.5, 1.0, size=105)
    outcome_P, prompts_P = (rng.random(105) < p_P).astype(float), np.repeat(np.arange(35), 3)
    rows = reliability_rows(p_P, outcome_P, prompts_P)
    assert len(rows) == 10
    assert sum(row.n for row in rows) == 105
    assert [row.predicted for row in rows] == sorted(row.predicted for row in rows)
    assert all(row.low <= row.observed <= row.high for row in rows)
    first = np.argsort(p_P)[: rows[0].n]
    assert (rows[0].low, rows[0].high) == share_interval(outcome_P[first], prompts_P[first]), "by prompt, not by pair"


def test_what_has_no_probability_is_in_no_figure():
    nothing = np.array([math.nan])
    assert math.isnan(ece(nothing, nothing))
    assert math.isnan(expected_ece(nothing, nothing, np.zeros(1), seed=0).mean)
    assert reliability_rows(nothing, nothing, np.zeros(1)) == ()
    p_P, outcome_P = np.array([0.6, 0.7, 0.8]), np.array([1.0, 0.0, 1.0])
    one_more = expected_ece(np.append(p_P, math.nan), np.append(outcome_P, math.nan), np.arange(4), seed=0)
    assert one_more == expected_ece(p_P, outcome_P, np.arange(3), seed=0)


def calibrated_pairs(rng: np.random.Generator, num_prompts: int, per_prompt: int, confidence: float, as_one: float):
    """(p, outcome, prompts) of a calibrated model, one p a prompt, a share of the prompts right or wrong as a whole."""
    p_C = 0.5 + 0.5 * rng.beta(4 * (2 * confidence - 1), 8 * (1 - confidence), size=num_prompts)
    p_P, prompts_P = np.repeat(p_C, per_prompt), np.repeat(np.arange(num_prompts), per_prompt)
    is_one_P = np.repeat(rng.random(num_prompts) < as_one, per_prompt)
    drawn_P = np.where(is_one_P, np.repeat(rng.random(num_prompts), per_prompt), rng.random(len(p_P)))
    return p_P, (drawn_P < p_P).astype(float), prompts_P


LAWS = [(30, 10, 0.97, 0.9), (60, 4, 0.75, 0.9), (60, 1, 0.9, 0)]


@pytest.mark.parametrize(("num_prompts", "per_prompt", "confidence", "as_one"), LAWS)
def test_calibrated_models_are_rarely_above_what_chance_gives(num_prompts, per_prompt, confidence, as_one):
    rng, above = np.random.default_rng(6), 0
    for seed in range(200):
        pairs = calibrated_pairs(rng, num_prompts, per_prompt, confidence, as_one)
        above += ece(*pairs[:2]) > expected_ece(*pairs, seed=seed, num_samples=200).high
    assert above / 200 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)


def test_a_model_that_is_ten_points_too_sure_is_above_what_chance_gives():
    rng, above = np.random.default_rng(7), 0
    for seed in range(60):
        p_P, _, prompts_P = calibrated_pairs(rng, 150, 4, 0.8, 0.0)
        outcome_P = (rng.random(len(p_P)) < p_P - 0.1).astype(float)
        above += ece(p_P, outcome_P) > expected_ece(p_P, outcome_P, prompts_P, seed=seed, num_samples=200).high
    assert above >= 54
