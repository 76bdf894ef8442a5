"""Ranks, picks and draws of answers to one prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.records import Completion, Rewards
from assay.rl.pick import pick, rank, rejection_sample


class Length:
    """Length of the answer; an empty one cannot be scored."""

    fingerprint, scope, tolerance = "length", "global", 0.0

    def score(self, completions):
        return Rewards(value=[len(c.response) or math.nan for c in completions])


def answers(*texts: str) -> list[Completion]:
    return [Completion(messages="question", response=text) for text in texts]


def test_rank_and_pick():
    order, rewards = rank(Length(), answers("bb", "", "dddd", "aa"))
    assert order.tolist() == [2, 0, 3, 1]
    assert rewards.ok.tolist() == [True, False, True, True]
    assert pick(Length(), answers("bb", "", "dddd")) == 2
    assert pick(Length(), answers("", "")) is None
    assert pick(Length(), []) is None
    with pytest.raises(ValueError, match="answers to several prompts"):
        rank(Length(), [*answers("a"), Completion(messages="another", response="b")])


def test_rejection_sampling_draws_by_the_softmax_of_rewards():
    """Lengths 1, 2, 3 at temperature 1: the first draw is 3 with probability e^3 / (e + e^2 + e^3)."""
    items = answers("a", "bb", "ccc", "")
    drawn = [rejection_sample(Length(), items, num_kept=1, temperature=1.0, seed=seed)[0] for seed in range(2000)]
    share = np.bincount(drawn, minlength=4) / 2000
    expected = np.exp([1.0, 2, 3]) / np.exp([1.0, 2, 3]).sum()
    np.testing.assert_allclose(share, [*expected, 0], atol=0.035)
    assert sorted(rejection_sample(Length(), items, num_kept=9, temperature=1.0, seed=0)) == [0, 1, 2]
    assert rejection_sample(Length(), items, num_kept=1, temperature=1e-3, seed=0) == [2]
    with pytest.raises(ValueError, match="must be positive"):
        rejection_sample(Length(), items, num_kept=1, temperature=0.0, seed=0)
