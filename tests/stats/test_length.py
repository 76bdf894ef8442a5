"""Length taken out: a scorer of length alone is left with nothing, one that ignores length loses nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.length import controlled_right, equally_long, length_part
from assay.stats.metrics import is_right


def drawn(num_pairs=2000, longer=0.7, seed=0):
    """Lengths of two answers, of which the preferred one (the first) is longer in that share of pairs."""
    rng = np.random.default_rng(seed)
    lengths_P2 = np.sort(np.exp(rng.normal(6, 0.8, size=(num_pairs, 2))).round(), axis=1)
    return np.where((rng.random(num_pairs) < longer)[:, None], lengths_P2[:, ::-1], lengths_P2), rng


def controlled(margins_P, lengths_P2, preference_P=None, seed=0):
    preference_P = np.ones(len(margins_P)) if preference_P is None else preference_P
    part_P = length_part(margins_P, lengths_P2, preference_P, np.arange(len(margins_P)), seed=seed)
    return controlled_right(margins_P, part_P, preference_P)


@pytest.mark.parametrize(
    ("how", "exact"),
    [
        (lambda length: length, True),
        (lambda length: -0.013 * length, True),
        (lambda length: np.log1p(length), True),
        (lambda length: np.sqrt(length), False),
        (lambda length: np.minimum(length, 800), False),
    ],
    ids=["characters", "shorter is better", "log", "square root", "up to a limit"],
)
def test_a_scorer_of_length_alone_is_right_on_half(how, exact):
    lengths_P2, _ = drawn()
    rewards_P2 = how(lengths_P2).astype(np.float32).astype(float)
    margins_P = rewards_P2[:, 0] - rewards_P2[:, 1]
    raw = np.mean(margins_P > 0)
    assert abs(raw - 0.5) > 0.1  # 70% or 30%
    left = controlled(margins_P, lengths_P2).mean()
    assert left == pytest.approx(0.5, abs=0.01 if exact else 0.06)


def test_a_scorer_of_length_with_noise_is_right_on_half():
    lengths_P2, rng = drawn()
    margins_P = np.diff(np.log(lengths_P2)[:, ::-1])[:, 0] + rng.normal(scale=0.3, size=2000)
    assert np.mean(margins_P > 0) > 0.6
    assert controlled(margins_P, lengths_P2).mean() == pytest.approx(0.5, abs=0.03)


def test_a_scorer_that_ignores_length_is_left_as_it_was():
    lengths_P2, rng = drawn()
    margins_P = rng.normal(0.6, 1.0, size=2000)  # good where the label says so, whatever the lengths are
    assert controlled(margins_P, lengths_P2).mean() == pytest.approx(np.mean(margins_P > 0), abs=0.01)


def test_what_is_left_of_a_mixture_is_its_other_part():
    lengths_P2, rng = drawn()
    other_P = rng.normal(0.4, 1.0, size=2000)
    margins_P = other_P + 1.5 * np.tanh((lengths_P2[:, 0] - lengths_P2[:, 1]) / 300)
    assert np.mean(margins_P > 0) - np.mean(other_P > 0) > 0.03
    assert controlled(margins_P, lengths_P2).mean() == pytest.approx(np.mean(other_P > 0), abs=0.02)


def test_it_does_not_matter_which_answer_is_called_chosen():
    lengths_P2, rng = drawn(400)
    margins_P, preference_P = rng.normal(0.3, 1, size=400) + lengths_P2[:, 0] / 900, rng.choice([0.0, 0.5, 1.0], size=400)
    swap_P = rng.random(400) < 0.5
    swapped = controlled(
        np.where(swap_P, -margins_P, margins_P),
        np.where(swap_P[:, None], lengths_P2[:, ::-1], lengths_P2),
        np.where(swap_P, 1 - preference_P, preference_P),
    )
    np.testing.assert_array_equal(swapped, controlled(margins_P, lengths_P2, preference_P))


def test_unscored_pairs_and_label_ties_have_no_part_in_it():
    lengths_P2, rng = drawn(300)
    margins_P, preference_P = rng.normal(0.5, 1, size=300), np.ones(300)
    margins_P[:7], preference_P[7:10] = math.nan, 0.5
    right_P = controlled(margins_P, lengths_P2, preference_P)
    assert np.flatnonzero(np.isnan(right_P)).tolist() == list(range(10))


def test_equal_rewards_everywhere_are_a_coin_at_equal_length():
    lengths_P2, _ = drawn(200)
    assert np.all(controlled(np.zeros(200), lengths_P2) == 0.5)
    assert np.all(is_right(np.zeros(200), np.ones(200)) == 0)  # and plain accuracy counts them wrong


def test_about_equal_length_is_a_tenth_of_the_longer_one():
    assert equally_long(np.array([[100, 90], [90, 100], [100, 89], [0, 0], [10, 30]])).tolist() == [True, True, False, True, False]
