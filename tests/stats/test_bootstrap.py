"""The cluster bootstrap: what is drawn, and the laws of its intervals by seeded simulation."""

import math
import time

import numpy as np
import pytest

from assay.stats.bootstrap import auroc_interval, cluster_bootstrap, percentile_interval, resampled, resampled_sums
from assay.stats.metrics import NO_INTERVAL, Interval, auroc, wilson_interval


def test_as_many_clusters_are_drawn_as_there_are_each_as_often_as_any_other():
    counts_SC = resampled(lambda counts_SC: counts_SC, 7, seed=0, num_samples=5000)
    assert counts_SC.shape == (5000, 7)
    assert (counts_SC.sum(axis=1) == 7).all()
    assert counts_SC.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert counts_SC.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.1)  # of Binomial(7, 1/7)


def test_the_draws_do_not_depend_on_how_many_samples_are_held_at_once():
    whole = resampled(lambda counts_SC: counts_SC, 30, seed=3, num_samples=50)
    parts = resampled(lambda counts_SC: counts_SC, 30, seed=3, num_samples=50, width=10**6)
    np.testing.assert_array_equal(whole, parts)


def test_all_columns_of_sums_are_of_the_same_clusters():
    values_C = np.random.default_rng(0).integers(0, 3, size=900).astype(float)
    for columns_CK in (values_C[:, None] * [1.0, 2.0], (values_C + np.arange(900) / 1e4)[:, None] * [1.0, 2.0]):  # few kinds, many
        sums_S2 = resampled_sums(columns_CK, seed=0, num_samples=400)
        assert sums_S2[:, 1] == pytest.approx(2 * sums_S2[:, 0])
        assert sums_S2[:, 0].mean() == pytest.approx(columns_CK[:, 0].sum(), rel=0.01)
        assert sums_S2[:, 0].std() == pytest.approx(columns_CK[:, 0].std() * 30, rel=0.1)  # sqrt(900) draws


def test_a_percentile_interval_leaves_samples_without_a_figure_out():
    assert percentile_interval(np.array([*range(101), math.nan])) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.arange(101.0), level=0.8) == pytest.approx((10, 90))
    assert percentile_interval(np.full(3, math.nan)) == pytest.approx(NO_INTERVAL, nan_ok=True)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bootstrap_of_equal_values_does_not_claim_zero_width(value):
    interval = cluster_bootstrap(np.full(40, value), np.repeat(np.arange(20), 2), seed=0)
    assert interval == wilson_interval(20 * value, 20)
    assert interval.high - interval.low > 0.1


def test_bootstrap_of_equal_values_uses_the_support_or_is_nan():
    zeros, clusters = np.zeros(50), np.arange(50)
    low, high = cluster_bootstrap(zeros, clusters, seed=0, support=Interval(-1.0, 1.0))
    assert low == pytest.approx(-high)
    assert high == pytest.approx(2 * wilson_interval(25, 50).high - 1)
    assert math.isnan(cluster_bootstrap(zeros, clusters, seed=0, support=None).low)
    assert math.isnan(cluster_bootstrap(np.full(5, 3.0), np.arange(5), seed=0).low)


def test_one_cluster_has_a_wide_interval_and_no_value_none():
    assert cluster_bootstrap(np.array([1.0, 0.0]), np.array([7, 7]), seed=0) == wilson_interval(0.5, 1)
    assert math.isnan(cluster_bootstrap(np.array([math.nan]), np.array([0]), seed=0).low)
    with pytest.raises(ValueError, match="2 values but 3 clusters"):
        cluster_bootstrap(np.ones(2), np.ones(3), seed=0)


def test_bootstrap_covers_the_truth_when_clusters_move_together():
    rng = np.random.default_rng(5)
    clusters_P = np.repeat(np.arange(60), 3)
    covered = 0
    for seed in range(200):
        right_P = np.repeat(rng.random(60) < 0.7, 3).astype(float)
        low, high = cluster_bootstrap(right_P, clusters_P, seed=seed, num_samples=500)
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_clustered_interval_is_wider_than_the_naive_one_on_duplicated_prompts():
    right_P = np.repeat(np.random.default_rng(6).random(50) < 0.7, 4).astype(float)
    clustered = cluster_bootstrap(right_P, np.repeat(np.arange(50), 4), seed=0)
    naive = cluster_bootstrap(right_P, np.arange(200), seed=0)
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(2.0, rel=0.15)  # sqrt(4)


def test_both_ways_of_resampling_agree_and_take_any_labels():
    rng = np.random.default_rng(7)
    values_P, names = rng.integers(0, 2, size=600).astype(float), np.array([f"prompt {i}" for i in range(600)])
    counted = cluster_bootstrap(values_P, names, seed=0)
    gathered = cluster_bootstrap(values_P + rng.normal(scale=1e-9, size=600), names, seed=0)  # 600 different sums
    assert counted == pytest.approx(gathered, abs=0.01)
    assert counted == cluster_bootstrap(values_P, names, seed=0)


def test_bootstrap_of_ten_thousand_pairs_is_quick():
    values_P = np.random.default_rng(8).normal(size=10_000)
    start = time.perf_counter()
    low, high = cluster_bootstrap(values_P, np.arange(10_000), seed=0, support=None)
    assert time.perf_counter() - start < 3
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.1)


def test_auroc_interval_covers_and_knows_perfect_separation():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        shared = rng.normal(size=60)
        positive = np.repeat(rng.random(60) < 0.5, 3)
        score = np.repeat(shared, 3) + rng.normal(size=180) + positive
        low, high = auroc_interval(score, positive, np.repeat(np.arange(60), 3), seed=seed)
        covered += low <= 0.691 <= high  # P(N(1, 2) > N(0, 2)) = Phi(1 / 2)
    assert covered >= 85
    low, high = auroc_interval(np.arange(20.0), np.arange(20) >= 10, np.arange(20), seed=0)
    assert (auroc(np.arange(20.0), np.arange(20) >= 10), high) == (1.0, 1.0)
    assert 0.8 < low < 0.9
    assert math.isnan(auroc_interval(np.arange(3.0), np.ones(3), np.arange(3), seed=0).low)
