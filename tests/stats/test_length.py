"""Length taken out: a scorer of length alone is left with nothing, one that ignores length loses nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.evaluation.slices import LENGTH_CONTROLLED, columns_of, length_metrics
from assay.records import PreferencePair
from assay.stats.length import controlled_right, equally_long, length_part, not_separable, share_left
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


GAPS = {
    "one character": lambda rng, n: np.full(n, 1.0),
    "two hundred": lambda rng, n: np.full(n, 200.0),
    "twenty, give or take one": lambda rng, n: rng.choice([19.0, 20.0, 21.0], n),
    "two sizes": lambda rng, n: rng.choice([30.0, 31.0], n),
}


@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("sign", [1, -1], ids=["longer", "shorter"])
@pytest.mark.parametrize("right", [0.0, 0.3, 1.0])
def test_where_the_lengths_say_the_label_nothing_is_claimed(name, sign, right):
    """The better answer is longer (or shorter) by about the same in every pair: a model that is always wrong must not read 100%."""
    rng = np.random.default_rng(0)
    base = rng.integers(300, 400, 400).astype(float)
    lengths_P2 = np.stack([base + sign * GAPS[name](rng, 400), base], axis=1)
    margins_P = np.where(rng.random(400) < right, 1.0, -1.0) * rng.uniform(0.5, 1.5, 400)
    assert np.isnan(controlled(margins_P, lengths_P2)).all()
    assert "of the label" in not_separable(margins_P, lengths_P2, np.ones(400), np.arange(400))


def test_the_reason_stands_beside_the_missing_figure():
    pairs = [PreferencePair(prompt=f"q{i}", chosen="a" * (40 + i % 7), rejected="b" * (41 + i % 7)) for i in range(120)]
    controlled_metric, equal = length_metrics(columns_of(-np.ones(120), pairs, None, 0))
    assert controlled_metric.name == LENGTH_CONTROLLED
    assert (math.isnan(controlled_metric.value), controlled_metric.n_scored) == (True, 0)
    assert "the two lengths say 100% of the label" in controlled_metric.note
    assert equal.value == 0.0, "of pairs of equal length the accuracy is known"


def test_lengths_that_go_with_the_label_but_do_not_say_it_are_controlled_for():
    for longer in (0.5, 0.7, 0.9):
        lengths_P2, rng = drawn(longer=longer)
        assert not_separable(np.ones(2000), lengths_P2, np.ones(2000), np.arange(2000)) == ""
        margins_P = rng.normal(0.6, 1.0, size=2000)
        assert controlled(margins_P, lengths_P2).mean() == pytest.approx(np.mean(margins_P > 0), abs=0.02)


def test_what_is_taken_out_is_too_much_where_longer_answers_are_better_and_the_note_has_before_and_half():
    """Quality goes with length beyond what the label says of it: the figure falls though the scorer never saw a length."""
    rng = np.random.default_rng(0)
    quality = rng.normal(size=3000)
    gap = 0.6 * (0.6 * quality + 0.8 * rng.normal(size=3000))
    wins = rng.random(3000) < 1 / (1 + np.exp(-2 * quality))
    base = np.exp(rng.normal(6, 0.3, 3000))
    first, second = (np.maximum(1, base * np.exp(half)).astype(int) for half in (gap / 2, -gap / 2))
    pairs = [
        PreferencePair(prompt=f"q{i}", chosen="a" * max(a, 1), rejected="b" * max(b, 1))
        for i, (a, b) in enumerate(zip(np.where(wins, first, second), np.where(wins, second, first), strict=True))
    ]
    columns = columns_of(np.where(wins, quality, -quality), pairs, None, 0)
    metric, _ = length_metrics(columns)
    before = float(np.mean(columns.right_P))
    assert metric.value < before - 0.015
    assert f"{before:.3f} before" in metric.note
    half = float(metric.note.split(" before, ")[1][:5])
    assert metric.value < half <= before


def test_the_share_that_a_design_leaves_open_by_hand():
    assert share_left(np.array([3.0, 4.0]), np.array([[1.0], [0.0]])) == pytest.approx(16 / 25)
    assert share_left(np.array([1.0, 2.0]), np.array([[2.0], [4.0]])) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(share_left(np.zeros(2), np.ones((2, 1))))
