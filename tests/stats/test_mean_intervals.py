"""Intervals of shares and of changes: by hand, monotone, inside the range, and covering when pairs of a prompt move together."""

import math

import numpy as np
import pytest

from assay.stats.mean_intervals import change_interval, groups_interval, mean_interval, share_interval
from assay.stats.metrics import CHANGE, Interval, wilson_interval
from assay.stats.significance import clustered_error, sign_flip


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_are_alike_the_interval_is_wilson_s_with_as_many_pairs_as_prompts(value):
    interval = share_interval(np.full(40, value), np.repeat(np.arange(20), 2))
    assert interval == pytest.approx(wilson_interval(20 * value, 20))
    assert interval.high - interval.low > 0.1


def test_one_value_a_prompt_gives_wilson_s_interval_and_near_the_end_the_exact_limit():
    """Of 50, 25 right: Wilson's. 49 right: Wilson's lower end; the upper one is .95^(1 / 50)."""
    values_P, prompts_P = np.arange(50) % 2 * 1.0, np.arange(50)
    assert share_interval(values_P, prompts_P) == pytest.approx(wilson_interval(25, 50))
    values_P = (np.arange(50) > 0).astype(float)
    low, high = share_interval(values_P, prompts_P)
    assert low == pytest.approx(wilson_interval(49, 50).low)
    assert high == pytest.approx(0.95 ** (1 / 50))


@pytest.mark.parametrize("num_prompts", [20, 50, 161])
def test_with_one_pair_a_prompt_every_further_wrong_pair_moves_both_ends_down(num_prompts):
    place_P = np.arange(num_prompts)
    ends = [share_interval((place_P >= wrong).astype(float), place_P) for wrong in range(num_prompts + 1)]
    assert np.all(np.diff(np.array(ends), axis=0) < 1e-12)
    assert np.all(np.diff(np.array(ends)[1:-1], axis=0) < 0)


def test_with_several_pairs_a_prompt_one_more_wrong_pair_hardly_raises_the_lower_end():
    rng = np.random.default_rng(0)
    for _ in range(400):
        num_prompts, most, share = int(rng.integers(20, 80)), int(rng.integers(2, 11)), rng.choice([0.9, 0.97, 0.99, 1.0])
        sizes_C = rng.integers(1, most + 1, size=num_prompts)
        prompts_P = np.repeat(np.arange(num_prompts), sizes_C)
        right_P = (rng.random(len(prompts_P)) < np.where(rng.random(num_prompts) < 0.5, share, 1.0)[prompts_P]).astype(float)
        one_less_P = right_P.copy()
        one_less_P[rng.choice(np.flatnonzero(right_P))] = 0.0
        assert share_interval(one_less_P, prompts_P).low <= share_interval(right_P, prompts_P).low + 0.02


def test_the_effective_number_of_pairs_does_not_jump_when_one_of_many_is_wrong():
    """20 prompts of 10 pairs, all right: n = 20. One wrong: n = 23.6, though the clustered error alone would make 200 of it."""
    right_P, prompts_P = np.ones(200), np.repeat(np.arange(20), 10)
    assert share_interval(right_P, prompts_P).low == pytest.approx(wilson_interval(20, 20).low)
    right_P[0] = 0.0
    assert share_interval(right_P, prompts_P).low == pytest.approx(wilson_interval(0.995 * 23.6, 23.6).low, abs=1e-4)


def test_equal_models_are_as_close_as_their_number_of_pairs_says():
    """161 equal pairs: +- z^2 / (n + z^2) = .0233; the same of both ends of the range."""
    z = 1.959964
    low, high = change_interval(np.zeros(161), np.arange(161))
    assert (low, high) == pytest.approx((-(z**2) / (161 + z**2), z**2 / (161 + z**2)))
    assert change_interval(np.ones(161), np.arange(161)) == pytest.approx(((161 - z**2) / (161 + z**2), 1.0))


def test_a_change_is_the_root_of_tango_s_score_test():
    """12 up, 2 down of 50: (12 - 2 - n d)^2 = z^2 n (2 q + d (1 - d)) at both ends, q of Tango (1998), section 3."""
    values_P = np.array([1.0] * 12 + [-1.0] * 2 + [0.0] * 36)
    for d in change_interval(values_P, np.arange(50)):
        b = -14 + (100 - 12 + 2) * d
        q = (math.sqrt(b * b + 8 * 50 * 2 * d * (1 - d)) - b) / 200
        assert (10 - 50 * d) ** 2 == pytest.approx(1.959964**2 * 50 * (2 * q + d * (1 - d)), rel=1e-6)


def test_the_interval_of_a_change_holds_zero_wherever_the_exact_test_does():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        prompts_P = rng.integers(40, size=80)
        values_P = rng.choice([-1.0, 0.0, 1.0], p=[0.03, 0.82, 0.15], size=80) * (rng.random(80) < 0.7)
        if sign_flip(values_P, prompts_P) > 0.05:
            low, high = change_interval(values_P, prompts_P)
            assert low <= 0 <= high
            held += 1
    assert 30 < held < 290
    backward, forward = change_interval(-values_P, prompts_P), change_interval(values_P, prompts_P)
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low))


def test_values_in_another_range_are_scaled_and_values_without_one_are_resampled():
    values_P, prompts_P = np.array([1.0, 5, 5, 5, 3, 5, 5, 5, 5, 5]), np.arange(10)
    low, high = mean_interval(values_P, prompts_P, support=Interval(1.0, 5.0), seed=0)
    inside = share_interval((values_P - 1) / 4, prompts_P)
    assert (low, high) == pytest.approx((1 + 4 * inside.low, 1 + 4 * inside.high))
    wide = np.random.default_rng(2).normal(size=400)
    low, high = mean_interval(wide, np.arange(400), support=None, seed=0)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_what_is_no_value_of_the_range_is_told():
    assert math.isnan(share_interval(np.array([math.nan]), np.array([0])).low)
    assert share_interval(np.array([1.0, 0.0]), np.array([7, 7])) == pytest.approx((0, 1), abs=0.06)
    with pytest.raises(ValueError, match="2 values but 3 clusters"):
        share_interval(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match=r"the value 3 is not in \[0, 1\]"):
        share_interval(np.full(5, 3.0), np.arange(5))
    with pytest.raises(ValueError, match=r"the value -2 is not in \[-1, 1\]"):
        mean_interval(np.array([-2.0, 0.0]), np.arange(2), support=CHANGE, seed=0)


def correlated(rng: np.random.Generator, share: float, sizes_C: np.ndarray, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    prompts_P, spread = np.repeat(np.arange(len(sizes_C)), sizes_C), 1 / correlation - 1
    chance_C = rng.beta(share * spread, (1 - share) * spread, size=len(sizes_C))
    return (rng.random(len(prompts_P)) < chance_C[prompts_P]).astype(float), prompts_P


LAWS = [(0.7, 60, 3, 0.9), (0.97, 50, 4, 0.3), (0.95, 161, 10, 0.6)]


@pytest.mark.parametrize(("share", "num_prompts", "most", "correlation"), LAWS)
def test_intervals_cover_the_truth_when_pairs_of_a_prompt_move_together(share, num_prompts, most, correlation):
    rng, covered = np.random.default_rng(5), 0
    for _ in range(500):
        right_P, prompts_P = correlated(rng, share, rng.integers(1, most + 1, size=num_prompts), correlation)
        low, high = share_interval(right_P, prompts_P)
        covered += low <= share <= high
    assert covered / 500 >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / 500)


def test_intervals_are_hardly_wider_than_the_clustered_normal_ones():
    rng = np.random.default_rng(6)
    for share, num_prompts, most, correlation in ((0.5, 50, 4, 0.3), (0.9, 20, 4, 0.3), (0.9, 161, 10, 0.6)):
        widths, usual = [], []
        for _ in range(200):
            right_P, prompts_P = correlated(rng, share, rng.integers(1, most + 1, size=num_prompts), correlation)
            low, high = share_interval(right_P, prompts_P)
            widths.append(high - low)
            usual.append(2 * 1.96 * clustered_error(right_P, prompts_P))
        assert np.mean(widths) <= 1.3 * np.mean(usual)


def test_an_interval_by_prompt_is_wider_than_one_by_pair_on_duplicated_prompts():
    right_P = np.repeat(np.random.default_rng(6).random(50) < 0.7, 4).astype(float)
    clustered, naive = share_interval(right_P, np.repeat(np.arange(50), 4)), share_interval(right_P, np.arange(200))
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(2.0, rel=0.15)  # sqrt(4)


def test_groups_that_share_prompts_have_the_interval_of_their_correlation():
    """Opposite on every prompt: the widths add up. Alike on every prompt: nothing is left. On prompts of their own: Pythagoras."""
    first_P, group_P, prompts_P = np.arange(40) % 4 < 2, np.arange(80) % 2 == 0, np.repeat(np.arange(40), 2)
    alike_P, opposite_P = np.repeat(first_P, 2).astype(float), (np.repeat(first_P, 2) == group_P).astype(float)
    width = 0.5 - share_interval(first_P.astype(float), np.arange(40)).low
    for values_P, clusters_P, times in (
        (alike_P, prompts_P, 0),
        (opposite_P, prompts_P, 2),
        (alike_P, np.arange(80), math.sqrt(2)),
    ):
        low, high = groups_interval(values_P, group_P, ~group_P, clusters_P)
        assert (low, high) == pytest.approx((-times * width, times * width), abs=1e-6)
    assert math.isnan(groups_interval(alike_P, group_P, np.zeros(80, bool), prompts_P).low)
