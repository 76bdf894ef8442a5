"""Tests of significance: by hand, equal to what they generalise, and at their level and power on simulated pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats import significance
from assay.stats.metrics import mcnemar
from assay.stats.significance import (
    clustered_error,
    differs_from_rest,
    false_discovery,
    holm,
    pairs_needed,
    sign_flip,
    smallest_detectable,
)

# Benjamini & Hochberg (1995), section 3.2: fifteen p-values of which their procedure rejects the first four at 0.05
HOCHBERG = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528, 0.759, 1.0]


def test_false_discovery_by_hand():
    assert false_discovery(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])
    q_H = false_discovery(np.array(HOCHBERG))
    assert (q_H <= 0.05).sum() == 4
    assert q_H[3] == pytest.approx(0.0095 * 15 / 4)
    assert q_H[4] == pytest.approx(0.0201 * 15 / 5)
    assert np.all(np.diff(q_H) >= 0)


def test_false_discovery_under_any_dependence_costs_the_harmonic_sum():
    p_H = np.array([0.001, 0.02, 0.03, 0.2])
    np.testing.assert_allclose(false_discovery(p_H, dependent=True), np.minimum(1, 25 / 12 * false_discovery(p_H)))


def test_false_discovery_does_not_count_what_was_not_tested():
    q_H = false_discovery(np.array([math.nan, 0.01, math.nan, 0.2]))
    assert q_H[[1, 3]].tolist() == pytest.approx([0.02, 0.2])
    assert np.isnan(q_H[[0, 2]]).all()
    assert len(false_discovery(np.array([]))) == 0
    with pytest.raises(ValueError, match="pass probabilities"):
        false_discovery(np.array([0.5, 1.5]))


def test_the_rate_of_false_discoveries_is_kept_where_some_hypotheses_are_false():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(1000):
        p_H = np.concatenate([rng.random(30), rng.random(10) ** 8])  # 30 true, 10 false
        found_H = false_discovery(p_H) <= 0.05
        rates.append(found_H[:30].sum() / max(1, found_H.sum()))
    assert np.mean(rates) <= 0.05
    assert np.mean(rates) >= 0.02  # and not by finding nothing


def test_sign_flip_by_hand():
    prompts_P = np.array([0, 0, 1])
    assert sign_flip(np.array([1, 1, 1.0]), prompts_P) == pytest.approx(2 / 4)  # sums +-2 +-1: two of four patterns reach 3
    assert sign_flip(np.array([1, 1, -1.0]), prompts_P) == 1.0
    assert sign_flip(np.array([1, -1, 0.0]), prompts_P) == 1.0  # they cancel inside the prompt: nothing is left to flip
    assert sign_flip(np.array([1, math.nan, 1.0]), prompts_P) == pytest.approx(2 / 4)
    assert math.isnan(sign_flip(np.array([math.nan]), np.array([0])))
    with pytest.raises(ValueError, match="not whole numbers"):
        sign_flip(np.array([0.5]), np.array([0]))


def test_sign_flip_with_one_pair_a_prompt_is_mcnemar_s_exact_test():
    rng = np.random.default_rng(1)
    for share in (0.5, 0.6, 0.9):
        a_P, b_P = (rng.random(300) < 0.7).astype(float), (rng.random(300) < share).astype(float)
        assert sign_flip(b_P - a_P, np.arange(300)) == pytest.approx(mcnemar(a_P, b_P), rel=1e-9)


def test_sign_flip_of_very_many_pairs_is_the_normal_tail(monkeypatch):
    rng = np.random.default_rng(2)
    differences_P, prompts_P = rng.choice([-1.0, 1.0, 1.0, 0.0, 0.0, -1.0], size=3000), rng.integers(1500, size=3000)
    differences_P[:90] = 1.0
    exact = sign_flip(differences_P, prompts_P)
    monkeypatch.setattr(significance, "_MAX_EXACT", 10)
    assert sign_flip(differences_P, prompts_P) == pytest.approx(exact, rel=0.05)
    assert 1e-4 < exact < 0.2


def test_sign_flip_keeps_its_level_when_pairs_of_a_prompt_move_together_and_mcnemar_does_not():
    rng = np.random.default_rng(3)
    prompts_P = np.repeat(np.arange(60), 5)
    flipped, independent = 0, 0
    for _ in range(400):
        difference_P = np.repeat(rng.choice([-1.0, 0.0, 1.0], size=60, p=[0.25, 0.5, 0.25]), 5)
        flipped += sign_flip(difference_P, prompts_P) <= 0.05
        independent += mcnemar(difference_P < 0, difference_P > 0) <= 0.05
    assert flipped / 400 <= 0.07
    assert independent / 400 > 0.2


def test_differs_from_rest_with_single_pairs_is_fisher_s_exact_test():
    right_P, group_P = np.array([1, 1, 1, 0, 1, 0, 0, 0.0]), np.arange(8) < 4
    assert differs_from_rest(right_P, group_P, np.arange(8)) == pytest.approx(34 / 70)  # the lady tasting tea, three cups of four
    assert differs_from_rest(np.array([1, 1, 1, 1, 0, 0, 0, 0.0]), group_P, np.arange(8)) == pytest.approx(2 / 70)
    assert differs_from_rest(np.ones(8), group_P, np.arange(8)) == 1.0
    assert math.isnan(differs_from_rest(right_P, np.ones(8, dtype=bool), np.arange(8)))
    assert math.isnan(differs_from_rest(np.where(group_P, np.nan, right_P), group_P, np.arange(8)))


def test_differs_from_rest_counts_whole_prompts_that_move_together_once():
    right_P, group_P = np.array([1, 1, 1, 0, 1, 0, 0, 0.0]), np.arange(8) < 4
    repeated = differs_from_rest(np.repeat(right_P, 3), np.repeat(group_P, 3), np.repeat(np.arange(8), 3))
    assert repeated == pytest.approx(34 / 70)


@pytest.mark.parametrize("accuracy", [0.6, 0.95])
def test_differs_from_rest_keeps_its_level(accuracy):
    rng = np.random.default_rng(6)
    prompts_P = np.repeat(np.arange(100), 4)
    alarms = {"by prompt": 0, "in prompts": 0, "few": 0}
    for _ in range(500):
        own_P = rng.random(400) < accuracy
        shared_P = np.repeat(rng.random(100) < accuracy, 4)
        right_P = np.where(np.repeat(rng.random(100) < 0.5, 4), shared_P, own_P).astype(float)  # half of the prompts of one piece
        groups = {"by prompt": prompts_P % 3 == 0, "in prompts": rng.random(400) < 0.4, "few": prompts_P < 3}
        for name, group_P in groups.items():
            alarms[name] += differs_from_rest(right_P, group_P, prompts_P) <= 0.05
    assert max(alarms.values()) / 500 <= 0.07, alarms


def test_clustered_error_by_hand():
    values_P = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    assert clustered_error(values_P, np.arange(5)) == pytest.approx(values_P.std(ddof=1) / math.sqrt(5))
    doubled = clustered_error(np.repeat(values_P, 2), np.repeat(np.arange(5), 2))
    assert doubled == pytest.approx(values_P.std(ddof=1) / math.sqrt(5))  # a copy of a pair tells nothing new
    assert math.isnan(clustered_error(np.array([1.0, 0.0]), np.array([3, 3])))
    assert math.isnan(clustered_error(np.array([math.nan]), np.array([0])))


def test_smallest_detectable_difference_and_pairs_needed_by_hand():
    assert smallest_detectable(0.01) == pytest.approx((1.95996 + 0.84162) * 0.01, rel=1e-5)
    assert pairs_needed(smallest_detectable(0.01), 0.01, 500) == 500
    assert pairs_needed(smallest_detectable(0.01) / 2, 0.01, 500) == 2000
    assert math.isnan(smallest_detectable(0.0))
    assert math.isnan(pairs_needed(0.01, math.nan, 500))
    with pytest.raises(ValueError, match="difference of 0"):
        pairs_needed(0.0, 0.01, 500)
    with pytest.raises(ValueError, match="power 80"):
        smallest_detectable(0.01, power=80)


def test_the_smallest_detectable_difference_is_found_in_80_percent_of_cases():
    rng = np.random.default_rng(5)
    num_prompts, differ, true = 400, 0.3, 0.0664
    prompts_P = np.repeat(np.arange(num_prompts), 2)
    better = 0.5 + true / (2 * differ)
    found, smallest = 0, []
    for _ in range(300):
        own_P, shared_P = (
            rng.choice([-1.0, 0.0, 1.0], size=size, p=[differ * (1 - better), 1 - differ, differ * better])
            for size in (2 * num_prompts, num_prompts)
        )
        difference_P = np.where(np.repeat(rng.random(num_prompts) < 0.5, 2), np.repeat(shared_P, 2), own_P)
        smallest.append(smallest_detectable(clustered_error(difference_P, prompts_P)))
        found += sign_flip(difference_P, prompts_P) <= 0.05
    assert np.mean(smallest) == pytest.approx(true, rel=0.03)  # so that `true` is what the formula calls detectable
    assert 0.74 <= found / 300 <= 0.86


def test_holm_by_hand():
    adjusted = holm([0.01, math.nan, 0.04, 0.03])
    assert adjusted[[0, 2, 3]] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(adjusted[1])


@pytest.mark.parametrize("values", [[0.2, 1.5], [-0.1, 0.3], [np.nan, 2.0]])
def test_holm_takes_probabilities_alone(values):
    with pytest.raises(ValueError, match=r"p-values lie in \[0, 1\]"):
        holm(values)
