"""Calibration recovers what it should, keeps its symmetries, and never claims certainty."""

import json
import math

import numpy as np
import pytest

from assay.records import Completion, PreferencePair
from assay.scorers.base import Comparer, Scorer, margins, prefer
from assay.scorers.baselines import LengthScorer
from assay.scorers.checks import check_scorer
from assay.scorers.wrappers.calibrated import Calibrated, Calibration, cross_fitted_probabilities, fit_calibration
from assay.stats.calibration_error import ece, expected_ece
from assay.stats.metrics import confidence, sigmoid


def simulated(num_pairs, temperature, seed=0):
    """Margins of chosen minus rejected when P = sigmoid(margin / temperature) is true."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(scale=1.5, size=num_pairs) * temperature
    return np.where(rng.random(num_pairs) < sigmoid(margin / temperature), margin, -margin)


@pytest.mark.parametrize("seed", range(4))
def test_temperature_is_recovered_within_its_standard_error(seed):
    fit = fit_calibration(simulated(2000, 2.5, seed), split="simulated")
    assert abs(fit.temperature - 2.5) < 3 * fit.temperature_se
    assert 0.02 < fit.temperature_se < 0.25
    assert fit.note == ""


def test_the_standard_error_is_the_spread_of_fits():
    fits = [fit_calibration(simulated(400, 2.5, seed), split="s") for seed in range(60)]
    spread = np.std([fit.temperature for fit in fits])
    assert np.mean([fit.temperature_se for fit in fits]) == pytest.approx(spread, rel=0.3)


def test_clustered_standard_error_is_wider_on_duplicated_pairs():
    margins_P = np.repeat(simulated(200, 1.0), 4)
    alone = fit_calibration(margins_P, split="s")
    clustered = fit_calibration(margins_P, clusters_P=np.repeat(np.arange(200), 4), split="s")
    assert clustered.temperature == alone.temperature
    assert clustered.temperature_se == pytest.approx(2 * alone.temperature_se, rel=0.02)


def test_temperature_scales_with_the_units_of_the_margin():
    margins_P = simulated(500, 1.0)
    one, thousand = fit_calibration(margins_P, split="s"), fit_calibration(1000 * margins_P, split="s")
    assert thousand.temperature == pytest.approx(1000 * one.temperature, rel=1e-6)


def test_calibration_removes_the_miscalibration():
    margins_P, fresh_P = simulated(2000, 4.0, seed=1), simulated(2000, 4.0, seed=2)
    fit = fit_calibration(margins_P, split="s")
    for method in ("temperature", "monotone"):
        sure = confidence(fit.probability(fresh_P, method), np.ones(2000))
        assert ece(*sure) < 2 * expected_ece(*sure, np.arange(2000), seed=0).high
    raw = confidence(sigmoid(fresh_P), np.ones(2000))
    assert ece(*raw) > 2 * expected_ece(*raw, np.arange(2000), seed=0).high


def test_labels_in_either_order_fit_the_same():
    margins_P = simulated(300, 2.0)
    turned_P = np.random.default_rng(0).random(300) < 0.5
    plain = fit_calibration(margins_P, split="s")
    turned = fit_calibration(np.where(turned_P, -margins_P, margins_P), preference_P=1.0 - turned_P, split="s")
    assert turned.temperature == pytest.approx(plain.temperature)
    assert turned.knot_probabilities == pytest.approx(plain.knot_probabilities)


def test_soft_labels_are_fitted_as_probabilities():
    margins_P = np.random.default_rng(0).normal(scale=3, size=200)
    fit = fit_calibration(margins_P, preference_P=sigmoid(margins_P / 2), split="s")
    assert fit.temperature == pytest.approx(2.0, rel=0.01)  # the prior of one pair is all that is left
    assert fit.note == ""


def test_monotone_fit_is_monotone_antisymmetric_and_never_certain():
    fit = fit_calibration(simulated(500, 1.0), split="s")
    margins_P = np.linspace(-10, 10, 2001)
    p_P = fit.probability(margins_P, "monotone")
    assert np.all(np.diff(p_P) >= -1e-12)
    np.testing.assert_allclose(p_P, 1 - p_P[::-1], atol=1e-12)
    assert 0 < p_P.min() < 0.2
    assert p_P.max() < 1
    assert fit.probability(np.array([0.0]), "monotone")[0] == 0.5
    assert list(fit.knot_margins) == sorted(fit.knot_margins)


def test_monotone_fit_follows_a_shape_that_no_temperature_has():
    rng = np.random.default_rng(0)
    size_P = rng.uniform(0, 4, size=4000)
    right_P = rng.random(4000) < np.where(size_P < 2, 0.6, 0.8)  # a step, and no certainty at the end
    fit = fit_calibration(np.where(right_P, size_P, -size_P), split="s")
    assert fit.probability(np.array([1.0, 3.0]), "monotone") == pytest.approx([0.6, 0.8], abs=0.05)


def test_separable_margins_do_not_claim_certainty():
    fit = fit_calibration(np.full(99, 3.0), split="s")
    assert fit.probability(np.array([3.0]))[0] == pytest.approx(99.5 / 100, abs=1e-6)  # (n + 1/2) / (n + 1)
    assert fit.probability(np.array([3.0]), "monotone")[0] == pytest.approx(100 / 101)  # (n + 1) / (n + 2)
    assert "every pair is ranked right" in fit.note
    assert math.isnan(fit.temperature_se)


@pytest.mark.parametrize("margins_P", [np.full(30, -2.0), np.zeros(30), np.tile([1.0, -1.0], 20)])
def test_margins_that_predict_nothing_give_one_half(margins_P):
    fit = fit_calibration(margins_P, split="s")
    assert "upper bound" in fit.note
    assert fit.probability(np.array([2.0, -2.0])) == pytest.approx([0.5, 0.5], abs=1e-3)
    assert fit.probability(np.array([2.0, -2.0]), "monotone") == pytest.approx([0.5, 0.5], abs=0.02)


def test_one_huge_margin_does_not_break_the_search():
    margins_P = np.append(simulated(200, 1.0), 1e9)
    fit = fit_calibration(margins_P, split="s")
    assert fit.temperature == pytest.approx(fit_calibration(margins_P[:-1], split="s").temperature, rel=0.05)


def test_too_few_pairs_are_refused_by_number_and_nan_is_counted():
    margins_P = np.append(np.ones(19), [math.nan] * 5)
    with pytest.raises(ValueError, match=r"19 scored pairs \(5 unscored\).*at least 20"):
        fit_calibration(margins_P, split="s")
    fit = fit_calibration(np.append(simulated(50, 1.0), math.nan), split="s")
    assert (fit.num_pairs, fit.num_unscored) == (50, 1)
    with pytest.raises(ValueError, match="30 margins, 29 preferences"):
        fit_calibration(np.ones(30), preference_P=np.ones(29), split="s")


def test_nan_margins_stay_nan():
    fit = fit_calibration(simulated(50, 1.0), split="s")
    for method in ("temperature", "monotone"):
        assert np.isnan(fit.probability(np.array([math.nan, 1.0]), method)).tolist() == [True, False]
    with pytest.raises(ValueError, match="platt"):
        fit.probability(np.zeros(1), "platt")


@pytest.mark.parametrize("margins_P", [simulated(60, 2.0), np.full(30, 1.0)])
def test_json_round_trip(margins_P):
    fit = fit_calibration(margins_P, split="held-out", scorer="abc")
    text = json.dumps(fit.to_json(), allow_nan=False)
    back = Calibration.from_json(json.loads(text))
    assert back.to_json() == fit.to_json()
    assert back.fingerprint == fit.fingerprint
    np.testing.assert_array_equal(back.probability(margins_P), fit.probability(margins_P))


def test_json_of_something_else_is_refused_by_name():
    content = fit_calibration(simulated(50, 1.0), split="s").to_json()
    del content["temperature"]
    with pytest.raises(ValueError, match="platt, temperature"):
        Calibration.from_json(content | {"platt": 1.0})


def test_cross_fitting_is_calibrated_and_does_not_see_the_pair():
    margins_P, prompts_P = simulated(1000, 3.0), np.repeat(np.arange(500), 2)
    p_P = cross_fitted_probabilities(margins_P, prompts_P)
    sure = confidence(p_P, np.ones(1000))
    assert ece(*sure) < 1.5 * expected_ece(*sure, prompts_P, seed=0).high
    changed_P = margins_P.copy()
    changed_P[:2] = 50.0, math.nan  # both pairs of one prompt: the temperature that maps it may not move
    p_changed_P = cross_fitted_probabilities(changed_P, prompts_P)
    temperature, changed = margins_P[0] / np.log(p_P[0] / (1 - p_P[0])), 50.0 / np.log(p_changed_P[0] / (1 - p_changed_P[0]))
    assert changed == pytest.approx(temperature, rel=1e-6)
    assert np.isnan(p_changed_P[1])
    with pytest.raises(ValueError, match="two prompts"):
        cross_fitted_probabilities(margins_P, np.zeros(1000))


def length_pairs(num_pairs=60):
    rng = np.random.default_rng(0)
    return [
        PreferencePair(prompt=f"question {i}", chosen="x" * int(rng.integers(5, 60)), rejected="x" * int(rng.integers(5, 40)))
        for i in range(num_pairs)
    ]


def test_calibrated_is_a_scorer_that_passes_rewards_through():
    pairs, inner = length_pairs(), LengthScorer()
    fit = fit_calibration(margins(inner, pairs), split="s", scorer=inner.fingerprint)
    scorer = Calibrated(scorer=inner, calibration=fit)
    completions = [completion for pair in pairs[:4] for completion in pair.completions()]
    assert isinstance(scorer, Scorer)
    assert isinstance(scorer, Comparer)
    check_scorer(scorer, completions)
    np.testing.assert_array_equal(scorer.score(completions).value, inner.score(completions).value)
    np.testing.assert_allclose(prefer(scorer, pairs), sigmoid(margins(inner, pairs) / fit.temperature))
    assert scorer.fingerprint != inner.fingerprint
    assert scorer.fingerprint != Calibrated(scorer=inner, calibration=fit, method="monotone").fingerprint


def test_calibrated_refuses_a_calibration_of_another_scorer():
    fit = fit_calibration(simulated(50, 1.0), split="s", scorer="someone else")
    with pytest.raises(ValueError, match="fitted on scorer 'someone else'"):
        Calibrated(scorer=LengthScorer(), calibration=fit)


def test_unscored_answers_stay_unscored_after_calibration():
    class Broken:
        fingerprint, scope, tolerance = "broken", "global", 0.0

        def score(self, completions):
            rewards = LengthScorer().score(completions)
            return type(rewards)(value=np.where([c.response == "" for c in completions], np.nan, rewards.value))

    scorer = Calibrated(scorer=Broken(), calibration=fit_calibration(simulated(50, 1.0), split="s"))
    pairs = [PreferencePair(prompt="q", chosen="", rejected="b"), PreferencePair(prompt="q", chosen="aa", rejected="b")]
    assert np.isnan(scorer.compare(pairs)).tolist() == [True, False]
    check_scorer(scorer, [Completion(messages="q", response=""), Completion(messages="q", response="a")])


def test_the_largest_margin_is_kept_and_what_lies_beyond_it_is_told():
    margins_P = np.random.default_rng(0).normal(size=50)
    calibration = fit_calibration(margins_P, preference_P=(margins_P > 0.2).astype(float), split="s")
    largest = float(np.abs(margins_P).max())
    assert calibration.largest_margin == largest
    beyond = calibration.is_beyond(np.array([largest, -largest, 1.01 * largest, -2 * largest, math.nan]))
    assert beyond.tolist() == [False, False, True, True, False]
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_a_calibration_from_before_the_largest_margin_was_kept_is_read():
    margins_P = np.random.default_rng(0).normal(size=50)
    content = fit_calibration(margins_P, split="s").to_json()
    del content["largest_margin"]
    old = Calibration.from_json(content)
    assert math.isnan(old.largest_margin)
    assert not old.is_beyond(np.array([1e9])).any(), "not known is not beyond"
    with pytest.raises(ValueError, match="missing or unknown: split"):
        Calibration.from_json({name: value for name, value in content.items() if name != "split"})


def test_the_interval_of_the_temperature_holds_the_truth_in_small_sets():
    """1.96 standard errors either side would miss in 11% of sets of 40 pairs."""
    found = [fit_calibration(simulated(40, 2.5, seed), split="s").temperature_interval for seed in range(200)]
    known = [interval for interval in found if not math.isnan(interval.low)]
    assert len(known) > 180
    assert np.mean([interval.low <= 2.5 <= interval.high for interval in known]) >= 0.91
    assert math.isnan(fit_calibration(np.ones(30), split="s").temperature_interval.low), "the prior alone sets the temperature"
