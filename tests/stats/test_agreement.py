"""Coefficients by hand and against published examples, and what their intervals promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.stats.agreement import cohens_kappa, krippendorff_alpha

# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C to E: 4 observers, 12 units.
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
        [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
    ]
).T


@pytest.mark.parametrize(("scale", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorff_s_own_example(scale, alpha):
    found = krippendorff_alpha(OBSERVERS, scale=scale)
    assert found.value == pytest.approx(alpha, abs=5e-4)
    assert (found.num_items, found.num_left_out) == (11, 1)
    assert found.low < found.value < found.high


def test_cohen_s_own_example():
    """Fleiss, Cohen & Everitt (1969): the table of two raters over three diagnoses; kappa .429, and .348 with their weights."""
    table = np.array([[53, 5, 2], [11, 14, 5], [1, 6, 3]])
    a = [i for i in range(3) for j in range(3) for _ in range(table[i, j])]
    b = [j for i in range(3) for j in range(3) for _ in range(table[i, j])]
    assert cohens_kappa(a, b).value == pytest.approx(0.429, abs=5e-4)
    assert cohens_kappa(a, b).share == pytest.approx(0.70)


def test_weighted_kappa_by_hand():
    """Labels (1, 1), (1, 2), (2, 3), (3, 3): observed linear (0 + 1 + 1 + 0) / 4; expected over shares a = (2, 1, 1) / 4 and
    b = (1, 1, 2) / 4 is (2 x (1 + 4) + (1 + 2) + (2 + 1)) / 16 = 1."""
    a, b = [1, 1, 2, 3], [1, 2, 3, 3]
    assert cohens_kappa(a, b, weights="linear").value == pytest.approx(1 - 0.5 / 1.0)
    squares = (2 * (1 + 8) + (1 + 2) + (4 + 1)) / 16
    assert cohens_kappa(a, b, weights="quadratic").value == pytest.approx(1 - 0.5 / squares)


def test_steps_are_places_among_all_categories_also_those_that_nobody_gave():
    a, b = ["bad", "good", "bad"], ["good", "good", "bad"]
    near = cohens_kappa(a, b, weights="linear", categories=["bad", "good"])
    far = cohens_kappa(a, b, weights="linear", categories=["bad", "fair", "good"])
    assert near.value == far.value, "steps cancel where there is one distance"
    with pytest.raises(ValueError, match="good is no category: there are bad, fair"):
        cohens_kappa(a, b, categories=["bad", "fair"])


def test_alpha_of_two_raters_without_missing_ratings_is_near_kappa_and_alike_for_all_scales_of_two_values():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    ratings = np.stack([np.where(rng.random(400) < 0.8, truth, 1 - truth) for _ in range(2)], axis=1)
    values = [krippendorff_alpha(ratings, scale=scale).value for scale in ("nominal", "ordinal", "interval")]
    assert values == pytest.approx([values[0]] * 3)
    assert values[0] == pytest.approx(cohens_kappa(ratings[:, 0], ratings[:, 1]).value, abs=2e-3)


def test_a_rating_that_was_not_given_is_in_no_figure():
    full = cohens_kappa([1, 2, 1, 2], [1, 2, 2, 2])
    with_gaps = cohens_kappa([1, 2, None, 1, 2, math.nan], [1, 2, 1, 2, 2, 2])
    assert with_gaps[:5] == full[:5]
    assert (with_gaps.num_items, with_gaps.num_left_out) == (4, 2)


def test_ordinal_alpha_moves_with_no_monotone_change_of_the_scale_and_interval_alpha_with_no_shift():
    changed = OBSERVERS**3
    assert krippendorff_alpha(changed, scale="ordinal").value == pytest.approx(krippendorff_alpha(OBSERVERS, scale="ordinal").value)
    shifted = krippendorff_alpha(OBSERVERS + 1e6, scale="interval").value
    assert shifted == pytest.approx(krippendorff_alpha(OBSERVERS, scale="interval").value)


def test_nothing_to_agree_on_is_nan_and_never_a_number():
    assert math.isnan(cohens_kappa([], []).value)
    assert math.isnan(cohens_kappa([1, 1, 1], [1, 1, 1]).value), "chance agrees always"
    assert math.isnan(krippendorff_alpha(np.full((3, 2), 4.0)).value)
    assert math.isnan(krippendorff_alpha(np.full((3, 2), np.nan)).value)
    assert math.isnan(cohens_kappa([1, 2], [2, 2], clusters_N=np.zeros(2)).low), "one cluster has no interval"


def test_perfect_agreement_has_an_interval_of_some_width_that_narrows_with_the_items():
    widths = []
    for n in (20, 200):
        labels = np.arange(n) % 2
        found = cohens_kappa(labels, labels)
        assert found.value == found.high == 1
        widths.append(found.high - found.low)
    assert 0.15 < widths[0] < 0.5
    assert widths[1] < widths[0] / 5


def test_items_that_vary_together_count_as_fewer():
    rng = np.random.default_rng(1)
    a, b = rng.integers(2, size=40), rng.integers(2, size=40)
    alone = cohens_kappa(np.repeat(a, 5), np.repeat(b, 5))
    together = cohens_kappa(np.repeat(a, 5), np.repeat(b, 5), clusters_N=np.repeat(np.arange(40), 5))
    once = cohens_kappa(a, b)
    assert together.value == pytest.approx(alone.value)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.05)
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cohens_kappa([1], [1, 2]), "1 labels of one rater and 2 of the other"),
        (lambda: cohens_kappa([1], [1], weights="cubic"), "none, linear or quadratic, not 'cubic'"),
        (lambda: cohens_kappa([1, "a"], ["a", 1]), "labels of the kinds int, str have no order"),
        (lambda: krippendorff_alpha(np.array([[1, np.inf]])), "infinite rating"),
        (lambda: krippendorff_alpha(np.ones(3)), "a row for each item"),
        (lambda: krippendorff_alpha(np.ones((3, 2)), scale="ratio"), "nominal, ordinal or interval, not 'ratio'"),
        (lambda: krippendorff_alpha(np.ones((3, 2)), clusters_N=np.zeros(2)), "3 items but 2 clusters"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
