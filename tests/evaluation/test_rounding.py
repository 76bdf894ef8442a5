"""What bfloat16 does to rewards: numbers as torch rounds them, ties and accuracy by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.evaluation.evaluate import ACCURACY, evaluate, evaluate_margins
from assay.evaluation.rounding import ROUNDED_ACCURACY, ROUNDED_TIES, to_bfloat16
from assay.records import PreferencePair, Rewards


def test_rounding_by_hand_and_as_torch_does_it():
    assert to_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8, 23.04, -0.0])).tolist() == [1.0, 1 + 2**-6, 23.0, 0.0]
    values = np.random.default_rng(0).normal(size=5000, scale=8).astype(np.float32)
    np.testing.assert_array_equal(to_bfloat16(values), torch.from_numpy(values).bfloat16().float().numpy())
    odd = to_bfloat16(np.array([math.nan, math.inf, -math.inf], dtype=np.float32))
    assert math.isnan(odd[0])
    assert odd[1:].tolist() == [math.inf, -math.inf]


def test_ties_and_accuracy_by_hand():
    pairs = [PreferencePair(prompt=f"q{i}", chosen="a", rejected="b") for i in range(5)]
    pairs.append(PreferencePair(prompt="same", chosen="a", rejected="a"))
    # apart by less than the spacing: 20.05 and 20 round to 20; 2.05 and 2 stay apart; 1.1 < 1.2; one has no reward
    rewards_P2 = np.array([[20.05, 20.0], [2.05, 2.0], [1.1, 1.2], [20.2, 20.0], [1.0, math.nan], [3.0, 3.0]])
    report = evaluate_margins(rewards_P2[:, 0] - rewards_P2[:, 1], pairs, rewards_P2=rewards_P2, title="t", slices=False).report()
    ties, accuracy = report.metric(ROUNDED_TIES), report.metric(ROUNDED_ACCURACY)
    assert (ties.value, ties.n_scored, ties.n) == (1 / 4, 4, 5)
    assert "1 margins lie within" in ties.note
    assert (accuracy.value, accuracy.n_scored, accuracy.n) == (2 / 5, 5, 6)
    assert report.metric(ACCURACY).value == 3 / 5
    assert "20.00 points" in accuracy.note


def test_a_constant_on_all_rewards_costs_ties():
    rng = np.random.default_rng(1)
    rewards_P2 = rng.normal(size=(500, 2)).astype(np.float32).astype(float)
    pairs = [PreferencePair(prompt=f"q{i}", chosen="a", rejected="b") for i in range(500)]
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    low, high = (
        evaluate_margins(margins_P, pairs, rewards_P2=rewards_P2 + constant, title="t", slices=False).report().metric(ROUNDED_TIES)
        for constant in (0.0, 100.0)
    )
    assert low.value < 0.01
    assert high.value > 0.1
    assert low.high < high.low


def test_margins_alone_say_nothing_of_it_and_rewards_must_fit():
    pairs = [PreferencePair(prompt="q", chosen="a", rejected="b")] * 2
    report = evaluate_margins(np.ones(2), pairs, title="t", slices=False).report()
    assert ROUNDED_TIES not in {metric.name for metric in report.metrics}
    with pytest.raises(ValueError, match=r"rewards of shape \(3, 2\) for 2 pairs"):
        evaluate_margins(np.ones(2), pairs, rewards_P2=np.ones((3, 2)), title="t").report()


def test_nothing_scored_is_nan_with_a_note():
    class Unscorable:
        fingerprint, scope, tolerance = "unscorable", "global", 0.0

        def score(self, completions):
            return Rewards(value=np.full(len(completions), np.nan))

    report = evaluate(Unscorable(), [PreferencePair(prompt="q", chosen="a", rejected="b")] * 3, title="t").report()
    for name in (ROUNDED_TIES, ROUNDED_ACCURACY):
        metric = report.metric(name)
        assert math.isnan(metric.value)
        assert metric.n_scored == 0
        assert metric.note
